"""What is asked about a picture: one class of several, any number of labels, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from paretune.errors import unknown

Task = Literal["multiclass", "multilabel", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)


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
