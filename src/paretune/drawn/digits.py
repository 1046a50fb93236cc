"""The images of the demo: real handwritten digits in drawn clutter, at 32 x 32 pixels.

The handwriting is scikit-learn's copy of the UCI optical digits: 1797 scans of 8 x 8 pixels. The embedded backbone was
not pretrained on them.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretune.drawn.drawing import SIZE, background, colour_pairs, finish, uniform

Split = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
"""Train images (N, 32, 32, 3), train labels (N,), test images, test labels."""


def digits(train: int = 1000, test: int = 797, seed: int = 0) -> Split:
    """Draw handwritten digits into clutter, with random position, size, tilt and colour.

    Training and test use different scans, and the ten digits have the same proportions in both. The same seed gives the
    same images. `train` + `test` may be at most 1797.

    Raises:
        ImportError: scikit-learn is missing; the message names the extra that installs it.
        ValueError: there are fewer scans than the images asked for.
    """
    scans, labels = load_scans()
    train_rows, test_rows = split_rows(labels, train, test, seed)
    rng = torch.Generator().manual_seed(seed)
    return (
        place_scans(rng, scans[train_rows]), labels[train_rows],
        place_scans(rng, scans[test_rows]), labels[test_rows],
    )  # fmt: skip


def load_scans() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load the (1797, 8, 8) scans with values in [0, 1], and their labels."""
    source = _sklearn("datasets").load_digits()
    return (source.images / 16).astype(np.float32), source.target.astype(np.int64)


def split_rows(
    labels: NDArray[np.int64], train: int, test: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose different rows for training and for test, both with the proportions of the classes."""
    if min(train, test) < 10 or train + test > len(labels):
        raise ValueError(
            f"train={train} and test={test}: each must be at least 10, and together at most {len(labels)}, "
            "the number of handwritten digits"
        )
    # The rows of each class get a random order and evenly spaced places in (0, 1). After sorting by place, every part
    # of the rows contains the classes in proportion.
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    order = np.argsort(place, kind="stable")
    return order[:train], order[train : train + test]


def place_scans(rng: torch.Generator, scans: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw each (8, 8) scan into its own clutter. Returns (N, 32, 32, 3)."""
    count = len(scans)
    ink = _place_ink(rng, torch.from_numpy(scans)).unsqueeze(1)
    back, fore = colour_pairs(rng, count, 0.25, 0.8)
    image = background(rng, back, fore, clutter=1.0)
    image = image + ink * (fore.view(count, 3, 1, 1) - image)
    return finish(rng, image, noise=0.08).numpy()


def _place_ink(rng: torch.Generator, scans: Tensor) -> Tensor:
    """Enlarge (N, 8, 8) scans smoothly to 12 to 20 pixels, tilt and move them. Returns (N, 32, 32) ink."""
    count = len(scans)
    half = uniform(rng, 6, 10, count)
    tilt = uniform(rng, -math.radians(30), math.radians(30), count)
    shift = uniform(rng, -1, 1, count, 2) * (SIZE / 2 - half).unsqueeze(1)
    cos, sin = torch.cos(tilt), torch.sin(tilt)
    # From coordinates of the image to those of the scan, both in [-1, 1]: undo the shift, the tilt and the scale.
    undo = torch.stack([cos, sin, -sin, cos], dim=1).view(count, 2, 2) * (SIZE / 2 / half).view(count, 1, 1)
    offset = undo @ (-shift / (SIZE / 2)).unsqueeze(-1)
    grid = torch.nn.functional.affine_grid(
        torch.cat([undo, offset], dim=2), [count, 1, SIZE, SIZE], align_corners=False
    )
    smooth = torch.nn.functional.grid_sample(scans.unsqueeze(1), grid, mode="bicubic", align_corners=False)
    return torch.sigmoid(9 * (smooth[:, 0] - 0.42))


def pixel_baseline(train: int = 1000, test: int = 797, seed: int = 0) -> dict[str, float]:
    """Test accuracy of logistic regression on pixels: `plain` on the bare scans, `drawn` on the demo's images.

    Both use the same scans for training and for test. The difference shows how much clutter, position, tilt and colour
    reduce the accuracy.
    """
    scans, labels = load_scans()
    train_rows, test_rows = split_rows(labels, train, test, seed)
    flat = scans.reshape(len(scans), -1)
    plain = linear_accuracy(flat[train_rows], labels[train_rows], flat[test_rows], labels[test_rows])
    train_images, train_labels, test_images, test_labels = digits(train, test, seed)
    drawn = linear_accuracy(
        train_images.reshape(train, -1) / 255.0, train_labels, test_images.reshape(test, -1) / 255.0, test_labels
    )
    return {"plain": plain, "drawn": drawn}


def linear_accuracy(
    train_features: NDArray[Any],
    train_labels: NDArray[np.int64],
    test_features: NDArray[Any],
    test_labels: NDArray[np.int64],
    strength: float = 0.1,
) -> float:
    """Fit logistic regression on standardised (N, D) features and return its test accuracy.

    `strength` is scikit-learn's C: smaller values regularise more.
    """
    scaler = _sklearn("preprocessing").StandardScaler()
    model = _sklearn("linear_model").LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    model.fit(scaler.fit_transform(train_features), train_labels)
    return float(model.score(scaler.transform(test_features), test_labels))


def _sklearn(module: str) -> Any:
    """Import a module of scikit-learn. Raises ImportError, which says how to install it."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'paretune[demo]'") from error
