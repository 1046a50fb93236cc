"""What a model answers to one image, and how answers are written: JSON entries, lines for people, and rows of a table
with the same columns for each. Nothing here needs torch: artefacts answer in the same way.

multiclass   path, class, probability, class_2, probability_2 ... error
multilabel   path, labels (with | between them), probability_NAME for every label, error
regression   path, NAME for every number, error
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretune.errors import UsageError, printable
from paretune.schema import parse

Value = str | float | None
TOP = 5
ABOVE = 0.5  # a label is there if its probability is above this


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image file.

    Attributes:
        path: the file.
        best: [(name, value), ...], as `chosen` returns them; empty if the file cannot be read.
        outputs: (C,) all probabilities or numbers, in the model's order; None if the file cannot be read.
        error: why the file cannot be read; "" if it can.
    """

    path: str
    best: list[tuple[str, float]]
    outputs: np.ndarray | None
    error: str = ""


def chosen(row: np.ndarray, names: Sequence[str], task: str, top: int | None) -> list[tuple[str, float]]:
    """The part of all outputs (C,) that is shown: [(name, value), ...], from likely to unlikely.

    multiclass: the `top` most likely classes (5 by default); multilabel: the labels with a probability above 0.5, or
    the `top` most likely ones; regression: every number, in the model's order.
    """
    if task == "regression":
        return list(zip(names, row.tolist(), strict=True))
    order = np.argsort(-row, kind="stable")[: top or (TOP if task == "multiclass" else len(row))]
    best = [(names[i], row[i].item()) for i in order.tolist()]
    if task == "multilabel" and top is None:
        return [(name, value) for name, value in best if value > ABOVE]
    return best


def check_top(task: str, top: int | None) -> None:
    """Raise UsageError if `top` is given for a regression."""
    if task == "regression" and top is not None:
        raise UsageError("the model answers with numbers, which have no order of likelihood: leave out top")


def check_finite(values: np.ndarray, first: str) -> None:
    """Raise UsageError if outputs of a batch are not finite; `first` is the path of its first image."""
    if not np.isfinite(values).all():
        raise UsageError(
            f"the model's answers to {first}, or to others of its batch, are no finite numbers: train it again "
            "with a smaller learning rate"
        )


def entry(task: str, answer: Answer) -> dict:
    """The answer as a JSON object."""
    if answer.error:
        return {"path": answer.path, "error": answer.error}
    if task == "regression":
        return {"path": answer.path, "numbers": dict(answer.best)}
    key, name = ("classes", "class") if task == "multiclass" else ("labels", "label")
    return {"path": answer.path, key: [{name: one, "probability": p} for one, p in answer.best]}


def line(task: str, answer: Answer) -> str:
    """The answer for people."""
    if answer.error:
        return f"{answer.path}: cannot be read ({answer.error})"
    if task == "regression":
        return f"{answer.path}: " + ", ".join(f"{name} {value:.4g}" for name, value in answer.best)
    said = ", ".join(f"{name} {p:.1%}" for name, p in answer.best)
    return f"{answer.path}: {said or 'no label above 50 %'}"


class Table:
    """The columns that answers of a model with these outputs have.

    `columns` {name: type} is in order; every text is printable.
    """

    def __init__(self, task: str, names: Sequence[str], top: int | None):
        self.task, self.top = task, top
        names = [printable(name) for name in names]
        self.shown = min(top or TOP, len(names))
        self.columns: dict[str, type] = {"path": str}
        if self.task == "multiclass":
            for i in range(1, self.shown + 1):
                end = "" if i == 1 else f"_{i}"
                self.columns |= {f"class{end}": str, f"probability{end}": float}
        elif self.task == "multilabel":
            self.columns["labels"] = str
            self._add([f"probability_{name}" for name in names])
        else:
            self._add(names)
        self.columns["error"] = str

    def _add(self, names: Sequence[str]) -> None:
        """Columns of numbers; a name that is taken gets _ behind it."""
        for name in names:
            while name in self.columns or name == "error":
                name += "_"
            self.columns[name] = float

    def row(self, answer: Answer) -> list[Value]:
        """A value for every column; None where there is none."""
        path = printable(answer.path)
        if answer.outputs is None:
            return [path, *[None] * (len(self.columns) - 2), printable(answer.error)]
        return [path, *self._values(answer.best, answer.outputs.tolist()), None]

    def _values(self, best: list[tuple[str, float]], outputs: list[float]) -> list[Value]:
        if self.task == "multiclass":
            return [value for name, p in best for value in (printable(name), p)]
        return [*(["|".join(printable(name) for name, _ in best)] if self.task == "multilabel" else []), *outputs]


class Csv:
    """Lines of a CSV file in UTF-8, one a row, the header first."""

    def __init__(self, table: Table):
        self.table, self.header = table, _joined(table.columns)

    def line(self, answer: Answer) -> str:
        """The line of an answer."""
        return _joined(f"{value:.9g}" if isinstance(value, float) else value for value in self.table.row(answer))

    def read(self, text: str) -> tuple[str, bool]:
        """The path in a line, and whether it could be read. Raises ValueError for a line that is none of these."""
        try:
            (row,) = csv.reader([text], strict=True)
        except csv.Error as problem:
            raise ValueError(str(problem)) from problem
        if len(row) != len(self.table.columns):
            raise ValueError("another number of columns")
        return row[0], not row[-1]

    def path(self, path: str) -> str:
        """A path as a line has it."""
        return printable(path)


class JsonLines:
    """Lines that are the entries of `--json`."""

    header = ""

    def __init__(self, table: Table):
        self.task = table.task

    def line(self, answer: Answer) -> str:
        """The line of an answer."""
        return json.dumps(entry(self.task, answer)) + "\n"

    def read(self, text: str) -> tuple[str, bool]:
        """The path in a line, and whether it could be read. Raises ValueError for a line that is none of these."""
        found = parse(text, "the line")
        if not isinstance(found, dict) or not isinstance(found.get("path"), str):
            raise ValueError("no path")
        return found["path"], "error" not in found

    def path(self, path: str) -> str:
        """A path as a line has it."""
        return path


def _joined(values) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
