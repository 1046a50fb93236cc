"""Data sets of the Hugging Face `datasets` library: hf:NAME[:CONFIG], an id on the Hub or a local folder.

A folder may be one that `save_to_disk` wrote, or anything that `load_dataset` takes: imagefolder, parquet, ... The
image column is found by its type; the answer is a ClassLabel (multiclass), a sequence of them (multilabel), numbers
(regression), or a column named label. Needs paretune[hf].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.data.dataset import Images, Numbered, readable, some
from paretune.data.images import UnreadableImage, file_bytes
from paretune.data.splitting import Parts, split_name
from paretune.data.table import sorted_names
from paretune.data.task import Task, check_classes, is_target
from paretune.errors import UsageError, plain, quoted

if TYPE_CHECKING:
    import datasets

_SAVED = ("dataset_dict.json", "state.json")


@dataclass(frozen=True, eq=False)
class Rows(Numbered):
    """The pictures of one split of a Hugging Face data set; a key is the row's number."""

    table: datasets.Dataset

    def size(self, key: int) -> int:
        return len(self.encoded(key))

    def encoded(self, key: int) -> bytes:
        (image,) = self.table[key].values()
        if image is None:
            raise UnreadableImage(f"{self.where}/{self.name(key)}", "the row has no image")
        return file_bytes(image["path"]) if image["bytes"] is None else image["bytes"]


def hub_parts(place: str, skip_unreadable: bool = False) -> Parts:
    """The splits of a Hugging Face data set; validation is val, and {"all": ...} what has no splits.

    Raises UsageError where the library is missing, there is no such data set, or its columns do not say what is image
    and what is answer.
    """
    tables = _load(place)
    named = {split_name(name) or name: table for name, table in tables.items()}
    if len(named) < len(tables):
        raise UsageError(f"hf:{plain(place)} has the splits {some(list(tables))}: two of them mean the same")
    return {split: partial(_read, place, table, split, skip_unreadable) for split, table in named.items()}


def _load(place: str) -> dict[str, datasets.Dataset]:
    datasets = _library()
    name, colon, config = place.rpartition(":") if ":" in place else (place, "", "")
    _check_name(place, name)
    try:
        if any((Path(name) / file).is_file() for file in _SAVED):
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, config if colon else None)
    except Exception as problem:  # a damaged folder ends in whatever the library or pyarrow stumble over
        said = next(iter(str(problem).splitlines()), "") or type(problem).__name__
        raise UsageError(f"hf:{plain(place)} cannot be read: {plain(said)}") from problem
    return dict(found) if isinstance(found, dict) else {"all": found}


def _check_name(place: str, name: str) -> None:
    """Raise UsageError for no name, and for a folder that holds the current one: it would be searched for hours."""
    here = Path.cwd()
    if not name.strip():
        raise UsageError("hf: needs a name: hf:NAME, hf:NAME:CONFIG or hf:FOLDER")
    if "\0" not in name and Path(name).is_dir() and Path(name).resolve() in (here, *here.parents):
        raise UsageError(f"hf:{plain(place)} is the current folder or holds it: name the folder of the data")


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError("hf: needs the library datasets: pip install 'paretune[hf]'") from error
    return datasets


def _read(place: str, table: datasets.Dataset, split: str, skip_unreadable: bool) -> Images:
    image = _image_column(place, table)
    column, task = _answer_column(place, table, image)
    answers = table.select_columns([column])[:][column]
    classes, targets = _targets(place, table.features[column], column, task, answers)
    encoded: Any = table.select_columns([image]).cast_column(image, _library().Image(decode=False))
    source = Rows(f"hf:{place}", split, encoded)
    return readable(Images(source, range(len(table)), targets, classes, task, split), skip_unreadable)


def _image_column(place: str, table: datasets.Dataset) -> str:
    found = [name for name, feature in table.features.items() if isinstance(feature, _library().Image)]
    if len(found) != 1:
        raise UsageError(f"hf:{plain(place)} needs one column of images; it has {some(found) or 'none'}")
    return found[0]


def _answer_column(place: str, table: datasets.Dataset, image: str) -> tuple[str, Task]:
    """The column named label or labels, or the only one that can be the answer."""
    tasks = {name: _task(name, feature) for name, feature in table.features.items() if name != image}
    fits = {name: task for name, task in tasks.items() if task is not None}
    chosen = [name for name in ("label", "labels") if name in fits] or list(fits)
    if len(chosen) != 1:
        raise UsageError(
            f"hf:{plain(place)} needs one column of answers: a ClassLabel, a sequence of them, numbers, or a column "
            f"label; it has {some(list(fits)) or 'none'}"
        )
    return chosen[0], fits[chosen[0]]


def _task(name: str, feature: Any) -> Task | None:
    """What a column of this type asks, if it asks anything."""
    inner = getattr(feature, "feature", None)
    if isinstance(feature, _library().ClassLabel):
        return "multiclass"
    if isinstance(inner, _library().ClassLabel):
        return "multilabel"
    if _is_float(feature) or _is_float(inner):
        return "regression"
    return "multiclass" if name == "label" and inner is None and _is_word(feature) else None


def _is_float(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("float16", "float32", "float64")


def _is_word(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string", "int8", "int16", "int32", "int64")


def _targets(
    place: str, feature: Any, column: str, task: Task, answers: Sequence
) -> tuple[tuple[str, ...], np.ndarray]:
    hidden = task == "multiclass" and -1 in answers  # how the Hub hides the answers of a test split
    if hidden or any(answer is None for answer in answers):
        raise UsageError(f"hf:{plain(place)}: column {plain(column)} has rows without an answer")
    where = f"hf:{place}"
    if task == "regression":
        targets = _numbers(where, answers)
        width = targets.shape[1]
        return (column,) if width == 1 else tuple(f"{column}.{i}" for i in range(width)), targets
    if task == "multilabel":
        classes = tuple(feature.feature.names)
        check_classes(where, classes, len(answers), task)
        targets = np.zeros((len(answers), len(classes)), dtype=np.int64)
        for row, answer in zip(targets, answers, strict=True):
            row[[_known(where, label, len(classes)) for label in answer]] = 1
        return classes, targets
    if isinstance(feature, _library().ClassLabel):
        check_classes(where, feature.names, len(answers), task)
        labels = [_known(where, answer, len(feature.names)) for answer in answers]
        return tuple(feature.names), np.array(labels, dtype=np.int64)
    classes = sorted_names({str(answer) for answer in answers})
    check_classes(where, classes, len(answers), task)
    place_of = {name: i for i, name in enumerate(classes)}
    return classes, np.array([place_of[str(answer)] for answer in answers], dtype=np.int64)


def _known(where: str, label: object, classes: int) -> int:
    """A label, if it is one. Raises UsageError."""
    if type(label) is not int or not 0 <= label < classes:
        raise UsageError(f"{plain(where)}: the label {quoted(label)} is none of the {classes:,} classes")
    return label


def _numbers(where: str, answers: Sequence) -> np.ndarray:
    """(n, C) float32. Raises UsageError for rows of different lengths, and for what is no number."""
    rows = [answer if isinstance(answer, list) else [answer] for answer in answers]
    bad = [row for row in rows if not row or len(row) != len(rows[0]) or not all(map(is_target, row))]
    if bad or not rows:
        found = quoted(bad[0]) if bad else "there are no rows"
        raise UsageError(f"{plain(where)}: every row needs as many numbers from -1e18 to 1e18: {found}")
    return np.array(rows, dtype=np.float32)
