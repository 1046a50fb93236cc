"""`paretune report`: the front, the readers, the charts, the page, and the page in a browser."""

import functools
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from ledgers import row as result
from ledgers import write
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.config import to_json
from paretune.measure.cost import cost
from paretune.show.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    cost_and_gain,
    promise_and_clock,
    round_numbers,
    steps,
)
from paretune.show.columns import COLUMNS, percent, present, significant
from paretune.show.curves import curves
from paretune.show.frontier import frontier
from paretune.show.models import joined
from paretune.show.report import report
from paretune.show.runs import spoken
from paretune.show.settings import settings
from paretune.show.sources import KINDS, read_source, read_sources
from paretune.training.metrics import interval

DEMO = Path(__file__).parents[1] / "bench" / "results" / "demo.json"
EVIL = "<script>alert(1)</script>"


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(done):
    """The one sentence on stderr."""
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paretune: ")]
    return line


def a_run(folder, recipe="sparse-tuning", accuracy=0.875, images=40, data="f00d", **record):
    """A folder as training leaves it, of a model that has not been trained."""
    torch.manual_seed(0)
    chosen = pt.recipe(recipe)
    model = pt.adapt("paretune_tiny", chosen.adapters, chosen.reducer, ["ash", "oak"], pretrained=True)
    pt.save(model, folder)
    seen = {"path": "/somewhere/leaves", "images": images, "fingerprint": data}
    machine = {
        "device": "cpu",
        "device_name": "a processor",
        "platform": "Linux",
        "cores": 4,
        "threads": 2,
        "torch": "2",
    }
    record = {
        "recipe": recipe, "set": [], "best_val_accuracy": accuracy, "best_epoch": 2, "seconds": 7.0, "seed": 0,
        "schedule": {"epochs": 3, "lr": 0.01, "augment": "none"}, "data": {"train": seen, "val": seen},
        "environment": machine, **record,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@functools.cache
def priced(model, name):
    """(cost, settings) of a contestant, as JSON values."""
    chosen = pt.Recipe(name, "") if name == "timm" else pt.recipe(name)
    found = cost(pt.adapt(model, chosen.adapters, chosen.reducer, 100)).to_dict()
    methods = {
        "adapters": [to_json(one) for one in chosen.adapters],
        "reducer": chosen.reducer and to_json(chosen.reducer),
    }
    return found, None if name == "timm" else methods


def a_bench(path, recipes=("sparse-tuning", "lora"), batches=(1, 8), model="paretune_tiny", **changes):
    """A file as `paretune bench --json` leaves it, with made-up times."""
    rows = []
    for batch in batches:
        for i, name in enumerate(("timm", *recipes)):
            found, settings = priced(model, name)
            ratio, wall = found["macs"] / priced(model, "timm")[0]["macs"], 1 + 0.1 * i
            times = {
                "seconds": [0.01], "median": 0.01, "quartiles": [0.01, 0.01], "ratio": wall, "ratio_quartiles": None,
                "ms_per_image": 9 * wall / batch, "images_per_second": 111 * batch / wall,
            }  # fmt: skip
            memory = {"saved_bytes": 10**6 * batch, "saved_ratio": None, "peak_rss": None,
                      "cuda_peak_forward": None, "cuda_peak_step": None}  # fmt: skip
            rows.append({"recipe": name, "batch": batch, "settings": settings, "cost": found, "macs_ratio": ratio,
                         "forward": times, "wall_per_macs": wall / ratio, "step": None, "memory": memory,
                         "error": None})  # fmt: skip
    machine = {"device": "cpu", "name": "a processor", "threads": 1, "cores": 2, "platform": "Linux", "torch": "2.15.0"}
    content = {"kind": "bench", "version": 1, "date": "2026-11-21T05:00:00+00:00", "machine": machine, "model": model,
               "image_size": priced(model, "timm")[0]["image_size"], "dtype": "float32", "compile": False,
               "train": False, "merged": False, "rounds": 1, "baseline": "timm", "complete": True, "rows": rows,
               **changes}  # fmt: skip
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two runs, a bench that timed one of them, and an image, whose names hold HTML."""
    folder = tmp_path_factory.mktemp("inputs")
    sparse = a_run(folder / "a & <b>")
    plain = a_run(folder / "plain", "adaptformer", 0.9, set=[EVIL])
    bench = a_bench(folder / "bench.json")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "x < y.png")
    return sparse, plain, bench, folder / "x < y.png"


@pytest.fixture(scope="module")
def page(inputs):
    """The page of all inputs."""
    *sources, image = inputs
    return report(sources, [image], f"Leaves {EVIL}")


# --------------------------------------------------------------------------------------------------------- the front


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(2, 5), (1, 3), (3, 4)], [1, 0]),  # the third is dearer and worse than the first
        ([(1, 3), (1, 3), (1, 2)], [0, 1]),  # equal points stay together
        ([(1, 3), (2, 3)], [0]),  # as good and dearer
        ([(1, 3), (1, 4)], [1]),  # as cheap and worse
        ([(None, 9), (2, None), (3, 1)], [2]),
        ([(None, None)], []),
        ([(3, 3), (1, 1), (2, 2)], [1, 2, 0]),
    ],
)
def test_the_front_is_what_nothing_else_beats(points, front):
    assert frontier(points) == front


# ------------------------------------------------------------------------------------------------------- the readers


def test_a_run_says_what_it_is_and_on_what_it_was_measured(inputs):
    source = read_source(inputs[0])
    (row,) = source.rows
    assert (source.kind, row.name, row.figures["accuracy"]) == ("run", "sparse-tuning", 0.875)
    assert row.scored == "40 validation images of leaves"
    assert row.figures["file_bytes"] == (inputs[0] / "adapter_model.safetensors").stat().st_size
    facts = dict(source.facts)
    assert row.intervals == {"accuracy": interval(0.875, 40)}
    assert source.settings["backbone"] == "paretune_tiny"
    assert source.settings["reducer"] == "EViT"
    assert (source.settings["epochs"], source.settings["lr"], source.settings["input"]) == (
        "3",
        "0.01",
        "32 x 32 pixels",
    )
    assert facts["machine"] == "a processor (cpu), 2 of 4 cores, Linux, torch 2"


def test_a_saved_model_without_a_record_has_no_accuracy(tmp_path):
    pt.save(pt.adapt("paretune_tiny", [pt.LoRA()], pt.EViT(), 2, pretrained=True), tmp_path / "mine")
    (row,) = read_source(tmp_path / "mine").rows
    assert row.name == "mine"
    assert "accuracy" not in row.figures


def test_a_bench_gives_a_row_per_recipe_and_batch_size(inputs):
    source = read_source(inputs[2])
    assert [(row.name, row.batch) for row in source.rows] == [
        (name, batch) for batch in (1, 8) for name in ("timm", "sparse-tuning", "lora")
    ]
    row = source.rows[1]
    assert row.figures["wall_ratio"] == 1.1
    assert row.figures["ms_per_image"] == pytest.approx(9.9)
    assert row.figures["saved_bytes"] == 10**6
    assert {"saved_ratio", "step_ms", "accuracy"}.isdisjoint(row.figures)
    assert row.tokens[0] == (65, 65)
    assert row.tokens[-1][1] == row.figures["tokens"] == 26
    assert source.rows[0].identity is None
    assert "interrupted" not in dict(source.facts)["rounds"]


def test_a_contestant_that_failed_is_a_row_with_a_reason(tmp_path):
    content = json.loads(a_bench(tmp_path / "bench.json").read_text())
    content["complete"] = False
    content["rows"][1] |= {"forward": None, "wall_per_macs": None, "error": "out of memory", "memory": None}
    (tmp_path / "bench.json").write_text(json.dumps(content))
    source = read_source(tmp_path / "bench.json")
    assert source.rows[1].error == "out of memory"
    assert "ms_per_image" not in source.rows[1].figures
    assert "interrupted" in dict(source.facts)["rounds"]
    assert "sparse-tuning: out of memory" in report([tmp_path / "bench.json"])


def test_the_demos_result_is_read_as_it_is_kept_in_the_repository():
    source = read_source(DEMO)
    assert source.kind == "demo"
    assert len(source.rows) == 7
    assert {row.scored for row in source.rows} == {"797 test images of the demo's digits"}
    assert all({"accuracy", "macs", "ms_per_image"} <= row.figures.keys() for row in source.rows)


def test_every_kind_has_a_reader_that_a_test_reads_with(inputs, tmp_path):
    ledger = write(tmp_path / "ledger.jsonl", result())
    read = {read_source(path).kind for path in (inputs[0], inputs[2], DEMO, ledger)}
    assert set(KINDS) == read | {"export"}  # tests/test_export.py reads the report of an export


def _list(path):
    path.write_text("[1, 2]")


def _text(path):
    path.write_text("hello")


def _stranger(path):
    path.write_text('{"kind": "stranger"}')


def _future(path):
    a_bench(path, version=2)


def _broken(path):
    a_bench(path, rows=[{}])


def _folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "does not exist"),
        (_list, "is nothing that a report is made from"),
        (_text, "is not valid JSON"),
        (_stranger, "is nothing that a report is made from"),
        (_future, "a bench of version 2, this paretune reads 1"),
        (_broken, "has missing or wrong entries: rows[0].recipe is missing"),
        (_folder, "is not a saved model"),
    ],
)
def test_anything_else_is_refused_by_name_and_nothing_is_written(make, sentence, tmp_path):
    make(tmp_path / "input")
    said = refused(cli("report", tmp_path / "input", "--out", tmp_path / "page.html"))
    assert sentence in said
    assert str(tmp_path / "input") in said
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_other_wrong_requests_are_refused(inputs, tmp_path):
    out = ("--out", tmp_path / "page.html")
    assert "is named twice" in refused(cli("report", inputs[0], inputs[0], *out))
    assert "nowhere.png: no such file" in refused(cli("report", DEMO, "--image", "nowhere.png", *out))
    assert "blocks 0 to 11" in refused(cli("report", inputs[0], "--image", inputs[3], "--block", 12, *out))
    assert cli("report").exit_code == 2
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- the rows


def test_what_a_bench_timed_and_a_run_trained_is_one_row(inputs):
    rows = joined(read_sources(inputs[:3]))
    assert [(row.name, row.batch) for row in rows] == [
        ("sparse-tuning", 1), ("sparse-tuning", 8), ("adaptformer", None),
        ("timm", 1), ("lora", 1), ("timm", 8), ("lora", 8),
    ]  # fmt: skip
    both = rows[1]
    assert (both.figures["accuracy"], both.figures["wall_ratio"]) == (0.875, 1.1)
    assert both.origin == (str(inputs[0]), str(inputs[2]))


def test_every_run_of_what_was_timed_gets_the_times(inputs, tmp_path):
    other = a_run(tmp_path / "seed1")
    rows = [row for row in joined(read_sources([inputs[0], other, inputs[2]])) if row.name.startswith("sparse-tuning")]
    assert [row.origin[0] for row in rows] == [str(inputs[0])] * 2 + [str(other)] * 2
    assert [row.batch for row in rows] == [1, 8, 1, 8]


def test_other_settings_are_another_row(inputs, tmp_path):
    content = json.loads(inputs[2].read_text())
    for row in content["rows"]:
        if row["recipe"] == "sparse-tuning":
            row["settings"]["reducer"]["keep"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(content))
    rows = joined(read_sources([inputs[0], tmp_path / "other.json"]))
    names = [row.name for row in rows]
    assert f"sparse-tuning ({inputs[0]})" in names
    assert f"sparse-tuning ({tmp_path / 'other.json'})" in names


@pytest.mark.slow
def test_rows_of_one_name_and_accuracies_on_other_data_are_told_apart(inputs, tmp_path):
    other = a_run(tmp_path / "seed1", accuracy=0.8, data="beefbeefbeef")
    one, two = (source.rows[0] for source in read_sources([inputs[0], other]))
    assert (one.name, two.name) == (f"sparse-tuning ({inputs[0]})", f"sparse-tuning ({other})")
    assert (one.scored, two.scored) == (
        "40 validation images of leaves [f00d]", "40 validation images of leaves [beefbeef]",
    )  # fmt: skip
    said = report([inputs[0], other, a_run(tmp_path / "seed2", accuracy=0.9)])
    charts = re.findall(r'<svg class="scatter".*?</svg>', said, re.DOTALL)
    assert len(charts) == 3  # over arithmetic, over trained parameters, over seconds
    for chart in charts:
        assert "sparse-tuning (" + str(inputs[0]).replace("&", "&amp;").replace("<", "&lt;")[:20] in chart
        assert "seed2" in chart
        assert "seed1" not in chart  # measured on other images


def test_a_run_whose_backbone_cannot_be_had_says_why(inputs, tmp_path):
    folder = shutil.copytree(inputs[0], tmp_path / "run")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["fingerprint"] = "0" * 64
    (folder / "adapter_config.json").write_text(json.dumps(config))
    said = report([folder], [inputs[3]])
    assert "sparse-tuning: " in said
    assert said.count("was trained on another backbone") == 2  # beside the table and in place of the pictures
    assert "87.50 %" in said


# ------------------------------------------------------------------------------------------------ numbers and charts


def test_numbers_are_written_for_people():
    assert [significant(v) for v in (0, 0.00123456, 0.9951, 1.234, 17.56, 12345.6)] == [
        "0", "0.00123", "0.995", "1.23", "17.6", "12,346",
    ]  # fmt: skip
    assert percent(0.88442) == "88.44 %"
    assert [column.key for column in present([{"macs": 1.0}, {"trained": 2.0}])] == ["trained", "macs"]
    assert len({column.key for column in COLUMNS}) == len({column.head for column in COLUMNS}) == len(COLUMNS)


@pytest.mark.parametrize("span", [(0.0, 1.0), (88.2, 91.3), (0.0667, 0.1034), (-2.0, 12000.0), (5.0, 5.001)])
def test_ticks_are_few_round_and_inside(span):
    ticks = round_numbers(span, 5)
    assert 2 <= len(ticks) <= 6
    assert all(span[0] - 1e-9 <= value <= span[1] + 1e-9 for value, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(float(text.replace(",", "")) == pytest.approx(value, abs=1e-9) for value, text in ticks)


def test_dots_and_labels_stay_inside_and_apart():
    rng = np.random.default_rng(1)
    points = [Point(f"method-{i}", "", *rng.uniform(1, 2, 2), i) for i in range(12)]
    chart = cost_and_gain("t", "x", "y", points)
    boxes = []
    for dot in chart.dots:
        width = 7.2 * len(dot.point.label)
        left = dot.label_x - {"start": 0, "middle": width / 2, "end": width}[dot.anchor]
        boxes.append((left, dot.label_y - 12, left + width, dot.label_y + 4))
    assert all(box[0] >= LEFT - 1 and box[2] <= WIDTH + 1 and box[3] <= HEIGHT for box in boxes)
    overlapping = [
        (i, j)
        for i, a in enumerate(boxes)
        for j, b in enumerate(boxes[:i])
        if min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    ]
    assert overlapping == []


def test_the_chart_marks_the_front_and_says_it_in_words():
    points = [Point(name, "", x, y, i) for i, (name, x, y) in enumerate([("a", 1, 1), ("b", 2, 3), ("c", 3, 2)])]
    chart = cost_and_gain("t", "x", "y", points)
    assert [dot.front for dot in chart.dots] == [True, True, False]
    assert chart.summary.endswith("from cheap to dear: a, b.")
    assert len(chart.line.split()) == 4  # steps: along at the cheaper one's gain, up, and on to the edge
    corners = [tuple(map(float, corner.split(","))) for corner in chart.line.split()]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))
    assert corners[-1][0] == WIDTH - RIGHT
    a, b, c = chart.dots
    assert a.x < b.x < c.x
    assert a.y > c.y > b.y  # downwards in an SVG
    assert len(cost_and_gain("t", "x", "y", points[:1]).dots) == 1


def test_above_the_diagonal_is_who_saves_less_time_than_arithmetic():
    points = [Point("fast", "", 0.7, 0.6, 0), Point("slow", "", 0.7, 0.9, 1), Point("even", "", 1.0, 1.0, 2)]
    chart = promise_and_clock("t", "x", "y", points)
    assert chart.summary.endswith("than arithmetic: slow.")


def test_costs_far_apart_are_drawn_by_their_logarithms_and_a_difference_of_nothing_is_not_blown_up():
    axis = cost_and_gain("t", "x", "y", [Point("a", "", 1, 1, 0), Point("b", "", 1000, 2, 1)])
    assert [tick.text for tick in axis.x_ticks] == ["1", "10", "100", "1,000"]
    a, b = cost_and_gain("t", "x", "y", [Point("a", "", 100, 1, 0), Point("b", "", 100.1, 2, 1)]).dots
    assert b.x - a.x < 5
    assert Axis(1, 100, 0, 10, logarithmic=True).at(10) == pytest.approx(5)


def test_an_interval_is_a_bar_inside_of_the_chart():
    points = [Point("a", "", 1, 50, 0, (40, 61)), Point("b", "", 2, 55, 1)]
    a, b = cost_and_gain("t", "x", "y", points).dots
    top, low = map(float, re.match(r"M[\d.]+ ([\d.]+)V([\d.]+)", a.bar).groups())
    assert TOP <= top < a.y < low <= HEIGHT
    assert b.bar == ""


HISTORY = [
    {"epoch": i, "lr": 0.01, "seconds": 1.0, "train_loss": 2.0 / i, "val_loss": 1.0 + abs(i - 3), "val_accuracy": i / 9}
    for i in range(1, 6)
]


def test_a_run_shows_its_epochs_and_which_one_was_kept(tmp_path):
    runs = [a_run(tmp_path / str(i), history=HISTORY, best_epoch=best) for i, best in enumerate((3, 5))]
    sources = read_sources(runs)
    one, other = curves(sources, {source.rows[0].name: i for i, source in enumerate(sources)})
    assert one.about == "epoch 3 of 5 kept, accuracy 87.50 % (73.9 to 94.5), 7 s"
    loss, score = one.plots
    assert (loss.title, score.title) == ("loss", "accuracy on validation, %")
    assert [len(line.points.split()) for line in loss.lines] == [5, 5]
    assert [tick.text for tick in loss.x_ticks] == ["1", "2", "3", "4", "5"]
    assert f"{loss.kept[0]:.1f},{loss.kept[1]:.1f}" == loss.lines[1].points.split()[2]
    assert len(score.band.split()) == 10
    assert loss.y_ticks == other.plots[0].y_ticks  # one axis for all
    assert other.plots[0].kept[0] > loss.kept[0]
    assert loss.summary.endswith("; epoch 3 was kept")
    page = report(runs)
    assert "epoch that was kept" in page
    assert page.count('class="ring"') == 1 + 4


def test_epochs_that_were_not_validated_and_numbers_that_cannot_be_drawn_are_left_out(tmp_path):
    rows = [{"epoch": 1, "lr": 0.0, "seconds": 1.0, "train_loss": 1e300}, {**HISTORY[1], "val_accuracy": 7.0},
            {"epoch": 3, "lr": 0.0, "seconds": 1.0, "train_loss": 1.0}]  # fmt: skip
    (found,) = curves([read_source(a_run(tmp_path / "run", history=rows))], {"sparse-tuning": 0})
    loss, score = found.plots
    assert [len(line.points.split()) for line in loss.lines] == [2, 1]
    assert "nan" not in loss.lines[0].points + score.band
    (short,) = curves([read_source(a_run(tmp_path / "short", history=HISTORY[:1]))], {"sparse-tuning": 0})
    assert short.plots[0].lines[0].points


def test_what_differs_between_runs_stands_apart_from_what_is_the_same(inputs):
    found = settings(read_sources(inputs[:2]))
    assert found.names == ("sparse-tuning", "adaptformer")
    assert [name for name, _ in found.apart] == ["recipe", "adapters", "reducer"]
    assert dict(found.apart)["reducer"] == ("EViT", "none")
    assert dict(found.same)["lr"] == "0.01"
    assert spoken(to_json(pt.LoRA(rank=4, blocks=(10, 11)))) == "LoRA(rank=4, blocks=(10, 11))"
    assert spoken({"kind": "Unheard", "of": 1}) == "Unheard(of=1)"


def test_signs_that_are_not_to_be_seen_are_not_explained(inputs):
    whole = report([inputs[1]], [inputs[3]])
    assert "attention, from none" in whole
    assert "a token of its own" not in whole
    assert "patches that share a token" in report([inputs[0]], [inputs[3]])
    assert "interval of 95 %" not in report([inputs[2]])
    assert "epoch that was kept" not in whole


def test_tokens_per_block_are_steps_in_the_middle_of_blocks():
    chart = steps("m", [(10, 10), (10, 5), (5, 5)], most=10, series=0)
    assert chart.line == "M0 8.0V8.0H36.7V8.0H73.3V8.0H110.0V52.0H146.7V52.0H183.3V52.0H220.0"
    assert (chart.first, chart.last, [tick.text for tick in chart.ticks]) == (10, 5, ["0", "1", "2"])
    assert "10, 10 then 5, 5" in chart.summary


# ---------------------------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """Tags that are left open, all attributes, all texts."""

    EMPTY = ("meta", "link", "img", "path", "polyline", "polygon", "circle", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_well_formed_and_asks_for_nothing(page):
    read = Page(page)
    assert read.open == []
    links = [
        value for _, attrs in read.tags for name, value in attrs.items() if name in ("src", "href", "action", "data")
    ]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_every_drawing_is_well_formed_and_says_what_it_shows(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 8
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        if root.get("aria-hidden") == "true":
            continue
        assert root.get("role") == "img"
        names = {node.get("id"): node.text for node in root if node.tag in ("title", "desc")}
        assert all(names[name] for name in root.get("aria-labelledby").split())


def test_the_maps_have_alts_that_mean_something(page):
    images = [attrs for tag, attrs in Page(page).tags if tag == "img"]
    maps = [attrs for attrs in images if "width" in attrs]
    assert len(maps) == 6 + 3  # image, three reductions, two attentions; image and two attentions
    assert all(attrs["alt"].startswith(("sparse-tuning: x < y.png", "adaptformer: x < y.png")) for attrs in maps)
    assert len({attrs["alt"] for attrs in maps}) == len(maps)
    assert all("alt" in attrs for attrs in images)


def test_names_cannot_bring_markup_in(page):
    assert EVIL not in page
    assert page.count("<script>") == 1
    read = Page(page)
    assert any(EVIL in text for text in read.texts)
    assert any("a & <b>" in text for text in read.texts)


def test_the_table_holds_every_row_and_sorts_by_numbers(page):
    body = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)[1]
    rows = [re.findall(r'data-value="([^"]*)"', row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]
    heads = re.findall(r"<button type=\"button\"[^>]*>([^<]+)<i", page)
    assert len(rows) == 7
    assert all(len(row) == len(heads) for row in rows)
    assert heads[:4] == ["method", "accuracy", "batch", "trained"]
    assert rows[0][heads.index("accuracy")] == "0.875"
    assert rows[3][heads.index("accuracy")] == ""
    assert "step ms/image" not in heads  # nobody measured it


@pytest.mark.slow
def test_the_same_input_gives_the_same_page(inputs, page):
    *sources, image = inputs
    assert report(sources, [image], f"Leaves {EVIL}") == page


def test_a_bench_with_random_weights_says_why_there_are_no_maps(inputs, tmp_path):
    bench = a_bench(tmp_path / "bench.json", ("fpet-lora",), (1,), "vit_tiny_patch16_224")
    said = report([bench, DEMO], [inputs[3]])
    assert "vit_tiny_patch16_224 was timed with random weights" in said
    assert "a demo holds results only" in said


def test_a_bench_of_the_embedded_backbone_is_drawn_untrained(inputs):
    said = report([inputs[2]], [inputs[3]])
    alts = [attrs["alt"] for tag, attrs in Page(said).tags if tag == "img" and "width" in attrs]
    assert len(alts) == 6
    assert alts[0].startswith("sparse-tuning, untrained: ")
    assert "Nothing to draw" not in said  # time against arithmetic
    assert "All tokens stay in timm, lora." in said


def test_without_accuracies_and_times_the_page_says_what_is_needed(tmp_path):
    pt.save(pt.adapt("paretune_tiny", [pt.LoRA()], None, 2, pretrained=True), tmp_path / "mine")
    said = report([tmp_path / "mine"])
    assert "Nothing to draw" in said
    assert "98.7" in said


@pytest.mark.slow
def test_the_command_writes_the_page_of_a_real_run(tmp_path, inputs):
    rng = np.random.default_rng(0)
    for name in ("ash", "oak"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(
                tmp_path / "data" / name / f"{i}.png"
            )
    options = (
        "--model",
        "paretune_tiny",
        "--recipe",
        "fpet-lora",
        "--epochs",
        "1",
        "--workers",
        "0",
        "--device",
        "cpu",
    )
    assert cli("train", "--data", tmp_path / "data", *options, "--out", tmp_path / "run").exit_code == 0
    images = (tmp_path / "data" / "oak" / "0.png", tmp_path / "data" / "ash" / "1.png")
    done = cli("report", tmp_path / "run", DEMO, "--image", *images, "--out", tmp_path / "new" / "page.html", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "new" / "page.html").stat().st_size
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    said = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "2 validation images of data" in said
    assert said.count('alt="fpet-lora: ') == 8


# ------------------------------------------------------------------------------------------------------- the browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """Headless Chromium with the page open; every log is kept."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
    exceptions = pytest.importorskip("selenium.common.exceptions")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    except exceptions.WebDriverException as problem:
        pytest.skip(f"chromium does not start here: {problem.msg}")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    driver.get(path.as_uri())
    yield driver
    driver.quit()


def shown(driver, width=1280, scheme="light"):
    """The page at a width, for a reader who likes it light or dark."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


@pytest.mark.slow
def test_the_page_loads_without_an_error_and_without_the_network(browser):
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert any(url.endswith("report.html") for url in asked)
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


def column(driver, name):
    """What a column of the table holds, from the top."""
    return driver.execute_script(
        "const heads = [...document.querySelectorAll('table.sortable thead th')];"
        "const at = heads.findIndex(head => head.textContent === arguments[0]);"
        "const rows = [...document.querySelectorAll('table.sortable tbody tr')];"
        "return rows.map(row => row.cells[at].dataset.value)", name,
    )  # fmt: skip


def header(driver, name):
    return driver.find_element("xpath", f"//thead//th[button[text()='{name}']]")


@pytest.mark.slow
def test_a_click_sorts_by_number_and_another_one_turns_it_round(browser):
    shown(browser)
    head = header(browser, "trained")
    head.find_element("tag name", "button").click()
    found = [float(value) for value in column(browser, "trained")]
    assert found == sorted(found)
    assert [str(int(v)) for v in found] != sorted(str(int(v)) for v in found)  # as text the order would be another
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element("tag name", "button").click()
    assert [float(value) for value in column(browser, "trained")] == sorted(found, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"


@pytest.mark.slow
def test_the_keyboard_sorts_too_and_what_is_missing_stays_last(browser):
    shown(browser)
    head = header(browser, "accuracy")
    for _ in range(2):
        head.find_element("tag name", "button").send_keys("\ue007")  # Enter
        found = column(browser, "accuracy")
        known = [float(value) for value in found if value]
        assert found[len(known) :] == [""] * 4
        assert known == sorted(known, reverse=head.get_attribute("aria-sort") == "descending")
    assert browser.find_elements("css selector", "[aria-sort]") == [head]
    header(browser, "method").find_element("tag name", "button").click()
    assert column(browser, "method") == sorted(column(browser, "method"))


@pytest.mark.slow
def test_every_picture_is_there_and_has_an_alt(browser):
    for picture in browser.find_elements("tag name", "img"):
        assert picture.get_attribute("alt") is not None
        assert int(picture.get_attribute("naturalWidth")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_is_never_wider_than_the_screen(browser, width):
    shown(browser, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [320, 400])
def test_a_phone_shows_the_accuracy_without_scrolling(browser, width):
    shown(browser, width)
    right = browser.execute_script(
        "const cells = [...document.querySelectorAll('tbody td')].filter(cell => cell.textContent.includes('87.50'));"
        "return Math.max(...cells.map(cell => cell.getBoundingClientRect().right))"
    )
    assert 0 < right <= width


def test_a_wide_screen_is_used(browser):
    shown(browser, 1800)
    assert browser.execute_script("return document.querySelector('main').getBoundingClientRect().width") > 1700


CONTRASTS = """
const read = colour => colour.match(/[0-9.]+/g).map(Number);
const over = (top, below) => [0, 1, 2].map(i => top[i] * (top[3] ?? 1) + below[i] * (1 - (top[3] ?? 1)));
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = colour => {
  const [r, g, b] = colour.map(v => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const ground = node => {
  const chain = [];
  for (let at = node; at; at = at.parentElement) chain.push(read(getComputedStyle(at).backgroundColor));
  return chain.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const found = [];
for (const node of document.body.querySelectorAll("*")) {
  const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
  if (!own || node.closest("script, title, desc") || !node.getClientRects().length) continue;
  const style = getComputedStyle(node), below = ground(node);
  const [a, b] = [light(over(read(node instanceof SVGElement ? style.fill : style.color), below)), light(below)];
  found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), node.textContent.trim().slice(0, 40)]);
}
return found;
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_has_readable_contrast(browser, scheme):
    shown(browser, scheme=scheme)
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 80
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


@pytest.mark.slow
def test_the_toggle_overrules_the_system(browser):
    shown(browser, scheme="light")
    button = browser.find_element("id", "theme")
    ground = lambda: browser.execute_script("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    bright = ground()
    assert button.text == "Theme: system"
    button.click()
    assert (button.text, ground()) == ("Theme: light", bright)
    button.click()
    dark = ground()
    assert (button.text, dark != bright) == ("Theme: dark", True)
    button.click()
    assert (button.text, ground()) == ("Theme: system", bright)
    shown(browser, scheme="dark")
    assert ground() == dark
