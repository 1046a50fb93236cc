"""`paretune predict` on many images: folders, tables, files that cannot be read, and an output that survives a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_files import a_full_disk, names
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.core.target_units import units_of
from paretune.data.pictures import Pictures
from paretune.errors import UsageError
from paretune.training.answers import Table
from paretune.training.predict import names_of

ODD = "\x1b[31mred"


def cli(*words):
    return CliRunner().invoke(app, ["predict", *map(str, words), "--device", "cpu"])


def answered(*words):
    done = cli(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def refused(*words):
    done = cli(*words)
    assert (done.exit_code, done.stdout) == (2, ""), (done.output, done.exception)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paretune: ")]
    return line


def saved(folder, task, classes):
    model = pt.adapt("paretune_tiny", classes=classes, task=task)
    with torch.no_grad():
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if ".head." in name and weight.ndim == 2:
                weight.normal_(std=0.1)
    for units in units_of(model):
        units.set(torch.zeros(len(classes)), torch.ones(len(classes)))
    pt.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run") / "run", "multiclass", ["ant", "bee", ODD])


@pytest.fixture
def photos(tmp_path):
    """Seven images in folders, one damaged file, and one that is hidden."""
    for i, name in enumerate(("b/1.png", "b/2.png", "a.png", "b.png", "c/d/3.png", "c/4.jpg", "c/.5.png", "z.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (30 * i, 90, 200 - 20 * i)).save(path)
    (tmp_path / "photos" / "c" / "bad.png").write_text("hello")
    return tmp_path / "photos"


SORTED = ["a.png", "b/1.png", "b/2.png", "b.png", "c/4.jpg", "c/bad.png", "c/d/3.png", "z.png"]


def listed(folder, paths, table="list.csv", **more):
    with (folder / table).open("w", newline="") as file:
        csv.writer(file).writerows([["path", "note"], *([path, "x"] for path in paths)])
    return folder / table


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def partial(out):
    return out.parent / f".paretune-{out.name}.partial"


# ------------------------------------------------------------------------------------------------------------- what


def test_folders_files_and_tables_stand_for_their_images_in_order(photos):
    table = listed(photos, ["b/2.png", "gone.png", str(photos / "a.png")])
    found = list(Pictures([photos / "c", photos / "a.png", table]))
    ends = ["c/4.jpg", "c/bad.png", "c/d/3.png", "a.png", "b/2.png", "gone.png", "a.png"]
    assert found == [str(photos / name) for name in ends]
    assert list(Pictures([photos])) == [str(photos / name) for name in SORTED]
    assert sorted(map(Path, Pictures([photos]))) == list(map(Path, Pictures([photos])))
    (photos / "c" / "again").symlink_to(photos)
    assert Pictures([photos]).count() == len(SORTED), "a loop is left out"


def test_what_holds_no_image_is_refused(run, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "there is no image in" in refused(run, tmp_path / "empty")
    (tmp_path / "a.csv").write_text("file\na.png\n")
    assert "needs a header with the column path, and rows; its columns are file" in refused(run, tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("path,x\na.png\n")
    assert "row 2: not as many values" in refused(run, tmp_path / "a.csv")
    (tmp_path / "twin").symlink_to(photos / "b")
    with pytest.raises(UsageError, match="are the same folder"):
        Pictures([photos / "b", tmp_path / "twin"]).count()


# ------------------------------------------------------------------------------------------- files that cannot be read


def test_a_file_that_cannot_be_read_is_a_row_with_an_error(run, photos):
    done = answered(run, photos, "--json", "--batch-size", 3, "--workers", 2)
    found = json.loads(done.stdout)["predictions"]
    assert [entry["path"] for entry in found] == [str(photos / name) for name in SORTED]
    (bad,) = [entry for entry in found if "error" in entry]
    assert bad == {"path": str(photos / "c/bad.png"), "error": bad["error"]}
    assert "not an image file" in bad["error"]
    assert done.stdout == json.dumps({"predictions": found}, indent=2) + "\n"
    assert "1 of 8 images could not be read" in done.stderr
    assert "8 images, " in done.stderr
    text = answered(run, photos).stdout.splitlines()
    assert len(text) == 8
    assert "c/bad.png: cannot be read (not an image file" in text[5]


def test_the_exit_code_is_2_if_no_file_can_be_read(run, photos):
    done = cli(run, photos / "c" / "bad.png", photos / "nowhere.png")
    assert done.exit_code == 2
    assert "nowhere.png: cannot be read (no such file)" in done.stdout
    assert "paretune: none of 2 images could be read" in done.stderr


def test_names_that_a_terminal_obeys_never_reach_it_and_a_table_is_text(run, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    name = os.fsencode(folder) + b"/a\x1b[2J\n\xff.png"
    Image.new("RGB", (24, 24)).save(folder / "b.png")
    os.rename(folder / "b.png", name)
    (folder / "bad\x07.png").write_text("no")
    for words in ((), ("--json",), ("--out", tmp_path / "o.csv"), ("--out", tmp_path / "o.jsonl")):
        assert not {"\x1b", "\x07"} & set(answered(run, folder, *words).output)
    text = (tmp_path / "o.csv").read_bytes().decode("utf-8")
    assert all(c.isprintable() or c == "\n" for c in text)
    good, bad = rows(tmp_path / "o.csv")
    assert good["path"].endswith("/a\\x1b[2J\\n\\udcff.png")
    assert "\\x1b[31mred" in good.values()
    assert bad["path"].endswith("bad\\x07.png")
    first = json.loads((tmp_path / "o.jsonl").read_text(encoding="ascii").splitlines()[0])
    assert os.fsencode(first["path"]) == name


# --------------------------------------------------------------------------------------------------------- the table


def test_a_table_has_the_columns_of_its_task(run, photos, tmp_path):
    many = ["--batch-size", 3]
    answered(run, photos, "--out", tmp_path / "a.csv", "--top", 2, *many)
    found = rows(tmp_path / "a.csv")
    assert list(found[0]) == ["path", "class", "probability", "class_2", "probability_2", "error"]
    entries = json.loads(answered(run, photos, "--top", 2, "--json", *many).stdout)["predictions"]
    assert [row["error"] for row in found] == [entry.get("error", "") for entry in entries]
    assert float(found[0]["probability_2"]) == pytest.approx(entries[0]["classes"][1]["probability"])
    answered(run, photos, "--out", tmp_path / "a.jsonl", "--top", 2, *many)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == entries

    labels = saved(tmp_path / "labels", "multilabel", ["sky", "tree"])
    answered(labels, photos / "a.png", "--out", tmp_path / "labels.csv", "--top", 2)
    (row,) = rows(tmp_path / "labels.csv")
    assert list(row) == ["path", "labels", "probability_sky", "probability_tree", "error"]
    best = "sky|tree" if row["probability_sky"] > row["probability_tree"] else "tree|sky"
    assert row["labels"] == best

    numbers = saved(tmp_path / "numbers", "regression", ["age", "error", "path"])
    answered(numbers, photos / "a.png", "--out", tmp_path / "numbers.csv")
    (row,) = rows(tmp_path / "numbers.csv")
    (entry,) = json.loads(answered(numbers, photos / "a.png", "--json").stdout)["predictions"]
    assert list(row) == ["path", "age", "error_", "path_", "error"]
    assert float(row["error_"]) == pytest.approx(entry["numbers"]["error"])


def test_a_model_with_the_backbones_own_head_has_columns_too():
    model = pt.adapt("paretune_tiny")
    assert list(Table(model.task, names_of(model), None).columns)[-2:] == ["probability_5", "error"]


def test_parquet_has_the_same_rows_and_types(run, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("a.csv", "a.parquet"):
        answered(run, photos, "--out", tmp_path / name)
    found = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [{key: "" if v is None else v if isinstance(v, str) else f"{v:.9g}" for key, v in row.items()}
            for row in found] == rows(tmp_path / "a.csv")  # fmt: skip
    assert names(tmp_path) == ["a.csv", "a.parquet", "photos"]


def test_what_cannot_be_written_is_refused_before_the_work(run, photos, tmp_path, monkeypatch):
    assert "ends in .csv, .jsonl, .parquet" in refused(run, photos, "--out", tmp_path / "a.txt")
    assert "there is no folder" in refused(run, photos, "--out", tmp_path / "no" / "a.csv")
    assert "--overwrite is for the file of --out" in refused(run, photos, "--overwrite")
    (tmp_path / "a.csv").write_text("mine")
    assert "exists already: name another file, or add --overwrite" in refused(run, photos, "--out", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"
    answered(run, photos, "--out", tmp_path / "a.csv", "--overwrite")
    assert len(rows(tmp_path / "a.csv")) == 8
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install paretune[hf]" in refused(run, photos, "--out", tmp_path / "a.parquet")
    assert names(tmp_path) == ["a.csv", "photos"]


# ---------------------------------------------------------------------------------------------------------- going on


def test_a_full_disk_is_one_sentence_and_the_next_command_goes_on(run, photos, tmp_path):
    table, out = listed(photos, ["a.png", "c/bad.png", "b.png"] * 8), tmp_path / "a.csv"
    with a_full_disk(1000):
        done = cli(run, table, "--out", out)
    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-1].endswith("make room")
    assert f"{out} was not written" in done.stderr
    assert not out.exists()
    done = answered(run, table, "--out", out)
    assert "of 24 images are done, going on behind them" in done.stderr
    assert "8 of 24 images could not be read" in done.stderr
    assert [row["path"] for row in rows(out)] == list(Pictures([table]))
    assert names(tmp_path) == ["a.csv", "photos"]


def test_parquet_that_has_no_room_is_made_of_the_same_rows_later(run, photos, tmp_path):
    pytest.importorskip("pyarrow")
    out = tmp_path / "a.parquet"
    with a_full_disk(2000):  # the rows have room
        done = cli(run, photos, "--out", out)
    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-1].endswith("make room")
    assert names(tmp_path) == [partial(out).name, "photos"]
    assert "8 of 8 images are done" in answered(run, photos, "--out", out).stderr
    assert names(tmp_path) == ["a.parquet", "photos"]


def begun(run, photos, out):
    """An interrupted `predict --out`: some whole rows, and a torn one."""
    with a_full_disk(700):
        assert cli(run, listed(photos, ["a.png", "b.png"] * 10), "--out", out).exit_code == 1
    return photos / "list.csv"


def test_rows_of_something_else_are_refused_with_what_to_do(run, photos, tmp_path):
    out = tmp_path / "a.csv"
    table = begun(run, photos, out)
    lines = partial(out) / "lines"
    before = lines.read_bytes()
    other = saved(tmp_path / "other", "multiclass", ["ant", "bee", "cow"])
    said = refused(other, table, "--out", out)
    assert "made with another model" in said
    assert "add --overwrite to begin anew" in said
    assert "another top, columns" in refused(run, table, "--out", out, "--top", 1)
    listed(photos, ["a.png", "z.png"] * 10)
    assert "the images have changed since" in refused(run, table, "--out", out)
    listed(photos, ["a.png"])
    assert "is not there any more; remove the folder" in refused(run, table, "--out", out)
    assert lines.read_bytes() == before
    listed(photos, ["a.png", "b.png"] * 10)
    lines.write_bytes(before.replace(b"ant", b'an"t,'))
    assert "is damaged: remove the folder" in refused(run, table, "--out", out)
    (partial(out) / "head.json").write_text("{")
    assert "is not valid JSON" in refused(run, table, "--out", out)
    (partial(out) / "head.json").write_text("{}")
    answered(other, table, "--out", out, "--overwrite")
    assert len(rows(out)) == 20
    assert not partial(out).exists()


def test_two_commands_do_not_write_one_file(run, photos, tmp_path):
    from paretune.files import locked

    out = tmp_path / "a.csv"
    begun(run, photos, out)
    with locked(partial(out) / "lock"):
        assert "another process is writing" in refused(run, photos / "list.csv", "--out", out)
    assert (partial(out) / "lines").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", pytest.param("jsonl", marks=pytest.mark.exhaustive)])
def test_a_killed_command_goes_on_behind_its_last_whole_row(run, photos, tmp_path, ending):
    table, out = listed(photos, ["a.png", "c/bad.png", "b/1.png", "c/4.jpg"] * 100), tmp_path / f"a.{ending}"
    words = [str(word) for word in (run, table, "--out", out, "--batch-size", 1)]
    lines = partial(out) / "lines"
    command = [sys.executable, "-m", "paretune", "predict", *words, "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        while not lines.exists() or lines.read_bytes().count(b"\n") < 20:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    kept = lines.read_bytes()
    with lines.open("ab") as file:
        file.write(b'{"path": "torn')
    done = answered(*words)
    assert "of 400 images are done, going on behind them" in done.stderr
    assert "100 of 400 images could not be read" in done.stderr
    assert out.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert names(tmp_path) == [out.name, "photos"]
    answered(run, table, "--out", tmp_path / f"b.{ending}", "--batch-size", 1)
    assert (tmp_path / f"b.{ending}").read_bytes() == out.read_bytes()
