"""Images and their answers in a CSV file with a header row.

path,label                one class for each image                                 multiclass
path,labels               names separated by ; (may be empty)                      multilabel
path,sky,tree,...         a column of 0 and 1 for each label                       multilabel
path,age,height,...       numbers                                                  regression

Paths start at the folder of the CSV. A column `split` with train, val or test is optional. A column without a name,
such as the row numbers that pandas writes, is ignored. If a table has more than one meaning, the task must be given.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from paretune.data.dataset import Images, readable, some
from paretune.data.files import Files, missing_files
from paretune.data.splitting import Parts, split_name
from paretune.data.task import Task, check_classes, is_target
from paretune.errors import UsageError, plain, quoted, refuse

Rows = list[dict[str, str]]


def table_parts(path: Path, task: Task | None = None, skip_unreadable: bool = False) -> Parts:
    """The splits of a CSV file, or {"all": ...} if it has no column `split`.

    Raises UsageError if the file has no rows or lacks a column that the task needs, if an answer is empty or of the
    wrong kind, or if image files are missing (it names them). Reading a split raises UsageError for unreadable images.
    """
    rows = list(each_row(path))
    answers = [name for name in rows[0] if name not in ("path", "split", "")]
    task = task or _guessed(path, rows, answers)
    classes, targets = _READERS[task](path, rows, answers)
    keys = tuple(row["path"] for row in rows)
    refuse([f"there is no file {some(gone)}"] if (gone := missing_files(path.parent, keys)) else [], plain(path))
    whole = Images(Files(path.parent), keys, targets, classes, task)
    return {split: partial(_part, whole, here, split, skip_unreadable) for split, here in _splits(path, rows).items()}


def _part(whole: Images, rows: list[int], split: str, skip_unreadable: bool) -> Images:
    return readable(whole.part(rows, split), skip_unreadable)


def each_row(path: Path) -> Iterator[dict[str, str]]:
    """The rows as {column: value}, stripped, read one by one.

    Raises UsageError, which names the line, for an error in the file; and at the end for all rows that have more or
    fewer values than the header.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader, row, crooked = csv.DictReader(file, skipinitialspace=True, strict=True), None, []
        try:
            columns = [name.strip() for name in reader.fieldnames or []]
            _check_columns(path, columns)
            for i, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    crooked.append(i)
                else:
                    yield dict(zip(columns, (value.strip() for value in row.values()), strict=True))
        except (csv.Error, UnicodeDecodeError) as problem:
            raise UsageError(f"{plain(path)}, line {reader.line_num + 1}: {plain(problem)}") from None
    if row is None:
        raise _needs(path, columns)
    if crooked:
        raise UsageError(f"{plain(path)}, row {some(map(str, crooked))}: not as many values as columns in the header")


def _check_columns(path: Path, columns: list[str]) -> None:
    if "path" not in columns:
        raise _needs(path, columns)
    if len(set(columns)) < len(columns):
        raise UsageError(f"{plain(path)} has two columns with the same name: {some(columns)}")


def _needs(path: Path, columns: list[str]) -> UsageError:
    has = some(columns) or "none"
    return UsageError(f"{plain(path)} needs a header with the column path, and rows; its columns are {has}")


def _splits(path: Path, rows: Rows) -> dict[str, list[int]]:
    if "split" not in rows[0]:
        return {"all": list(range(len(rows)))}
    strange = sorted({row["split"] for row in rows if split_name(row["split"]) is None})
    refuse([quoted(name) for name in strange[:10]], f"{plain(path)}: the column split must say train, val or test")
    found = {split: [i for i, row in enumerate(rows) if split_name(row["split"]) == split] for split in
             ("train", "val", "test")}  # fmt: skip
    return {split: here for split, here in found.items() if here}


def _guessed(path: Path, rows: Rows, answers: list[str]) -> Task:
    """The only task that fits the columns. Raises UsageError if no task or several tasks fit."""
    if answers == ["label"] and not all(_is_fraction(row["label"]) for row in rows):
        return "multiclass"
    if answers == ["labels"]:
        return "multilabel"
    values = {row[name] for row in rows for name in answers}
    if answers and "label" not in answers and "labels" not in answers:
        if values <= {"0", "1"} and len(answers) > 1:
            return "multilabel"
        if values - {"0", "1"} and all(map(_is_number, values)):
            return "regression"
    raise UsageError(
        f"{plain(path)} has the columns {some(['path', *answers])}, which do not determine the task: give the task, "
        "multiclass (column label), multilabel (column labels, or a column of 0 and 1 for each label) "
        "or regression (numbers)"
    )


def _multiclass(path: Path, rows: Rows, answers: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    if "label" not in answers:
        raise UsageError(f"{plain(path)}: multiclass needs a column with the name label; there are {some(answers)}")
    _complete(path, rows, ["label"])
    classes = sorted_names({row["label"] for row in rows})
    check_classes(path, classes, len(rows), "multiclass")
    place = {name: i for i, name in enumerate(classes)}
    return classes, np.array([place[row["label"]] for row in rows], dtype=np.int64)


def _multilabel(path: Path, rows: Rows, answers: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    if "labels" not in answers:
        check_classes(path, answers, len(rows), "multilabel")
        _complete(path, rows, answers, lambda value: value in ("0", "1"), "0 or 1")
        return tuple(answers), np.array([[int(row[name]) for name in answers] for row in rows], dtype=np.int64)
    sets = [{name.strip() for name in row["labels"].split(";")} - {""} for row in rows]
    classes = sorted_names(set().union(*sets))
    refuse([] if classes else ["no row has a label"], plain(path))
    check_classes(path, classes, len(rows), "multilabel")
    place, targets = {name: i for i, name in enumerate(classes)}, np.zeros((len(rows), len(classes)), dtype=np.int64)
    for row, own in zip(targets, sets, strict=True):
        row[[place[name] for name in own]] = 1
    return classes, targets


def _regression(path: Path, rows: Rows, answers: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    check_classes(path, answers, len(rows), "regression")
    _complete(path, rows, answers, _is_target, "a number from -1e18 to 1e18")
    return tuple(answers), np.array([[float(row[name]) for name in answers] for row in rows], dtype=np.float32)


def sorted_names(names: set[str]) -> tuple[str, ...]:
    """Sorted class names: by value if all are whole numbers, so that 10 comes after 9, else by alphabet.

    Raises UsageError if the same number is written in two ways, such as 1 and 01.
    """
    if not all(name.isdecimal() and len(name) <= 18 for name in names):
        return tuple(sorted(names))
    found = tuple(sorted(names, key=lambda name: (int(name), name)))
    same = [f"{a} and {b}" for a, b in pairwise(found) if int(a) == int(b)]
    refuse([f"{some(same)} are the same number: write it always in the same way"] if same else [], "the labels")
    return found


def _complete(path: Path, rows: Rows, answers: list[str], good=bool, what: str = "a value") -> None:
    """Raise UsageError unless there is a column, and every value in the columns is `good`."""
    refuse([] if answers else ["there is only the column path"], plain(path))
    bad = [(i + 2, name, row[name]) for i, row in enumerate(rows) for name in answers if not good(row[name])]
    said = [f"row {i}: {plain(name)} is {quoted(value)}" for i, name, value in bad[:10]]
    refuse(said, f"{plain(path)}: every row needs {what} in {some(answers)}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_target(text: str) -> bool:
    return _is_number(text) and is_target(float(text))


def _is_fraction(text: str) -> bool:
    return _is_number(text) and not text.lstrip("+-").isdecimal()


_READERS = {"multiclass": _multiclass, "multilabel": _multilabel, "regression": _regression}
