"""The tasks: one class per image, any number of labels per image, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from paretune.errors import UsageError, plain, quoted, unknown

Task = Literal["multiclass", "multilabel", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

MOST_CLASSES = 100_000
LARGEST = 1e18  # of a number to predict: its square still fits into float32
_CELLS = 1 << 27  # labels times images: 1 GiB of targets


def known_task(name: str) -> Task:
    """`name`, if it is a task. Raises UsageError, with a suggestion, if it is not."""
    if name not in TASKS:
        raise unknown("task", name, list(TASKS))
    return name


def balance(task: Task, classes: Sequence[str], targets: np.ndarray) -> dict[str, dict]:
    """How the targets are spread, for a record: images per class or label, or mean and deviation of each number.

    targets: (n,) class indices, (n, C) of 0 and 1, or (n, C) numbers.
    """
    if task == "regression":
        spread = zip(classes, targets.mean(0).tolist(), targets.std(0).tolist(), strict=True)
        return {"per_target": {name: {"mean": mean, "deviation": deviation} for name, mean, deviation in spread}}
    counts = np.bincount(targets, minlength=len(classes)) if task == "multiclass" else targets.sum(0)
    return {"per_class": {name: int(count) for name, count in zip(classes, counts, strict=True)}}


def class_count(place: object, numbers: Sequence[int]) -> int:
    """How many classes there are where only their numbers are known: 0 to the highest one.

    A number is believed up to a thousand, or ten times as many as there are images. Raises UsageError beyond that, and
    for negative numbers.
    """
    low, high = min(numbers), max(numbers)
    most = min(MOST_CLASSES, max(1000, 10 * len(numbers)))
    if low < 0 or high >= most:
        strange = quoted(low if low < 0 else high)
        raise UsageError(
            f"{plain(place)}: {strange} as the number of a class, of {len(numbers):,} labels: expected 0 to "
            f"{most - 1:,}; name the classes if there are more"
        )
    return high + 1


def check_classes(place: object, classes: Sequence[str], images: int, task: Task) -> None:
    """Raise UsageError for more classes than 100,000, and for more labels of more images than memory should hold."""
    if len(classes) > MOST_CLASSES:
        raise UsageError(f"{plain(place)} has {len(classes):,} classes: {MOST_CLASSES:,} are possible")
    if task != "multiclass" and images * len(classes) > _CELLS:
        raise UsageError(
            f"{plain(place)} has {len(classes):,} answers for each of {images:,} images, more than {_CELLS:,} in all: "
            "take fewer labels or images"
        )


def is_target(value: object) -> bool:
    """Whether a value is a number that can be trained on: finite, and not so large that its square is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
