"""Split data into training and validation images, and choose a few images per class.

The choice depends only on the seed, the class and the order of its images, so it is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from paretune.data.dataset import Images, some
from paretune.errors import UsageError, plain

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The three splits, and the names that data sets use for them."""

Parts = dict[str, Callable[[], Images]]
"""The splits that a reader finds, and a function that reads each of them. Data without splits have the split "all"."""


@dataclass(frozen=True)
class Splits:
    """Images for training, validation and test; `test` is None if there are none."""

    train: Images
    val: Images
    test: Images | None = None


def split_name(name: str) -> str | None:
    """ "train", "val" or "test" for any name of theirs, None for other words."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_off(whole: Images, val_share: float, seed: int) -> tuple[Images, Images]:
    """Training and validation images: `val_share` of each class for validation, at least one image in each part.

    Without classes (several labels, or numbers), the share is drawn from all images together. Raises UsageError for a
    class with only one image.
    """
    if not 0 < val_share < 1:
        raise UsageError(f"val_share={val_share}: the share of validation images must be between 0 and 1")
    val = {i for name, rows in _groups(whole).items() for i in _drawn(whole, name, rows, val_share, seed)}
    rule = {"val_share": val_share, "seed": seed}
    parts = {
        "train": [i for i in range(len(whole)) if i not in val],
        "val": [i for i in range(len(whole)) if i in val],
    }
    train, held_out = (replace(whole.part(rows, name), split_rule=rule) for name, rows in parts.items())
    return train, held_out


def few(images: Images, shots: int, seed: int) -> Images:
    """`shots` images of each class. With the same seed, a smaller number gives a part of the images of a larger one.

    Raises UsageError unless every image has exactly one class, and for classes that have fewer images.
    """
    if images.task != "multiclass":
        raise UsageError(f"shots={shots} needs images with one class each; these are {images.task}")
    groups = _groups(images)
    small = [name for name in images.classes if len(groups[name]) < shots]
    if small or shots < 1:
        raise UsageError(
            f"shots={shots}: must be at least 1, and at most the number of images of {some(small or groups)}"
        )
    orders = {name: random.Random(f"{seed}/{name}/shots").sample(rows, len(rows)) for name, rows in groups.items()}
    rows = sorted(i for order in orders.values() for i in order[:shots])
    rule = {**(images.split_rule or {}), "shots": shots, "seed": seed}
    return replace(images.part(rows, images.split), split_rule=rule)


def _groups(images: Images) -> dict[str, list[int]]:
    """The rows of each class, or one group of all rows if images do not have exactly one class."""
    if images.task != "multiclass":
        return {"": list(range(len(images)))}
    order = np.argsort(images.targets, kind="stable")
    ends = np.searchsorted(images.targets[order], np.arange(1, len(images.classes)))
    return {name: rows.tolist() for name, rows in zip(images.classes, np.split(order, ends), strict=True)}


def _drawn(whole: Images, name: str, rows: list[int], val_share: float, seed: int) -> list[int]:
    if not rows:
        return []
    if len(rows) < 2:
        what = f"class '{plain(name)}' in {plain(whole.source.where)}" if name else plain(whole.source.where)
        raise UsageError(f"{what} has only one image: a split into train and val needs two")
    count = min(max(1, round(val_share * len(rows))), len(rows) - 1)
    return random.Random(f"{seed}/{name}").sample(rows, count)
