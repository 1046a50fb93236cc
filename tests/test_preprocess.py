"""What artefacts make of a picture without torch is what training made of it with timm, number by number."""

import itertools

import numpy as np
import pytest
from PIL import Image

from paretune.data.preprocess import METHODS, prepared

SIZES = [(64, 64), (100, 37), (37, 100), (5, 9), (224, 223), (301, 64)]
SHARES = (1.0, 0.9, 0.875)


def picture(size):
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_it_equals_timms_transform(mode):
    from paretune.data.transforms import evaluation

    inputs = [((3, 32, 32), "bicubic"), ((3, 48, 32), "bilinear"), ((3, 28, 28), "lanczos")]
    for (size, method), share, given in itertools.product(inputs, SHARES, SIZES):
        preprocessing = {
            "input_size": size, "interpolation": method, "crop_pct": share, "crop_mode": mode,
            "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
        }  # fmt: skip
        image = picture(given)
        wanted = evaluation(preprocessing)(image).numpy()
        found = prepared(image, preprocessing)
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 1e-6, (mode, size, share, given)


def test_it_knows_every_interpolation_that_a_config_may_name():
    from paretune.formats import PREPROCESSING
    from paretune.schema import verify

    for name in METHODS:
        verify(
            {"input_size": [3, 8, 8], "interpolation": name, "mean": [0, 0, 0], "std": [1, 1, 1], "crop_pct": 1,
             "crop_mode": "center"}, PREPROCESSING, "it",
        )  # fmt: skip
        values = prepared(picture((9, 7)), {"input_size": (3, 8, 8), "interpolation": name, "mean": (0, 0, 0),
                                            "std": (1, 1, 1), "crop_pct": 1.0, "crop_mode": "center"})  # fmt: skip
        assert values.shape == (3, 8, 8)
        assert 0 <= values.min() <= values.max() <= 1
