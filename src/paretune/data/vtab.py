"""VTAB-1K: 19 tasks with 1000 training images each, in the layout that most codes of PEFT papers use.

ROOT/cifar/train800.txt  val200.txt  train800val200.txt  test.txt         a line: images/train800/000000.jpg 49
ROOT/cifar/images/train800/000000.jpg  ...  images/test/009999.jpg

A list may also be JSON, [{"train800val200/000000.png": 49}, ...] with paths that start at the folder images, as in
SynQT's lossless copies. If the lists of train800 and val200 are missing, they are the first 800 and the last 200 images
of train800val200. The names of the classes are their numbers.

Zhai et al. 2019 (arXiv:1910.04867); the layout is NOAH's (Zhang et al. 2022, arXiv:2206.04673).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from paretune.data.dataset import Images
from paretune.data.files import Files
from paretune.data.splitting import Parts
from paretune.data.task import class_count
from paretune.data.text import read_json, read_text
from paretune.errors import UsageError, plain, quoted, unknown

LISTS = ("train800", "val200", "train800val200", "test")
SIZES = {"train800": 800, "val200": 200, "train800val200": 1000}


@dataclass(frozen=True)
class VtabTask:
    """One of the 19 tasks: its group, the number of classes and the number of test images."""

    group: str
    classes: int
    test: int


VTAB = {
    name: VtabTask(group, classes, test)
    for group, rows in {
        "natural": (
            ("cifar", 100, 10000), ("caltech101", 102, 6084), ("dtd", 47, 1880), ("oxford_flowers102", 102, 6149),
            ("oxford_iiit_pet", 37, 3669), ("svhn", 10, 26032), ("sun397", 397, 21750),
        ),
        "specialized": (
            ("patch_camelyon", 2, 32768), ("eurosat", 10, 5400), ("resisc45", 45, 6300),
            ("diabetic_retinopathy", 5, 42670),
        ),
        "structured": (
            ("clevr_count", 8, 15000), ("clevr_dist", 6, 15000), ("dmlab", 6, 22735), ("kitti", 4, 711),
            ("dsprites_loc", 16, 73728), ("dsprites_ori", 16, 73728), ("smallnorb_azi", 18, 12150),
            ("smallnorb_ele", 9, 12150),
        ),
    }.items()
    for name, classes, test in rows
}  # fmt: skip
"""The 19 tasks by the names of their folders, in the order of the tables."""


def is_vtab_task(folder: Path) -> bool:
    """Whether a folder contains a task: it has a list of training images."""
    return any(_list_file(folder, name) for name in ("train800", "train800val200"))


def task_folders(root: Path) -> list[str]:
    """The names of the folders in `root` that contain a task, sorted; [] if there is no such folder."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return [folder.name for folder in folders if folder.is_dir() and is_vtab_task(folder)]


def vtab_task(root: str | Path, name: str) -> dict[str, Images]:
    """The parts of the task `name` in `root` that exist: train800, val200, train800val200 and test.

    A task of your own may have any name. Raises UsageError for a name that is not one of the 19 and not a folder, and
    for lists that are missing or contain wrong lines.
    """
    folder = Path(root) / name
    if name not in VTAB and not folder.is_dir():
        raise unknown("VTAB-1K task", name, list(VTAB))
    return {part: read() for part, read in vtab_lists(folder).items()}


def vtab_parts(folder: Path) -> Parts:
    """The splits of one task's folder: train is train800, val is val200; train800val200 keeps its name."""
    lists = vtab_lists(folder)
    named = {"train": "train800", "val": "val200", "test": "test", "train800val200": "train800val200"}
    return {split: partial(_renamed, lists[name], split) for split, name in named.items() if name in lists}


def vtab_lists(folder: Path) -> Parts:
    """How to read each list of a task's folder that exists or is a part of train800val200."""
    files = {name: _list_file(folder, name) for name in LISTS}
    if not is_vtab_task(folder):
        raise UsageError(f"{plain(folder)} is not a VTAB-1K task: there is no train800.txt and no train800val200.txt")
    parts = {name: partial(_read, folder, name, file) for name, file in files.items() if file}
    if files["train800val200"]:
        first = {"train800": slice(800), "val200": slice(800, None)}
        parts |= {name: partial(_taken, parts["train800val200"], name, rows) for name, rows in first.items()
                  if name not in parts}  # fmt: skip
    return {name: parts[name] for name in LISTS if name in parts}


def _renamed(read, split: str) -> Images:
    return replace(read(), split=split)


def _taken(read, name: str, rows: slice) -> Images:
    whole = read()
    return whole.part(range(len(whole))[rows], name)


def _list_file(folder: Path, name: str) -> Path | None:
    return next((file for ending in ("txt", "json") if (file := folder / f"{name}.{ending}").is_file()), None)


def _read(folder: Path, name: str, file: Path) -> Images:
    pairs = _pairs(file)
    if not pairs:
        raise UsageError(f"{plain(file)} lists no images")
    labels = [label for _, label in pairs]
    classes = VTAB[folder.name].classes if folder.name in VTAB else _classes(folder)
    if min(labels) < 0 or max(labels) >= classes:
        low, high = quoted(min(labels)), quoted(max(labels))
        raise UsageError(f"{plain(file)} has labels from {low} to {high}, but there are {classes} classes")
    labels = np.array(labels, dtype=np.int64)
    return Images(Files(folder), tuple(path for path, _ in pairs), labels, tuple(map(str, range(classes))), split=name)


def _classes(folder: Path) -> int:
    """The number of classes of a task that is not one of the 19: one more than the highest label in its lists."""
    files = [file for name in LISTS if (file := _list_file(folder, name))]
    labels = [label for file in files for _, label in _pairs(file)]
    return class_count(folder, labels) if labels else 0


def _pairs(file: Path) -> list[tuple[str, int]]:
    """The paths and labels of a list. Raises UsageError for a wrong line."""
    return _json_pairs(file) if file.suffix == ".json" else _text_pairs(file)


def _text_pairs(file: Path) -> list[tuple[str, int]]:
    lines = [line.rsplit(maxsplit=1) for line in read_text(file).splitlines() if line.strip()]
    bad = next((i for i, words in enumerate(lines) if len(words) < 2 or not _is_label(words[1])), None)
    if bad is not None:
        found = quoted(" ".join(lines[bad]))
        raise UsageError(f"{plain(file)}, line {bad + 1}: expected a path and a number, found {found}")
    return [(path, int(label)) for path, label in lines]


def _json_pairs(file: Path) -> list[tuple[str, int]]:
    """From [{path: label}, ...] or {path: label, ...}. The paths start at the folder images."""
    content = read_json(file)
    groups = content if isinstance(content, list) else [content]
    for one in groups:
        if not isinstance(one, dict) or not all(map(_is_label, one.values())):
            raise UsageError(f"{plain(file)}: expected a list of {{path: label}}, found {quoted(one)}")
    return [(f"images/{path}", int(label)) for one in groups for path, label in one.items()]


def _is_label(value: object) -> bool:
    """Whether a value is a whole number, or a text of at most 18 digits."""
    if isinstance(value, str):
        return value.isdecimal() and len(value) <= 18
    return type(value) is int
