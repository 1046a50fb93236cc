"""train, evaluate and predict in Python: the names, the defaults and the answers of the commands."""

import inspect
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli import evaluate, predict, train
from paretune.cli.main import app
from paretune.verbs.training import train as trained

FAST = {"model": "paretune_tiny", "recipe": "linear", "epochs": 2, "batch_size": 8, "workers": 0, "device": "cpu"}
# What only one of the two has: how it is asked, and how progress is told.
OWN = {"context", "as_json", "command", "tell", "quiet"}


def cli(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A few pictures of two classes."""
    folder, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for name, low in (("ash", 0), ("oak", 120)):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(low, low + 120, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run, and the result of its training."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, pt.train(photos, out, **FAST, quiet=True)


def parameters(function):
    """{name: default} without what only one side has."""
    found = inspect.signature(function).parameters
    return {name: one.default for name, one in found.items() if name not in OWN}


@pytest.mark.parametrize(
    ("verb", "command"),
    [(trained, train.train), (pt.evaluate, evaluate.evaluate), (pt.predict, predict.predict)],
    ids=["train", "evaluate", "predict"],
)
def test_a_verb_has_the_names_and_the_defaults_of_its_command(verb, command):
    assert parameters(verb) == parameters(command)


def test_training_answers_as_the_command_and_leaves_what_it_leaves(photos, run, tmp_path):
    out, result = run
    words = [word for key, value in FAST.items() for word in ("--" + key.replace("_", "-"), value)]
    said = cli("train", "--data", photos, *words, "--out", tmp_path / "run", "--json")
    mine = result.to_dict()
    assert said.keys() == mine.keys()
    same = ("best_epoch", "val_accuracy", "val_loss")
    assert {key: said[key] for key in same} == {key: mine[key] for key in same}
    read = [json.loads((folder / "record.json").read_text()) for folder in (out, tmp_path / "run")]
    assert read[0]["schedule"] == read[1]["schedule"]
    assert [one["recipe"] for one in read] == ["linear", "linear"]
    assert pt.load(out).classes == ["ash", "oak"]


def test_evaluating_answers_as_the_command(photos, run):
    out, _ = run
    said = cli("eval", out, "--data", photos, "--split", "all", "--worst", 2, "--json")
    mine = json.loads(json.dumps(pt.evaluate(out, photos, "all", worst=2).to_dict()))
    clocks = ("seconds", "images_per_second")
    assert {k: v for k, v in said.items() if k not in clocks} == {k: v for k, v in mine.items() if k not in clocks}
    assert mine["accuracy_interval"] == list(pt.evaluate(out, photos, "all").interval)


def test_predicting_answers_as_the_command(photos, run, tmp_path):
    out, _ = run
    said = cli("predict", out, photos / "oak", "--top", 1, "--json")["predictions"]
    mine = pt.predict(out, photos / "oak", top=1)
    assert mine == said
    (alone,) = pt.predict(out, [photos / "oak" / "0.png"], top=1)
    assert alone["path"] == said[0]["path"]
    written = pt.predict(out, photos, out=tmp_path / "answers.csv")
    assert (written["images"], written["unreadable"]) == (16, 0)
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 17


def test_a_recipe_of_ones_own_is_trained_and_its_choice_is_told(photos, tmp_path):
    mine = pt.Recipe("mine", "", (pt.LoRA(rank=2),), None, pt.Schedule(epochs=1, batch_size=8, warmup_epochs=0))
    result = pt.train(photos, tmp_path / "run", "paretune_tiny", mine, workers=0, device="cpu", quiet=True)
    assert result.record["recipe"] == "mine"
    assert result.record["model"]["adapters"][0]["rank"] == 2


def test_what_cannot_be_is_refused_as_on_the_command_line(photos, run, tmp_path):
    out, _ = run
    with pytest.raises(pt.UsageError, match="already holds a finished run"):
        pt.train(photos, out, **FAST)
    with pytest.raises(pt.UsageError, match="unknown recipe"):
        pt.train(photos, tmp_path / "new", "paretune_tiny", "lorra")
    with pytest.raises(pt.UsageError, match="no split 'test'"):
        pt.evaluate(out, photos, "test")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(pt.UsageError, match="none of 1 images could be read"):
        pt.predict(out, tmp_path / "bad.png")


def test_the_size_of_images_has_one_name_everywhere():
    model = pt.adapt("paretune_tiny", [pt.LoRA()], classes=2, image_size=48)
    assert model.preprocessing["input_size"] == (3, 48, 48)
    assert pt.cost(model).macs == pt.cost(pt.adapt("paretune_tiny", [pt.LoRA()], classes=2, img_size=48)).macs
    with pytest.raises(pt.UsageError, match="give one of them"):
        pt.adapt("paretune_tiny", [pt.LoRA()], classes=2, image_size=48, img_size=48)
    for verb in (pt.adapt, trained, pt.bench):
        assert "image_size" in inspect.signature(verb).parameters
