"""train, eval and predict on labels and numbers, and the picture of what is taken for what."""

import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.errors import UsageError
from paretune.show.columns import SCORES
from paretune.show.confusion import draw_confusion, plan
from paretune.show.rows import Row
from paretune.show.scatters import scatters
from paretune.show.sources import read_source
from paretune.show.worst import caption, draw_worst
from paretune.training.metrics import interval
from paretune.training.predict import predict
from paretune.training.worst import Mistake, Worst

FAST = ("--model", "paretune_tiny", "--recipe", "linear", "--epochs", "2", "--batch-size", "8", "--workers", "0",
        "--device", "cpu", "--lr", "0.01")  # fmt: skip


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def answered(*args):
    done = cli(*args)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(*args):
    done = cli(*args)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paretune: ")]
    return line


def draw_table(folder, columns, answers):
    """A CSV and its pictures: a gray one per row of answers, brighter with each."""
    folder.mkdir()
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", *columns])
        for i, row in enumerate(answers):
            Image.new("RGB", (32, 32), (5 * i, 100, 255 - 5 * i)).save(folder / f"{i}.png")
            writer.writerow([f"{i}.png", "val" if i % 3 == 0 else "train", *row])
    return folder / "table.csv"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """(table, run) of pictures with labels."""
    root = tmp_path_factory.mktemp("labelled")
    table = draw_table(root / "data", ("bright", "odd"), [(int(i > 15), i % 2) for i in range(30)])
    answered("train", "--data", table, *FAST, "--class-weights", "auto", "--out", root / "run")
    return table, root / "run"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(table, run) of pictures with numbers."""
    root = tmp_path_factory.mktemp("measured")
    table = draw_table(root / "data", ("level", "price"), [(i / 30, 1000 * i + 500) for i in range(30)])
    said = answered("train", "--data", table, *FAST, "--epochs", "20", "--out", root / "run")
    assert re.search(r"best epoch \d+ of 20: validation R2 -?\d+\.\d+, loss", said)
    return table, root / "run"


@pytest.fixture(scope="module")
def classed(tmp_path_factory):
    """(folder, run) of pictures of three classes."""
    root = tmp_path_factory.mktemp("classed")
    for name, gray in (("dark", 30), ("middle", 120), ("bright", 220)):
        (root / "data" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (32, 32), (gray + 4 * i,) * 3).save(root / "data" / name / f"{i}.png")
    answered("train", "--data", root / "data", *FAST, "--out", root / "run")
    return root / "data", root / "run"


def test_labels_are_trained_scored_and_predicted(labelled):
    table, run = labelled
    record = json.loads((run / "record.json").read_text())
    assert (record["schedule"]["class_weights"], pt.load(run).task) == ("auto", "multilabel")
    found = json.loads(answered("eval", run, "--data", table, "--device", "cpu", "--json"))
    assert (found["task"], found["main"], found["images"]) == ("multilabel", "mean_average_precision", 10)
    assert found["mean_average_precision"] == pytest.approx(record["best_val_mean_average_precision"], abs=1e-6)
    text = answered("eval", run, "--data", table, "--device", "cpu")
    assert re.search(r"label +positives +average precision +F1", text)
    assert re.search(r"val mean average precision \d+\.\d\d%, loss 0\.\d+, 10 images", text)
    assert re.search(r"val micro F1 \S+, macro F1 \S+", text)


def test_predict_names_the_labels_above_a_half_or_as_many_as_asked_for(labelled):
    table, run = labelled
    picture = table.parent / "29.png"
    (one,) = json.loads(answered("predict", run, picture, "--top", 2, "--device", "cpu", "--json"))["predictions"]
    assert {entry["label"] for entry in one["labels"]} == {"bright", "odd"}
    (likely,) = json.loads(answered("predict", run, picture, "--device", "cpu", "--json"))["predictions"]
    assert likely["labels"] == [entry for entry in one["labels"] if entry["probability"] > 0.5]
    text = answered("predict", run, *table.parent.glob("*.png"), "--device", "cpu")
    lines = r"(.*\.png: (no label above 50 %|((bright|odd) \d+\.\d%(, )?)+)\n){30}"
    assert re.fullmatch(lines, text)


def test_numbers_are_trained_scored_and_predicted_in_their_own_units(measured):
    table, run = measured
    text = answered("eval", run, "--data", table, "--device", "cpu")
    assert re.search(r"number +MAE +RMSE +R2 +Pearson", text)
    assert re.search(r"val R2 \S+, loss \S+, 10 images, \d+ images/s\nval MAE \S+, RMSE \S+, Pearson \S+\n", text)
    (entry,) = json.loads(answered("predict", run, table.parent / "29.png", "--device", "cpu", "--json"))["predictions"]
    assert list(entry["numbers"]) == ["level", "price"]
    assert 5_000 < entry["numbers"]["price"] < 60_000
    assert 0 < entry["numbers"]["level"] < 2
    line = answered("predict", run, table.parent / "29.png", "--device", "cpu")
    assert re.fullmatch(r".*29\.png: level \S+, price \S+\n", line)
    assert "leave out top" in refused("predict", run, table.parent / "29.png", "--top", 1, "--device", "cpu")


def test_the_task_is_what_the_data_say_and_another_one_is_refused(labelled, classed, tmp_path):
    table, _ = labelled
    folder, _ = classed
    begin = ("train", *FAST, "--out", tmp_path / "out")
    assert "unknown task 'multilabl': did you mean multilabel" in refused(
        *begin, "--data", table, "--task", "multilabl"
    )
    assert "has the task multiclass, not regression" in refused(*begin, "--data", folder, "--task", "regression")
    assert "must be 'none' or 'auto'" in refused(*begin, "--data", folder, "--class-weights", "some")
    numbers = answered(*begin, "--data", table, "--task", "regression", "--epochs", 1)  # 0 and 1 are numbers too
    assert "validation R2" in numbers
    assert pt.load(tmp_path / "out").task == "regression"


def test_eval_draws_what_is_taken_for_what_and_names_the_worst(classed, tmp_path):
    folder, run = classed
    ask = ("eval", run, "--data", folder, "--split", "all", "--device", "cpu", "--worst", 2)
    found = json.loads(answered(*ask, "--confusion", tmp_path / "a.png", "--json"))
    assert np.asarray(found["confusion"]).sum(1).tolist() == [8, 8, 8]
    assert found["confusion_picture"] == str(tmp_path / "a.png")
    off = [images for i, row in enumerate(found["confusion"]) for j, images in enumerate(row) if i != j and images]
    assert [entry["images"] for entry in found["worst"]] == sorted(off, reverse=True)[:2]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300
    text = answered(*ask, "--confusion", tmp_path / "a.svg")
    assert re.search(r"class +images +accuracy +precision +F1", text)
    assert re.search(
        r"all accuracy \S+% \(\S+ to \S+\), loss \S+, 24 images, \d+ images/s\nall balanced accuracy \S+%, macro F1",
        text,
    )
    assert ("most frequent wrong answers" in text) == bool(off)
    assert f"saved in {tmp_path / 'a.svg'}" in text


def test_eval_says_how_sure_its_accuracy_is(classed):
    folder, run = classed
    found = json.loads(answered("eval", run, "--data", folder, "--split", "all", "--device", "cpu", "--json"))
    assert found["accuracy_interval"] == list(interval(found["accuracy"], 24))
    assert "worst_images" not in found


def test_the_worst_images_are_the_wrong_ones_that_the_model_is_surest_of(classed, tmp_path):
    folder, run = classed
    model = pt.load(run)
    answers = {path: best[0] for path, best in predict(model, sorted(folder.rglob("*.png")), device="cpu")}
    wrong = {path: best for path, best in answers.items() if Path(path).parent.name != best[0]}
    ask = ("eval", run, "--data", folder, "--split", "all", "--device", "cpu")
    found = json.loads(answered(*ask, "--worst", 30, "--sheet", tmp_path / "a.png", "--json"))
    assert {entry["path"] for entry in found["worst_images"]} == set(wrong)
    sure = [entry["probability"] for entry in found["worst_images"]]
    assert sure == sorted(sure, reverse=True)
    for entry in found["worst_images"]:
        assert entry["class"] == Path(entry["path"]).parent.name
        assert (entry["answer"], pytest.approx(entry["probability"], abs=1e-5)) == wrong[entry["path"]]
    assert found.get("sheet") == (str(tmp_path / "a.png") if wrong else None)
    text = answered(*ask, "--worst", 1)
    assert ("wrong answers that the model is surest of" in text) == bool(wrong)


def test_the_largest_errors_of_numbers_are_shown_by_path_and_drawn(measured, tmp_path):
    table, run = measured
    ask = ("eval", run, "--data", table, "--device", "cpu", "--worst", 3)
    found = json.loads(answered(*ask, "--sheet", tmp_path / "a.png", "--json"))
    assert (len(found["worst_images"]), found["worst"]) == (3, [])
    for entry in found["worst_images"]:
        i = int(Path(entry["path"]).stem)
        assert entry["target"] == pytest.approx(i / 30 if entry["number"] == "level" else 1000 * i + 500)
        assert entry["error"] == pytest.approx(entry["answer"] - entry["target"])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 2 * 160
    assert re.search(r"largest errors\s+image +number +target +answer +error", answered(*ask))


def test_the_worst_are_kept_over_batches_and_right_answers_are_none_of_them():
    model = SimpleNamespace(classes=["a", "b"], task="multiclass")
    worst, steps = Worst(model, 2), torch.tensor([[2.0, 0], [5, 0], [9, 0], [0, 1], [0, 3]])
    for part in (slice(0, 2), slice(2, 5)):
        worst.add(steps[part], torch.tensor([1, 1, 0, 0, 1])[part])
    assert [one.image for one in worst.mistakes] == [1, 0]
    assert worst.mistakes[0].facts == {"class": "b", "answer": "a", "probability": pytest.approx(0.9933, abs=1e-4)}


def test_a_sheet_is_equal_for_equal_pictures_and_shows_names_as_text(tmp_path):
    pictures = [Image.new("RGB", size, "red") for size in ((16, 16), (500, 20), (3, 900))]
    words = caption("a\x1b.png", Mistake(0, 0.5, {"class": "x\ny", "answer": "z", "probability": 0.5}))
    assert words == "a\\x1b.png\nis: x\\ny\nanswer: z, 50.0%"
    for name in ("a", "b"):
        draw_worst(pictures, [words] * 3, "note", tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_that_cannot_be_is_refused_before_the_work(classed, labelled, tmp_path):
    folder, run = classed
    assert "cannot be drawn" in refused("eval", run, "--data", folder, "--confusion", tmp_path / "a.jpeg")
    assert "there is no folder" in refused("eval", run, "--data", folder, "--confusion", tmp_path / "no" / "a.png")
    table, run = labelled
    assert "leave out --confusion" in refused("eval", run, "--data", table, "--confusion", tmp_path / "a.png")
    said = refused("eval", run, "--data", table, "--worst", 3)
    assert "task is multilabel: --worst and --sheet are not available for it" in said
    for words, sentence in (
        (("--sheet", tmp_path / "a.png"), "say how many, as in --worst 20"),
        (("--worst", 3, "--sheet", tmp_path / "a.jpg"), "ends in .png"),
        (("--worst", 3, "--sheet", tmp_path / "no" / "a.png"), "there is no folder"),
        (("--worst", 1001, "--sheet", tmp_path / "a.png"), "room for 1,000 images"),
    ):
        assert sentence in refused("eval", classed[1], "--data", folder, *words)


# ---------------------------------------------------------------------------------------------------------- the picture


def counts(classes, images=20):
    """Mostly right answers, and a few wrong ones."""
    rng = np.random.default_rng(0)
    return np.diag(rng.integers(1, images, classes)) + rng.integers(0, 2, (classes, classes))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_equal_counts_are_equal_pictures(tmp_path, ending):
    for name in ("a", "b"):
        draw_confusion(counts(4).tolist(), "wxyz", "val", tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_picture_says_counts_and_names(tmp_path):
    matrix = counts(3)
    matrix[1] = 0  # a class without images
    draw_confusion(
        matrix.tolist(), ["ant", "a name that is much too long for the margin", "cow"], "title", tmp_path / "a.svg"
    )
    texts = [e.text for e in ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"ant", "cow", "title", "answer", "true class", "right", "wrong"} <= set(texts)
    assert "a name that is much too…" in texts
    assert {str(n) for n in matrix.flatten() if n} <= set(texts)
    assert "0" not in texts


def test_what_does_not_fit_is_left_out_and_the_picture_stays_of_a_sensible_size():
    few, some, many, most = (plan(counts(n), [f"class {i}" for i in range(n)]) for n in (2, 30, 100, 400))
    assert few.level
    assert few.counts == few.names == 10
    assert some.counts > 0
    assert (many.counts, many.names > 0) == (0, True)
    assert (most.counts, most.names) == (0, 0)
    assert 1.4 <= few.side < some.side <= many.side == most.side == 10
    assert plan(counts(20) * 10**6, ["a"] * 20).counts < plan(counts(20), ["a"] * 20).counts


def test_a_picture_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space"):
        draw_confusion(counts(2).tolist(), "ab", "val", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="name a file that ends in"):
        draw_confusion(counts(2).tolist(), "ab", "val", tmp_path / "a.gif")


# ------------------------------------------------------------------------------------------------------- two processes


@pytest.mark.slow
def test_two_processes_score_every_image_once_and_in_the_same_units(measured, tmp_path):
    table, _ = measured
    launch = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 -m paretune train"
    command = [*launch.split(), "--data", str(table), *FAST, "--recipe", "lora", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # 10 images to validate: 8 + 2
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    alone = json.loads(answered("eval", tmp_path, "--data", table, "--device", "cpu", "--json"))
    assert said[f"val_{alone['main']}"] == pytest.approx(alone[alone["main"]], abs=1e-4)
    assert said["val_loss"] == pytest.approx(alone["loss"], abs=1e-5)


def test_a_report_shows_each_task_its_own_score(labelled, measured, tmp_path):
    page = tmp_path / "page.html"
    answered("report", labelled[1], measured[1], "--out", page)
    for run, key, head in ((labelled[1], "mean_average_precision", "mean AP"), (measured[1], "r2", "R2")):
        (row,) = read_source(run).rows
        record = json.loads((run / "record.json").read_text())
        assert row.figures[key] == record[f"best_val_{key}"]
        assert set(row.figures).isdisjoint(set(SCORES) - {key})
        assert f">{head}<" in re.sub(r"\s*([<>])\s*", r"\1", page.read_text())
    assert ">accuracy<" not in page.read_text()


def test_scores_of_a_kind_make_a_chart():
    rows = [
        Row(name, name, {score: value, "macs": macs}, scored="40 images")
        for name, score, value, macs in (
            ("a", "r2", 0.5, 1e9), ("b", "r2", 0.75, 2e9), ("c", "mean_average_precision", 0.5, 1e9),
            ("d", "mean_average_precision", 0.625, 2e9), ("e", "accuracy", 0.5, 1e9),
        )
    ]  # fmt: skip
    labels, numbers = scatters(rows, {row.name: i for i, row in enumerate(rows)})
    assert (labels.y_name, [dot.point.label for dot in labels.dots]) == ("mean AP on 40 images", ["c", "d"])
    assert (numbers.y_name, [dot.point.label for dot in numbers.dots]) == ("R2 on 40 images", ["a", "b"])
    assert "0.75 at 2.00" in numbers.dots[1].point.title
    assert "62.50 % at 2.00" in labels.dots[1].point.title
