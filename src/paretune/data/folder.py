"""A folder of images, one sub-folder per class.

ROOT/train/CLASS/*.png   ROOT/val/CLASS/*.png   [ROOT/test/CLASS/*.png]      used as it is
ROOT/CLASS/*.png   or   ROOT/train/CLASS/*.png alone                         paretune splits off "val"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from paretune.data.dataset import Images, labelled_by, readable, some
from paretune.data.files import Files, Tree, folders_in, left_out
from paretune.data.splitting import SPLITS, Parts
from paretune.errors import UsageError, plain


def folder_parts(root: Path, skip_unreadable: bool = False) -> Parts:
    """The splits of a tree of class folders, or {"all": ...} if it has no splits.

    Reading a split raises UsageError for a tree without class folders, for a class without images, and for unreadable
    images (it names all of them) unless `skip_unreadable`.
    """
    found = _folders_of_splits(root)
    return {split: partial(_read, root, found, split, skip_unreadable) for split in found}


def folder_task(root: Path) -> dict[str, Images]:
    """The parts of a task from a tree with train, val and test: train800, val200, both as train800val200, and test.

    Raises UsageError for a missing split, and in the cases of `folder_parts`.
    """
    parts = folder_parts(root)
    if missing := [split for split in SPLITS if split not in parts]:
        raise UsageError(f"{plain(root)} lacks {some(missing)}: a task of a suite needs train, val and test")
    train = parts["train"]()
    val, test = (labelled_by(parts[split](), train.classes) for split in ("val", "test"))
    both = replace(train, keys=(*train.keys, *val.keys), targets=np.concatenate([train.targets, val.targets]))
    named = {"train800": train, "val200": val, "train800val200": both, "test": test}
    return {name: replace(images, split=name) for name, images in named.items()}


def class_folders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden folders."""
    return [name for name in folders_in(path) if not name.startswith((".", "__"))]


def _folders_of_splits(root: Path) -> dict[str, Path]:
    """The folders of the splits: {"train": ..., "val": ..., "test": ...}, those that exist, or {"all": root}."""
    parts = {split: root / name for split, names in SPLITS.items() for name in names if (root / name).is_dir()}
    if any(class_folders(part) for part in parts.values()):
        if "train" in parts and not class_folders(parts["train"]):
            raise UsageError(
                f"{plain(parts['train'])} contains no class folders, although {plain(root)} has splits: put the images "
                "into train/CLASS/"
            )
        return parts
    if parts and set(class_folders(root)) <= {part.name for part in parts.values()}:
        raise UsageError(
            f"{plain(root)} has {some(class_folders(root))}, but no class folders in them: expected train/CLASS/*.png"
        )
    return {"all": root}


def _read(root: Path, parts: dict[str, Path], split: str, skip_unreadable: bool) -> Images:
    """Every image of one split, after a check that it can be decoded."""
    part = parts[split]
    classes = tuple(class_folders(part))
    if not classes:
        raise UsageError(
            f"{plain(part)} contains no class folders: expected {plain(part)}/CLASS/*.png, one folder per class"
        )
    tree = Tree([here / name for here in parts.values() for name in ("", *class_folders(here))])
    found = {name: tree.images(part / name) for name in classes}
    _no_empty_class(part, [name for name, files in found.items() if not files])
    keys = tuple(path.relative_to(root).as_posix() for files in found.values() for path in files)
    targets = np.repeat(np.arange(len(classes)), [len(files) for files in found.values()])
    images = readable(Images(Files(root), keys, targets, classes, split=split), skip_unreadable)
    there = set(images.targets.tolist())
    _no_empty_class(part, [name for i, name in enumerate(classes) if i not in there])
    return images


def left_out_of(root: Path, seen: Sequence[Images]) -> list[str]:
    """Files and folders below a tree of class folders that are not images in `seen` and not skipped as unreadable."""
    names = {images.name(i) for images in seen for i in range(len(images))}
    return left_out(root, names | {name for images in seen for name, _ in images.skipped})


def _no_empty_class(part: Path, empty: list[str]) -> None:
    if empty:
        raise UsageError(
            f"no readable images in {some([str(part / name) for name in empty])}: remove or fill the folder"
        )
