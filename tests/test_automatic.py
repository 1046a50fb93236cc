"""Without a recipe, a short search on the validation loss chooses what to train, and the record says why."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.data.arrays import ImageArrays
from paretune.errors import Diverged
from paretune.training import automatic
from paretune.training.automatic import Choice, choose
from paretune.training.fit import fit
from paretune.training.prepare import built


def pictures(count, seed=0, learnable=True):
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    images = random.integers(0, 120, (count, 32, 32, 3)) + (80 * targets[:, None, None, None] if learnable else 0)
    return ImageArrays(images.astype(np.uint8), targets, ("dark", "bright"))


def build(recipe):
    return built("paretune_tiny", recipe.methods, recipe.schedule, ["dark", "bright"], seed=0)


@pytest.fixture
def quick(monkeypatch):
    """One rate and one epoch a try."""
    monkeypatch.setattr(automatic, "RATES", {name: rates[-1:] for name, rates in automatic.RATES.items()})
    monkeypatch.setattr(automatic, "TRIED", dict.fromkeys(automatic.TRIED, 1))


@pytest.mark.slow
def test_few_images_train_a_head_at_the_rate_of_the_lowest_loss(monkeypatch):
    monkeypatch.setattr(automatic, "TRIED", {"linear": 2})
    found = choose(build, pictures(16), pictures(8, 1), device="cpu")
    assert found.recipe.name == "linear"
    assert [one.lr for one in found.tries] == list(automatic.RATES["linear"])
    assert found.recipe.schedule.lr == min(found.tries, key=lambda one: one.loss).lr
    assert "fewer than 100" in found.why
    assert choose(build, pictures(16), pictures(8, 1), device="cpu").recipe == found.recipe  # seeded


@pytest.mark.parametrize(("losses", "chosen"), [((0.5, 0.4, 0.6), "late"), ((0.5, 0.7, 0.6), "linear")])
def test_adapters_are_taken_if_their_loss_is_the_lower_one(quick, monkeypatch, losses, chosen):
    """The tries are a head, adapters on a part of the images, and a head on the same part."""
    monkeypatch.setattr(automatic, "PART", 110)
    given, seen = iter(losses), []

    def told(model, train, validate, schedule, out, **settings):
        seen.append(len(train))
        return type("Result", (), {"loss": next(given), "score": 0.5, "seconds": 1.0})

    monkeypatch.setattr(automatic, "fit_on", told)
    found = choose(build, pictures(120), pictures(8, 1))
    assert found.recipe.name == {"late": "sparse-tuning-vtab@8-11", "linear": "linear"}[chosen]
    assert seen == [120, 110, 110]


def test_a_choice_survives_its_record():
    recipe = pt.recipe("sparse-tuning-vtab@8-11")
    choice = Choice(recipe, 6, (automatic.Try("linear", 1e-2, 16, 20, 0.5, 0.75, 1.0),), "because")
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


def test_a_head_that_always_diverges_is_told(quick, monkeypatch):
    def diverges(*args, **settings):
        raise Diverged("no number")

    monkeypatch.setattr(automatic, "fit_on", diverges)
    with pytest.raises(Diverged, match="look at the images and the weights"):
        choose(build, pictures(16), pictures(8, 1))


def test_patience_ends_a_training_that_gets_no_better(tmp_path):
    model = build(pt.recipe("linear"))
    transform = automatic_transform(model)
    train, val = (pictures(16, seed, learnable=False).through(transform) for seed in (0, 1))
    schedule = pt.Schedule(epochs=40, batch_size=8, lr=1e-2, warmup_epochs=0)
    result = fit(model, train, val, schedule, tmp_path, device="cpu", quiet=True, patience=3, choose="loss")
    assert len(result.history) == result.best_epoch + 3 < 40
    assert result.record["patience"] == 3


def automatic_transform(model):
    from paretune.data.transforms import evaluation

    return evaluation(model.preprocessing)


def test_the_command_needs_data_and_a_folder_only(quick, tmp_path, monkeypatch):
    for name, shade in (("dark", 40), ("bright", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), (shade + i, shade, shade)).save(tmp_path / "data" / name / f"{i}.png")
    words = [
        "train",
        "--data",
        tmp_path / "data",
        "--model",
        "paretune_tiny",
        "--out",
        tmp_path / "run",
        "--epochs",
        "2",
    ]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert "chosen: linear at learning rate 0.03: fewer than 100 training images" in done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["chosen"]["tries"][0]["recipe"] == "linear"
    assert record["schedule"]["epochs"] == 2
    taken = CliRunner().invoke(app, list(map(str, words)))
    assert taken.exit_code == 2
    assert "trying" not in taken.stderr  # refused before the search
    sets = CliRunner().invoke(app, [*map(str, words), "--set", "adapter.rank=4", "--overwrite"])
    assert sets.exit_code == 2
    assert "name one with --recipe" in sets.stderr


# ------------------------------------------------------------------------------------------------------------- advise


@pytest.mark.slow
def test_advice_names_problems_probes_and_forecasts(quick, tmp_path):
    for name, shade in (("dark", 40), ("bright", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), (shade + i, shade, shade)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "dark" / "copy.png").write_bytes((tmp_path / "data" / "dark" / "0.png").read_bytes())
    words = ["advise", str(tmp_path / "data"), "--model", "paretune_tiny"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["images"] == [17, 4]
    assert found["metric"] == "accuracy"
    assert [one["images"] for one in found["curve"]] == [4, 8, 17]
    assert any("copy.png" in text for text in found["remarks"] + found["problems"])
    costs = {one["recipe"]: one for one in found["forecasts"]}
    assert (costs["linear"]["kept_blocks"], costs["sparse-tuning-vtab@8-11"]["kept_blocks"]) == (12, 8)
    assert costs["lora"]["kept_blocks"] == 0
    assert all(one["seconds"] > 0 and one["memory_bytes"] > one["file_bytes"] > 0 for one in costs.values())
    text = CliRunner().invoke(app, words)
    assert "linear probe: accuracy" in text.stdout
    assert "fewer than 100 training images" in text.stdout
    assert CliRunner().invoke(app, ["advise", str(tmp_path / "nothing")]).exit_code == 2
