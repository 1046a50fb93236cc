"""Data sets of the Hugging Face `datasets` library: hf:NAME[:CONFIG], an id on the Hub or a local folder.

A folder is one that `save_to_disk` wrote, or one that `load_dataset` accepts: imagefolder, parquet, ... The image
column is found by its type. The answer is a ClassLabel (multiclass), a sequence of them (multilabel), numbers
(regression), or a column with the name label. Needs paretune[hf].
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
    """The pictures of one split of a Hugging Face data set. A key is the number of a row."""

    table: datasets.Dataset

    def size(self, key: int) -> int:
        return len(self.encoded(key))

    def encoded(self, key: int) -> bytes:
        (image,) = self.table[key].values()
        if image is None:
            raise UnreadableImage(f"{self.where}/{self.name(key)}", "the row has no image")
        return file_bytes(image["path"]) if image["bytes"] is None else image["bytes"]


def hub_parts(place: str, skip_unreadable: bool = False) -> Parts:
    """The splits of a Hugging Face data set, or {"all": ...} if it has no splits. Its split validation becomes val.

    Raises UsageError if the library is missing, if the data set does not exist, or if the columns of the images and of
    the answers are not clear.
    """
    tables = _load(place)
    named = {split_name(name) or name: table for name, table in tables.items()}
    if len(named) < len(tables):
        raise UsageError(
            f"hf:{plain(place)} has the splits {some(list(tables))}: two of them mean the same; rename one"
        )
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
    except Exception as problem:  # the library and pyarrow raise exceptions of any kind
        said = next(iter(str(problem).splitlines()), "") or type(problem).__name__
        raise UsageError(f"hf:{plain(place)} cannot be read: {plain(said)}") from problem
    return dict(found) if isinstance(found, dict) else {"all": found}


def _check_name(place: str, name: str) -> None:
    """Raise UsageError for an empty name, and for a folder that contains the current one: a search would take hours."""
    here = Path.cwd()
    if not name.strip():
        raise UsageError("hf: needs a name: hf:NAME, hf:NAME:CONFIG or hf:FOLDER")
    if "\0" not in name and Path(name).is_dir() and Path(name).resolve() in (here, *here.parents):
        raise UsageError(f"hf:{plain(place)} is the current folder or contains it: give the folder of the data")


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError("hf: data need the library datasets: pip install 'paretune[hf]'") from error
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
    """The column with the name label or labels, or the only column that can be the answer."""
    tasks = {name: _task(name, feature) for name, feature in table.features.items() if name != image}
    fits = {name: task for name, task in tasks.items() if task is not None}
    chosen = [name for name in ("label", "labels") if name in fits] or list(fits)
    if len(chosen) != 1:
        raise UsageError(
            f"hf:{plain(place)} needs one column of answers: a ClassLabel, a sequence of them, numbers, or a column "
            f"with the name label; it has {some(list(fits)) or 'none'}"
        )
    return chosen[0], fits[chosen[0]]


def _task(name: str, feature: Any) -> Task | None:
    """The task of a column with this type, or None if it cannot be the answer."""
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
    hidden = task == "multiclass" and -1 in answers  # the Hub hides the answers of a test split like this
    if hidden or any(answer is None for answer in answers):
        raise UsageError(f"hf:{plain(place)}: the column {plain(column)} has rows without an answer")
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
    """The label. Raises UsageError if it is not a number from 0 to `classes` - 1."""
    if type(label) is not int or not 0 <= label < classes:
        raise UsageError(f"{plain(where)}: the label {quoted(label)} is not one of the {classes:,} classes")
    return label


def _numbers(where: str, answers: Sequence) -> np.ndarray:
    """(n, C) float32. Raises UsageError for rows of different lengths and for values that are not numbers."""
    rows = [answer if isinstance(answer, list) else [answer] for answer in answers]
    bad = [row for row in rows if not row or len(row) != len(rows[0]) or not all(map(is_target, row))]
    if bad or not rows:
        found = quoted(bad[0]) if bad else "no rows"
        raise UsageError(f"{plain(where)}: every row needs the same count of numbers from -1e18 to 1e18; found {found}")
    return np.array(rows, dtype=np.float32)
