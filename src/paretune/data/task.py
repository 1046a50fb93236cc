"""The tasks: one class per image, any number of labels per image, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from paretune.errors import UsageError, plain, quoted, unknown

Task = Literal["multiclass", "multilabel", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

MOST_CLASSES = 100_000
LARGEST = 1e18  # limit of a number to predict: its square fits into float32
_CELLS = 1 << 27  # limit of labels times images: 1 GiB of targets


def known_task(name: str) -> Task:
    """`name`, if it is a task. Raises UsageError, with a suggestion, if it is not."""
    if name not in TASKS:
        raise unknown("task", name, list(TASKS))
    return name


def balance(task: Task, classes: Sequence[str], targets: np.ndarray) -> dict[str, dict]:
    """The distribution of the targets, for records: images per class or label, or mean and deviation of each number.

    targets: (n,) class indices, (n, C) of 0 and 1, or (n, C) numbers.
    """
    if task == "regression":
        spread = zip(classes, targets.mean(0).tolist(), targets.std(0).tolist(), strict=True)
        return {"per_target": {name: {"mean": mean, "deviation": deviation} for name, mean, deviation in spread}}
    counts = np.bincount(targets, minlength=len(classes)) if task == "multiclass" else targets.sum(0)
    return {"per_class": {name: int(count) for name, count in zip(classes, counts, strict=True)}}


def class_count(place: object, numbers: Sequence[int]) -> int:
    """The number of classes if only numbers are known: they are 0 to the highest number.

    Raises UsageError for negative numbers, and for numbers above the limit: a thousand, or ten times the number of
    images if this is more.
    """
    low, high = min(numbers), max(numbers)
    most = min(MOST_CLASSES, max(1000, 10 * len(numbers)))
    if low < 0 or high >= most:
        strange = quoted(low if low < 0 else high)
        raise UsageError(
            f"{plain(place)}: {strange} is the number of a class, but with {len(numbers):,} labels a number from 0 to "
            f"{most - 1:,} is expected; give names to the classes if there are more"
        )
    return high + 1


def check_classes(place: object, classes: Sequence[str], images: int, task: Task) -> None:
    """Raise UsageError for more than 100,000 classes, and if the labels of all images need more than 1 GiB."""
    if len(classes) > MOST_CLASSES:
        raise UsageError(f"{plain(place)} has {len(classes):,} classes, and at most {MOST_CLASSES:,} are possible")
    if task != "multiclass" and images * len(classes) > _CELLS:
        raise UsageError(
            f"{plain(place)} has {len(classes):,} answers for each of {images:,} images, more than {_CELLS:,} in all: "
            "use fewer labels or images"
        )


def is_target(value: object) -> bool:
    """Whether a value is a number that can be predicted: finite, also if it is squared in float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
