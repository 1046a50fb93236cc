"""The demo: its picture, its methods, and a short run."""

import json

import numpy as np
import pytest
from PIL import Image

from paretune.catalogue import RECIPES
from paretune.cli.demo import write
from paretune.data import open_image
from paretune.demo import COLUMNS, METHODS, demo
from paretune.drawn.digit_sets import digit_sets
from paretune.show.merged import merged
from paretune.show.sheet import sheet


def test_patches_with_a_token_of_their_own_are_shown_as_they_are():
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    drawn = np.asarray(merged(image, np.arange(4), (2, 2), scale=4))
    assert drawn.shape == (32, 32, 3)
    assert np.array_equal(drawn[2::4, 2::4], image)


def test_shared_tokens_are_paler_and_bordered_and_dropped_patches_black():
    image = np.full((8, 8, 3), 40, np.uint8)
    drawn = np.asarray(merged(image, np.array([1, 1, -1, 2]), (2, 2), scale=4))
    assert drawn[8, 8].mean() > 60  # one token for the upper two patches
    assert drawn[8, 15].tolist() == drawn[8, 17].tolist()  # so no line between them
    assert drawn[16, 8].tolist() == [0, 0, 0]
    assert drawn[20, 20].tolist() == [40, 40, 40]
    assert drawn[24, 16].tolist() == [0, 0, 0]  # the line between tokens


def test_a_sheet_holds_every_picture():
    pictures = [[Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")] for _ in range(3)]
    drawn = sheet(["left", "right"], pictures)
    assert {colour for _, colour in drawn.getcolors(9999)} >= {(255, 0, 0), (0, 0, 255)}
    assert drawn.width > 40
    assert drawn.height > 30


def test_every_method_is_a_recipe_with_its_full_and_its_reduced_form():
    for method in METHODS:
        assert RECIPES[method.recipe].reducer is not None or not method.reduced
        twins = {other.reduced for other in METHODS if other.recipe == method.recipe}
        assert twins == {True, False} or method.recipe == "linear"


def test_the_demo_splits_are_balanced_and_disjoint():
    train, val, test = digit_sets(seed=0)
    assert [len(part) for part in (train, val, test)] == [800, 200, 797]
    for part in (train, val, test):
        counts = np.bincount(part.targets, minlength=10)
        assert counts.max() - counts.min() <= 0.06 * len(part)
    assert len({part.describe()["fingerprint"] for part in (train, val, test)}) == 3


@pytest.mark.slow
def test_a_short_demo_writes_table_result_and_picture(tmp_path):
    some = [method for method in METHODS if method.name in ("linear", "Sparse-Tuning")]
    result = demo(tmp_path, epochs=1, methods=some)
    write(result, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert [row["tokens"][1] for row in result["rows"]] == [64, 25]
    assert result["pixels"]["plain"] > 0.9 > result["pixels"]["drawn"]
    assert all(0.1 < row["accuracy"] <= 1 for row in result["rows"])
    table = (tmp_path / "table.md").read_text()
    assert all(name in table for name in COLUMNS)
    assert open_image(tmp_path / "merged.png").width > 200
