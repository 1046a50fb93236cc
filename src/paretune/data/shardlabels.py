"""Read classes and targets from the label files in shards."""

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
"""The answer of one image: number or name of its class, names or numbers of its labels, or {name: number}."""

_TASK_OF: dict[type, Task] = {int: "multiclass", str: "multiclass", list: "multilabel", dict: "regression"}


def known_classes(file: Path, notes: Sequence[Annotation]) -> tuple[Task, tuple[str, ...]]:
    """The task and the classes from `file`, {"task": ..., "classes": [...]}, or else from the annotations.

    Raises UsageError if there are no annotations, or annotations of several kinds.
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
        raise UsageError(
            f"{plain(folder)}: {what} must all contain the same kind of answer; they contain {some(names)}"
        )
    return found.pop()


def annotated(notes: Sequence[Any], task: Task, classes: tuple[str, ...]) -> np.ndarray:
    """The targets of these annotations, in the form of a data set. Raises UsageError for an unknown class."""
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
    """The number of a class, given by its name or its number."""
    if type(note) is int and 0 <= note < len(place):
        return note
    if isinstance(note, str) and note in place:
        return place[note]
    raise _contradiction(place, note)


def _check_numbers(note: dict, place: dict[str, int]) -> None:
    if set(note) != set(place):
        raise _contradiction(place, next(iter(set(note) ^ set(place))))
    bad = [f"{plain(name)} is {quoted(value)}" for name, value in note.items() if not is_target(value)]
    refuse(bad[:10], "a label file must contain numbers from -1e18 to 1e18")


def _contradiction(place: dict[str, int], note: object) -> UsageError:
    return UsageError(f"a label file contains {quoted(note)}, which does not fit the classes {some(list(place))}")


def _said(file: Path, task: Task) -> tuple[Task, tuple[str, ...]]:
    content = read_json(file)
    said, names = (content.get("task"), content.get("classes")) if isinstance(content, dict) else (None, None)
    if said not in TASKS or not isinstance(names, list) or not all(type(name) in (int, str) for name in names):
        raise UsageError(f'{plain(file)}: expected {{"task": ..., "classes": [...]}} with a task and a list of names')
    classes = tuple(name if isinstance(name, str) else quoted(name) for name in names)
    if said != task:
        raise UsageError(f"{plain(file)} says the task {said} with {some(classes)}, but the label files are {task}")
    if len(set(classes)) < len(classes) or not classes:
        raise UsageError(f"{plain(file)}: every class must occur once; the file has {some(classes) or 'none'}")
    return said, classes


def _found(folder: Path, kind: type, notes: Sequence[Any]) -> tuple[str, ...]:
    """The classes in the annotations: for numbers all from 0 to the highest one, for names the sorted names."""
    if kind is dict:
        return tuple(notes[0])
    labels = [label for note in notes for label in note] if kind is list else notes
    refuse([] if labels else ["no image has a label"], plain(folder))
    if _only_kind(folder, "the labels", labels, {int, str}) is int:
        return tuple(map(str, range(class_count(folder, labels))))
    return tuple(sorted(set(labels)))
