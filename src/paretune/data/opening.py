"""Every form that data come in, by one name.

photos                     a folder of class folders, as it is or below train/ val/ test/
photos.csv                 a table: path, label
shards, "train-*.tar"      tar shards as webdataset writes them: a folder, or a pattern with * or {000..009}
vtab/cifar                 a task of VTAB-1K
hf:NAME[:CONFIG]           Hugging Face datasets: an id on the Hub, or a folder
cifar100:ROOT              CIFAR-100, SVHN, Food-101 and the five sets of FGVC below ROOT, by the names in `NAMED`

`?shots=4` behind any of them keeps 4 training images a class.
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

    Where there are no validation images, `val_share` of each class (at least one image, and at least one is left to
    train on) is drawn with `seed`. Files, tables, shards and rows are probed, so that a damaged image is named now and
    not in the ninth epoch; the well-known sets are left to `paretune data verify`.

    Args:
        task: what the data ask; needed only where they do not say, such as an ambiguous CSV.
        skip_unreadable: leave damaged images out, also of well-known sets; where one becomes unreadable later on, the
            next image takes its place.
        download: fetch a named set that is not there.
        test: read the test images too.

    Raises:
        UsageError: no such data, or a form that is not known; nothing to train on; fewer than two classes, a class
            without images; parts with different classes; unreadable images (all are named) unless `skip_unreadable`.
    """
    place, shots = _shots(data)
    parts = parts_of(place, task, skip_unreadable, download)
    if "train" not in parts and "all" not in parts:
        raise UsageError(f"{plain(place)}: there is no train folder or split, only {', '.join(parts)}")
    whole = _of_task((parts.get("train") or parts["all"])(), task)
    if whole.task == "multiclass" and len(whole.classes) < 2:
        raise UsageError(
            f"{plain(place)} holds one class only, '{plain(whole.classes[0])}': at least two are needed to train on"
        )
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
    """One split as it lies there, labelled by `classes`; "all" for data without splits.

    Classes may have no images there, unknown ones may not be there. Raises UsageError as `open_splits`.
    """
    place, _ = _shots(data)
    parts = parts_of(place, task, skip_unreadable)
    if split not in parts:
        raise UsageError(f"{plain(place)} has no split '{plain(split)}': use {' or '.join(parts)}")
    return labelled_by(_of_task(parts[split](), task), classes)


def available_splits(data: str | Path, task: Task | None = None) -> list[str]:
    """The splits that data come with; ["all"] where they are not split."""
    return list(parts_of(_shots(data)[0], task))


def parts_of(
    place: str | Path, task: Task | None = None, skip_unreadable: bool = False, download: bool = False
) -> Parts:
    """How to read each split of any form of data. Raises UsageError, with the forms there are, for what is none."""
    form, read = form_of(place, task, skip_unreadable, download)
    found = read()
    if not skip_unreadable:
        return found
    known = form == "vtab" or form in NAMED  # what is not looked at otherwise
    return {split: partial(_lenient, part, known) for split, part in found.items()}


def _lenient(read: Callable[[], Images], check: bool) -> Images:
    """Images that leave out what cannot be read, now and later on."""
    images = read()
    return replace(readable(images, skip_unreadable=True) if check else images, lenient=True)


def form_of(
    place: str | Path, task: Task | None = None, skip_unreadable: bool = False, download: bool = False
) -> tuple[str, Callable[[], Parts]]:
    """Which form data have, by name, and how to find their parts. Raises UsageError as `parts_of`."""
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
        raise UsageError(f"data folder {plain(place)} {problem}; data are {FORMS} with NAME one of {', '.join(NAMED)}")
    if tasks := task_folders(path):
        raise UsageError(
            f"{plain(path)} holds the VTAB-1K tasks {some(tasks)}: name one of them, such as {plain(path / tasks[0])}"
        )
    if is_vtab_task(path):
        return "vtab", partial(vtab_parts, path)
    return "folder", partial(folder_parts, path, skip_unreadable)


def _named_parts(name: str, root: Path, download: bool) -> Parts:
    """The splits of a well-known set. Raises UsageError, for a place that the disk cannot have too."""
    try:
        return NAMED[name](root, download)
    except OSError as problem:
        raise UsageError(f"{plain(root)} does not hold {name}: {plain(problem.strerror or problem)}") from None


def _shots(data: str | Path) -> tuple[str, int | None]:
    """The data's place and the number behind ?shots=, if any."""
    place, asked, query = str(data).partition("?shots=")
    if asked and not re.fullmatch(r"[0-9]{1,9}", query):
        raise UsageError(f"{plain(data)}: ?shots= needs a number of images per class, such as ?shots=4")
    return place, int(query) if query else None


def _of_task(images: Images, task: Task | None) -> Images:
    if task not in (None, images.task):
        raise UsageError(f"{plain(images.source.where)} is {images.task}, not {task}")
    return images


def _same_classes(val: Images, train: Images) -> Images:
    """`val` labelled as `train`. Raises UsageError where their classes are not the same."""
    known, own = set(train.classes), set(val.classes)
    problems = [f"class '{plain(name)}' is missing" for name in train.classes if name not in own]
    problems += [f"class '{plain(name)}' is not in train" for name in val.classes if name not in known]
    more = [f"and {len(problems) - 10:,} more"] if len(problems) > 10 else []
    refuse(problems[:10] + more, f"{val.source.where}: val must have the same classes as train")
    return labelled_by(val, train.classes)
