"""Open data of any format. One text says which data:

photos                     a folder of class folders, or a folder with train/ val/ test/ that contain class folders
photos.csv                 a table: path, label
shards, "train-*.tar"      tar shards as webdataset writes them: a folder, or a pattern with * or {000..009}
vtab/cifar                 a task of VTAB-1K
hf:NAME[:CONFIG]           Hugging Face datasets: an id on the Hub, or a folder
cifar100:ROOT              CIFAR-100, SVHN, Food-101 and the five sets of FGVC in ROOT, by the names in `NAMED`

With `?shots=4` at the end, 4 training images of each class are used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from paretune.data.dataset import Images, labelled_by, readable, some
from paretune.data.folder import folder_parts
from paretune.data.hub import hub_parts
from paretune.data.named import NAMED
from paretune.data.shards import is_shards, shard_parts
from paretune.data.splitting import Parts, Splits, few, split_off
from paretune.data.table import table_parts
from paretune.data.task import Task
from paretune.data.vtab import is_vtab_task, task_folders, vtab_parts
from paretune.errors import UsageError, plain, refuse

FORMS = (
    "a folder with a folder of images per class, FILE.csv, a folder or pattern of .tar shards, a VTAB-1K task's "
    "folder, hf:NAME[:CONFIG], or NAME:ROOT"
)


def open_splits(
    data: str | Path,
    *,
    task: Task | None = None,
    seed: int = 0,
    val_share: float = 0.2,
    skip_unreadable: bool = False,
    download: bool = False,
    test: bool = True,
) -> Splits:
    """Training, validation and test images of `data`, all with the same classes.

    If there are no validation images, `val_share` of each class is drawn from the training images with `seed`; at least
    one image goes into each part. All images are decoded once, so that a damaged image is reported at the start and not
    in a later epoch. Well-known sets and VTAB-1K are not checked: `paretune data verify` does that.

    Args:
        task: the task of the data; needed only if the data do not say it, such as an ambiguous CSV.
        skip_unreadable: leave damaged images out, also those of well-known sets. If an image becomes unreadable later,
            the next image takes its place.
        download: download a named set if it is missing.
        test: also read the test images.

    Raises:
        UsageError: the data do not exist or have an unknown format; there is nothing to train on; there are fewer than
            two classes, or a class without images; the splits have different classes; images cannot be read (the error
            names all of them) and `skip_unreadable` is not set.
    """
    place, shots = _shots(data)
    parts = parts_of(place, task, skip_unreadable, download)
    if "train" not in parts and "all" not in parts:
        raise UsageError(f"{plain(place)} has no split or folder train, only {', '.join(parts)}")
    whole = _of_task((parts.get("train") or parts["all"])(), task)
    if whole.task == "multiclass" and len(whole.classes) < 2:
        raise UsageError(f"{plain(place)} has only one class, '{plain(whole.classes[0])}': training needs at least two")
    if "val" in parts:
        train, val = replace(whole, split="train"), _same_classes(parts["val"](), whole)
    else:
        train, val = split_off(replace(whole, split="all"), val_share, seed)
    train = few(train, shots, seed) if shots else train
    return Splits(train, val, labelled_by(parts["test"](), whole.classes) if test and "test" in parts else None)


def open_split(
    data: str | Path,
    split: str,
    classes: tuple[str, ...],
    *,
    task: Task | None = None,
    skip_unreadable: bool = False,
) -> Images:
    """One split without any selection, with targets that refer to `classes`. Data without splits have the split "all".

    A class may have no images in the split. Raises UsageError in the cases of `open_splits`, and if the split has a
    class that is not in `classes`.
    """
    place, _ = _shots(data)
    parts = parts_of(place, task, skip_unreadable)
    if split not in parts:
        raise UsageError(f"{plain(place)} has no split '{plain(split)}': use {' or '.join(parts)}")
    return labelled_by(_of_task(parts[split](), task), classes)


def available_splits(data: str | Path, task: Task | None = None) -> list[str]:
    """The splits of the data; ["all"] for data without splits."""
    return list(parts_of(_shots(data)[0], task))


def parts_of(
    place: str | Path, task: Task | None = None, skip_unreadable: bool = False, download: bool = False
) -> Parts:
    """How to read each split of data. Raises UsageError, which lists the formats, if the format is unknown."""
    form, read = form_of(place, task, skip_unreadable, download)
    found = read()
    if not skip_unreadable:
        return found
    known = form == "vtab" or form in NAMED  # their images are not checked otherwise
    return {split: partial(_lenient, part, known) for split, part in found.items()}


def _lenient(read: Callable[[], Images], check: bool) -> Images:
    """Images without those that cannot be read, now or later."""
    images = read()
    return replace(readable(images, skip_unreadable=True) if check else images, lenient=True)


def form_of(
    place: str | Path, task: Task | None = None, skip_unreadable: bool = False, download: bool = False
) -> tuple[str, Callable[[], Parts]]:
    """The name of the data's format, and how to find their splits. Raises UsageError in the cases of `parts_of`."""
    name, colon, rest = str(place).partition(":")
    path = Path(place)
    if colon and name == "hf":
        return "hf", partial(hub_parts, rest, skip_unreadable)
    if colon and name in NAMED:
        return name, partial(_named_parts, name, Path(rest), download)
    if is_shards(str(place)):
        return "shards", partial(shard_parts, str(place), skip_unreadable)
    if path.suffix.lower() == ".csv" and os.path.isfile(path):
        return "csv", partial(table_parts, path, task, skip_unreadable)
    if not os.path.isdir(path):
        problem = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UsageError(f"data folder {plain(place)} {problem}; give {FORMS}, where NAME is {' or '.join(NAMED)}")
    if tasks := task_folders(path):
        raise UsageError(
            f"{plain(path)} has the VTAB-1K tasks {some(tasks)}: give one of them, such as {plain(path / tasks[0])}"
        )
    if is_vtab_task(path):
        return "vtab", partial(vtab_parts, path)
    return "folder", partial(folder_parts, path, skip_unreadable)


def _named_parts(name: str, root: Path, download: bool) -> Parts:
    """The splits of a well-known set. Raises UsageError, also if the operating system cannot read the place."""
    try:
        return NAMED[name](root, download)
    except OSError as problem:
        raise UsageError(f"{plain(root)} does not contain {name}: {plain(problem.strerror or problem)}") from None


def _shots(data: str | Path) -> tuple[str, int | None]:
    """The place of the data, and the number after ?shots= or None."""
    place, asked, query = str(data).partition("?shots=")
    if asked and not re.fullmatch(r"[0-9]{1,9}", query):
        raise UsageError(f"{plain(data)}: ?shots= needs a number of images per class, such as ?shots=4")
    return place, int(query) if query else None


def _of_task(images: Images, task: Task | None) -> Images:
    if task not in (None, images.task):
        raise UsageError(f"{plain(images.source.where)} has the task {images.task}, not {task}")
    return images


def _same_classes(val: Images, train: Images) -> Images:
    """`val` with targets that refer to the classes of `train`. Raises UsageError if their classes differ."""
    known, own = set(train.classes), set(val.classes)
    problems = [f"class '{plain(name)}' is missing" for name in train.classes if name not in own]
    problems += [f"class '{plain(name)}' is not in train" for name in val.classes if name not in known]
    more = [f"and {len(problems) - 10:,} more"] if len(problems) > 10 else []
    refuse(problems[:10] + more, f"{val.source.where}: val must have the same classes as train")
    return labelled_by(val, train.classes)
