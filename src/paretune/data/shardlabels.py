"""From the label files in shards to classes and targets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paretune.data.dataset import some
from paretune.data.task import TASKS, Task
from paretune.errors import UsageError, refuse

Annotation = int | str | list | dict
"""Of one image: the number or name of its class, the names of its labels, or {name: number}."""

_TASK_OF: dict[type, Task] = {int: "multiclass", str: "multiclass", list: "multilabel", dict: "regression"}


def known_classes(file: Path, notes: Sequence[Annotation]) -> tuple[Task, tuple[str, ...]]:
    """The task and the classes that `file` says, {"task": ..., "classes": [...]}, or else the annotations.

    Raises UsageError where these are of several kinds, or none.
    """
    refuse([] if notes else ["there are no images"], str(file.parent))
    kinds = {type(note) for note in notes}
    if len(kinds) > 1 or not kinds <= set(_TASK_OF):
        names = sorted(kind.__name__ for kind in kinds)
        raise UsageError(f"{file.parent}: the label files must all hold one kind of answer, they hold {some(names)}")
    kind = kinds.pop()
    if file.is_file():
        return _said(file, _TASK_OF[kind])
    return _TASK_OF[kind], _found(kind, notes)


def annotated(notes: Sequence[Annotation], task: Task, classes: tuple[str, ...]) -> np.ndarray:
    """Targets, as a data set has them, of these annotations. Raises UsageError for names that are no class."""
    place = {name: i for i, name in enumerate(classes)}
    try:
        if task == "multiclass":
            return np.array([_index(note, place) for note in notes], dtype=np.int64)
        if task == "multilabel":
            sets = [{_index(name, place) for name in note} for note in notes]
            return np.array([[int(i in own) for i in range(len(classes))] for own in sets], dtype=np.int64)
        return np.array([[note[name] for name in classes] for note in notes], dtype=np.float32)
    except KeyError as missing:
        raise UsageError(f"a label file is at odds with the classes {some(classes)}: {missing}") from None


def _index(note: int | str, place: dict[str, int]) -> int:
    if isinstance(note, int) and 0 <= note < len(place):
        return note
    return place[note]


def _said(file: Path, task: Task) -> tuple[Task, tuple[str, ...]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        said, classes = content["task"], tuple(map(str, content["classes"]))
    except (ValueError, TypeError, KeyError) as problem:
        raise UsageError(f'{file}: expected {{"task": ..., "classes": [...]}}, {problem!r}') from None
    if said != task or said not in TASKS or len(set(classes)) < len(classes):
        raise UsageError(f"{file}: task {said} with {some(classes)}, but the label files are {task}")
    return said, classes


def _found(kind: type, notes: Sequence[Annotation]) -> tuple[str, ...]:
    if kind is int:
        return tuple(map(str, range(max(notes) + 1)))
    if kind is str:
        return tuple(sorted(set(notes)))
    if kind is list:
        return tuple(sorted({str(name) for note in notes for name in note}))
    return tuple(notes[0])
