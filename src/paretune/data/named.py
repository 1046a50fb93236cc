"""Well-known data sets in a folder, by name: cifar100:ROOT, svhn:ROOT, food101:ROOT, and the five of FGVC.

The layouts are those of torchvision: ROOT/cifar-100-python/, ROOT/train_32x32.mat and test_32x32.mat,
ROOT/food-101/meta/train.json and images/CLASS/*.jpg. CIFAR-100 is a pickle: torchvision opens it only if its checksum
is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paretune.data.dataset import Images, Numbered
from paretune.data.fgvc import LAYOUTS, fgvc_parts
from paretune.data.files import Files
from paretune.data.splitting import Parts
from paretune.data.text import read_entries
from paretune.errors import UsageError, plain

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Pixels(Numbered):
    """Pictures in memory, (n, H, W, 3) uint8. A key is the number of a row. `encoded` gives a BMP file."""

    pixels: np.ndarray

    def size(self, key: int) -> int:
        return self.pixels[key].nbytes

    def encoded(self, key: int) -> bytes:
        file = BytesIO()
        Image.fromarray(self.pixels[key]).save(file, "BMP")
        return file.getvalue()


def _cifar100(root: Path, download: bool = False) -> Parts:
    from torchvision.datasets import CIFAR100

    def read(split: str) -> Images:
        found = _fetched(CIFAR100, "cifar100", root, download, train=split == "train")
        return _in_memory(f"cifar100:{root}", split, found.data, found.targets, found.classes)

    return {split: partial(read, split) for split in SPLITS}


def _svhn(root: Path, download: bool = False) -> Parts:
    from torchvision.datasets import SVHN

    def read(split: str) -> Images:
        found = _fetched(SVHN, "svhn", root, download, split=split)
        return _in_memory(f"svhn:{root}", split, found.data.transpose(0, 2, 3, 1), found.labels, map(str, range(10)))

    return {split: partial(read, split) for split in SPLITS}


def _food101(root: Path, download: bool = False) -> Parts:
    if download:
        from torchvision.datasets import Food101

        Food101(root, download=True)
    folder = root / "food-101"

    def read(split: str) -> Images:
        file = folder / "meta" / f"{split}.json"
        lists = read_entries(file, "{class: [paths]}", _are_paths)
        classes = tuple(sorted(lists))
        pairs = [(f"images/{path}.jpg", label) for label, name in enumerate(classes) for path in lists[name]]
        targets = np.array([label for _, label in pairs], dtype=np.int64)
        return Images(Files(folder), tuple(path for path, _ in pairs), targets, classes, split=split)

    if not (folder / "meta").is_dir():
        raise UsageError(
            f"{plain(root)} does not hold food101: expected {plain(folder)}/meta; "
            "`paretune train --download` downloads it"
        )
    return {split: partial(read, split) for split in SPLITS}


def _are_paths(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(path, str) for path in value)


def _fetched(kind: Callable, name: str, root: Path, download: bool, **which: Any) -> Any:
    """torchvision's data set. Raises UsageError if its files are missing or wrong."""
    try:
        return kind(root, download=download, **which)
    except RuntimeError as problem:
        raise UsageError(
            f"{plain(root)} does not hold {name} with all of its files; `paretune train --download` downloads them"
        ) from problem


def _in_memory(place: str, split: str, pixels: np.ndarray, targets: Any, classes: Any) -> Images:
    source = Pixels(place, split, pixels)
    return Images(source, range(len(pixels)), np.asarray(targets, dtype=np.int64), tuple(classes), split=split)


NAMED: dict[str, Callable[[Path, bool], Parts]] = {
    "cifar100": _cifar100,
    "svhn": _svhn,
    "food101": _food101,
    **{name: partial(fgvc_parts, name) for name in LAYOUTS},
}
SIZES = {
    "cifar100": {"train": 50000, "test": 10000},
    "svhn": {"train": 73257, "test": 26032},
    "food101": {"train": 75750, "test": 25250},
    **{name: layout.sizes for name, layout in LAYOUTS.items()},
}
"""The published number of images of each split."""
