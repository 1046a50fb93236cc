"""From the label files in shards to classes and targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretune.data.dataset import some
from paretune.data.task import TASKS, Task, check_classes, class_count, is_target
from paretune.data.text import read_json
from paretune.errors import UsageError, plain, quoted, refuse

Annotation = int | str | list | dict
"""Of one image: the number or name of its class, the names or numbers of its labels, or {name: number}."""

_TASK_OF: dict[type, Task] = {int: "multiclass", str: "multiclass", list: "multilabel", dict: "regression"}


def known_classes(file: Path, notes: Sequence[Annotation]) -> tuple[Task, tuple[str, ...]]:
    """The task and the classes that `file` says, {"task": ..., "classes": [...]}, or else the annotations.

    Raises UsageError where these are of several kinds, or none.
    """
    refuse([] if notes else ["there are no images"], plain(file.parent))
    kind = _only_kind(file.parent, "the label files", notes, set(_TASK_OF))
    said = _said(file, _TASK_OF[kind]) if file.is_file() else (_TASK_OF[kind], _found(file.parent, kind, notes))
    task, classes = said
    check_classes(file.parent, classes, len(notes), task)
    return task, classes


def _only_kind(folder: Path, what: str, values: Sequence, kinds: set[type]) -> type:
    found = {type(value) for value in values}
    if len(found) > 1 or not found <= kinds:
        names = sorted(kind.__name__ for kind in found)
        raise UsageError(f"{plain(folder)}: {what} must all hold one kind of answer, they hold {some(names)}")
    return found.pop()


def annotated(notes: Sequence[Any], task: Task, classes: tuple[str, ...]) -> np.ndarray:
    """Targets, as a data set has them, of these annotations. Raises UsageError for names that are no class."""
    place = {name: i for i, name in enumerate(classes)}
    if task == "multiclass":
        return np.array([_index(note, place) for note in notes], dtype=np.int64)
    if task == "multilabel":
        targets = np.zeros((len(notes), len(classes)), dtype=np.int64)
        for row, note in zip(targets, notes, strict=True):
            row[[_index(name, place) for name in note]] = 1
        return targets
    for note in notes:
        _check_numbers(note, place)
    return np.array([[note[name] for name in classes] for note in notes], dtype=np.float32)


def _index(note: object, place: dict[str, int]) -> int:
    """The number of a class that is given by its name or by this number."""
    if type(note) is int and 0 <= note < len(place):
        return note
    if isinstance(note, str) and note in place:
        return place[note]
    raise _at_odds(place, note)


def _check_numbers(note: dict, place: dict[str, int]) -> None:
    if set(note) != set(place):
        raise _at_odds(place, next(iter(set(note) ^ set(place))))
    bad = [f"{plain(name)} is {quoted(value)}" for name, value in note.items() if not is_target(value)]
    refuse(bad[:10], "a label file has other values than numbers from -1e18 to 1e18")


def _at_odds(place: dict[str, int], note: object) -> UsageError:
    return UsageError(f"a label file is at odds with the classes {some(list(place))}: {quoted(note)}")


def _said(file: Path, task: Task) -> tuple[Task, tuple[str, ...]]:
    content = read_json(file)
    said, names = (content.get("task"), content.get("classes")) if isinstance(content, dict) else (None, None)
    if said not in TASKS or not isinstance(names, list) or not all(type(name) in (int, str) for name in names):
        raise UsageError(f'{plain(file)}: expected {{"task": ..., "classes": [...]}}, a task and a list of names')
    classes = tuple(name if isinstance(name, str) else quoted(name) for name in names)
    if said != task:
        raise UsageError(f"{plain(file)}: task {said} with {some(classes)}, but the label files are {task}")
    if len(set(classes)) < len(classes) or not classes:
        raise UsageError(f"{plain(file)}: every class must be named once; there are {some(classes) or 'none'}")
    return said, classes


def _found(folder: Path, kind: type, notes: Sequence[Any]) -> tuple[str, ...]:
    """The classes that the annotations name: numbers are all classes from 0 to the highest one, names are sorted."""
    if kind is dict:
        return tuple(notes[0])
    labels = [label for note in notes for label in note] if kind is list else notes
    refuse([] if labels else ["no image has a label"], plain(folder))
    if _only_kind(folder, "the labels", labels, {int, str}) is int:
        return tuple(map(str, range(class_count(folder, labels))))
    return tuple(sorted(set(labels)))
