"""How pictures that are not square become square: the same in training, evaluation, prediction and maps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.data.transforms import CROPS, evaluation, framing, training
from paretune.errors import UsageError
from paretune.show.panels import panels
from paretune.training.evaluate import evaluate
from paretune.training.predict import predictions
from paretune.training.prepare import fit_on, seen

PLAIN = {
    "input_size": (3, 16, 16), "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear",
    "crop_pct": 0.875, "crop_mode": "center",
}  # fmt: skip


def flag(width=48, height=24):
    """Three stripes: red, green, blue."""
    stripes = np.zeros((height, width, 3), np.uint8)
    for i in range(3):
        stripes[:, i * width // 3 : (i + 1) * width // 3, i] = 255
    return Image.fromarray(stripes)


def colours(image):
    """The strongest colour of every column of the middle row; 3 where all are at the mean."""
    row = (image[:, 8] * 0.5 + torch.tensor(PLAIN["mean"])[:, None]) * 255
    mean = torch.tensor([128.0, 102.0, 76.0])[:, None]
    return [3 if (c - mean[:, 0]).abs().max() < 2 else int(c.argmax()) for c in row.T]


@pytest.mark.parametrize(
    ("crop", "columns"),
    [
        ("squash", [0] * 5 + [1] * 6 + [2] * 5),  # all of the flag
        ("fit", [0] * 3 + [1] * 10 + [2] * 3),  # its middle half
        ("pad", [0] * 5 + [1] * 6 + [2] * 5),  # all of it, with bars above and below
    ],
)
def test_a_flag_is_squashed_cut_or_padded(crop, columns):
    image = evaluation(framing(PLAIN, "none", crop))(flag())
    found = colours(image)
    assert sum(a != b for a, b in zip(found, columns, strict=True)) <= 2  # where two stripes share a column
    bar = (image[:, :4] * 0.5 + torch.tensor(PLAIN["mean"])[:, None, None]) * 255
    filled = (bar - torch.tensor([128.0, 102.0, 76.0])[:, None, None]).abs().max() < 1e-3
    assert bool(filled) == (crop == "pad")


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(24, 48), (48, 24), (30, 30), (2000, 1), (1, 300)])
def test_training_without_augmentation_sees_what_evaluation_sees(crop, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8))
    learn, look = training(PLAIN, "none", crop)(picture), evaluation(framing(PLAIN, "none", crop))(picture)
    assert learn.shape == (3, 16, 16)
    assert torch.equal(learn, look)


def test_the_default_is_what_it_was():
    assert framing(PLAIN, "none") == framing(PLAIN, "none", "squash") == {**PLAIN, "crop_pct": 1, "crop_mode": "squash"}
    assert framing(PLAIN, "crop") == PLAIN
    assert torch.equal(training(PLAIN)(flag()), training(PLAIN, "none", "squash")(flag()))


def test_an_unknown_crop_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="unknown crop 'padd': did you mean pad"):
        framing(PLAIN, "none", "padd")


@pytest.fixture
def flags(tmp_path):
    for split in ("train", "val"):
        for kind, turn in (("one", 0), ("two", 180)):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
            for i in range(4):
                flag(60 + 6 * i).rotate(turn).save(tmp_path / "data" / split / kind / f"{i}.png")
    return tmp_path / "data"


def test_the_folder_keeps_the_crop_for_whoever_uses_the_model(tmp_path, flags):
    from paretune.data import open_splits

    splits, model = open_splits(flags), pt.adapt("paretune_tiny", (), None, ["one", "two"])
    schedule = pt.Schedule(epochs=1, batch_size=4, warmup_epochs=0)
    result = fit_on(model, splits.train, splits.val, schedule, tmp_path / "run", crop="pad", quiet=True, device="cpu")
    loaded = pt.load(tmp_path / "run")
    assert (loaded.preprocessing["crop_mode"], loaded.preprocessing["crop_pct"]) == ("border", 1.0)
    assert result.record["preprocessing"]["crop_mode"] == "border"
    path = flags / "val" / "one" / "0.png"
    image = evaluation(loaded.preprocessing)(Image.open(path))
    (answer,) = predictions(loaded, [path], device="cpu")
    assert torch.allclose(torch.as_tensor(answer.outputs), loaded(image[None]).softmax(-1)[0], atol=1e-5)
    assert evaluate(loaded, seen(splits.val, loaded), device="cpu").loss == pytest.approx(result.loss, abs=1e-5)
    shown = np.asarray(panels(loaded, [path]).rows[0][0].picture)
    assert len(np.unique(shown[:3].reshape(-1, 3), axis=0)) == 1  # the bar
    with pytest.raises(UsageError, match=r"unknown crop 'pud'"):
        fit_on(model, splits.train, splits.val, schedule, tmp_path / "x", crop="pud", quiet=True, device="cpu")


def test_the_command_takes_a_crop(tmp_path, flags):
    words = ["train", "--data", str(flags), "--model", "paretune_tiny", "--recipe", "linear", "--epochs", "1"]
    words += ["--warmup-epochs", "0", "--device", "cpu", "--workers", "0", "--crop"]
    done = CliRunner().invoke(app, [*words, "fit", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (config["preprocessing"]["crop_mode"], config["preprocessing"]["crop_pct"]) == ("center", 1.0)
    wrong = CliRunner().invoke(app, [*words, "centre", "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 2
    assert "unknown crop 'centre'" in wrong.output
