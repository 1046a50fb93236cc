"""Tokens that were computed once and are kept: in a file that is mapped into memory, or in memory.

CACHE/tokens/KEY/         KEY: a hash of all that decides the tokens, so later trainings on the same pictures find them
    0.bin, 1.bin, ...     the tensors of all images, one after the other: features, sizes, RoPE tables, trail
    targets.npy           the answers, in the same order
    kept.json             shapes and types of the tensors; the folder appears whole, or not at all

CACHE is the folder of `paretune.files.cache_folder`. Everything in it may be removed at any time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import Dataset

from paretune.core.tokens import Tokens
from paretune.data.samples import Samples
from paretune.files import cache_folder, locked, remove_folder, whole
from paretune.training.tasks import targets_of, task_of

MOST = 20 * 10**9  # bytes of all that is kept on the disk; the longest unused goes first


class Frame:
    """How the tokens of a batch are put together: what every image has of its own, and what all images share.

    two: the tokens of a batch of two images
    """

    def __init__(self, two: Tokens):
        self.two = two
        self.own = [t.shape[0] == 2 for t in tensors(two)]

    def parts(self, tokens: Tokens) -> list[Tensor]:
        """The tensors of tokens that every image has of its own, each (B, ...)."""
        return [t for t, own in zip(tensors(tokens), self.own, strict=True) if own]

    def tokens(self, parts: Sequence[Tensor]) -> Tokens:
        """The tokens whose `parts` these are."""
        given, own = iter(parts), iter(self.own)
        return mapped(self.two, lambda shared: next(given) if next(own) else shared)


def tensors(value: Any) -> list[Tensor]:
    """All tensors inside of a value, in a fixed order."""
    found: list[Tensor] = []
    mapped(value, lambda t: found.append(t) or t)
    return found


def mapped(value: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """The value with `f` applied to every tensor inside of it; knows dataclasses, tuples and dicts."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, tuple):
        entries = [mapped(one, f) for one in value]
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    if isinstance(value, dict):
        return {key: mapped(one, f) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: mapped(getattr(value, field.name), f) for field in fields(value)})
    return value


class KeptTokens(Dataset):
    """A data set's images as the parts of the tokens that enter block k, with their targets and classes.

    stores: tensors (images, ...), one for each part
    """

    def __init__(self, dataset: Samples, stores: list[Tensor], targets: np.ndarray):
        self.task, self.classes = task_of(dataset), dataset.classes
        self.stores, self.targets = stores, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int | np.ndarray]:
        target = self.targets[index]
        answer = int(target) if self.task == "multiclass" else target.astype(np.float32)
        return [store[index] for store in self.stores], answer

    @property
    def nbytes(self) -> int:
        """Bytes of the kept tensors."""
        return sum(store.nbytes for store in self.stores)


Fill = Callable[[list[Tensor], np.ndarray], None]


def filled(dataset: Samples, one: list[Tensor], key: str | None, fill: Fill) -> KeptTokens | None:
    """Keep the tokens of a data set: find them on the disk, or make room for them and let `fill` compute them.

    one: the parts of one image, (1, ...) each; key: None for tokens that no later training could find
    fill: called with empty stores and the targets, and writes both
    Returns None where there is no room.
    """
    size = len(dataset) * sum(part.nbytes for part in one)
    if key is not None and (folder := _room(key, size)) is not None:
        with locked(folder.with_suffix(".lock")):  # a second training on the same pictures waits for these tokens
            if not _complete(folder, one, len(dataset)):
                remove_folder(folder)
                with whole(folder) as new:
                    _write(new, dataset, one, fill)
            os.utime(folder)
            return _read(folder, dataset, one)
    if size > psutil.virtual_memory().available // 4:
        return None
    stores, targets = [part.new_empty(len(dataset), *part.shape[1:]) for part in one], np.array(targets_of(dataset))
    fill(stores, targets)
    return KeptTokens(dataset, stores, targets)


def forget(key: str) -> None:
    """Remove what is kept under this key."""
    remove_folder(_tokens_folder() / key)


def _tokens_folder() -> Path:
    return cache_folder() / "tokens"


def _room(key: str, size: int) -> Path | None:
    """The folder for `size` bytes of tokens; None where the disk has no room for them."""
    place = _tokens_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if (place / key / "kept.json").exists():
            return place / key
        most = min(MOST, shutil.disk_usage(place).free // 2)
        if size > most:
            return None
        _make_room(place, most - size)
    except OSError:
        return None
    return place / key


def _make_room(place: Path, left: int) -> None:
    """Remove what was not used for the longest time, until at most `left` bytes stay."""
    known = [(folder.stat().st_mtime, folder) for folder in place.iterdir() if (folder / "kept.json").exists()]
    for _, folder in sorted(known, reverse=True):
        left -= sum(file.stat().st_size for file in folder.iterdir())
        if left < 0:
            remove_folder(folder)


def _complete(folder: Path, one: list[Tensor], images: int) -> bool:
    """Whether the folder holds files of these sizes and says that they are such tensors."""
    try:
        known = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
        sizes = [(folder / f"{i}.bin").stat().st_size for i in range(len(one))]
    except (OSError, ValueError):
        return False
    return known == shapes(one) and sizes == [images * part.nbytes for part in one]


def _write(folder: Path, dataset: Samples, one: list[Tensor], fill: Fill) -> None:
    stores = [_mapped_file(folder, i, part, len(dataset), new=True) for i, part in enumerate(one)]
    targets = np.array(targets_of(dataset))
    fill(stores, targets)
    np.save(folder / "targets.npy", targets)
    (folder / "kept.json").write_text(json.dumps(shapes(one)), encoding="utf-8")


def _read(folder: Path, dataset: Samples, one: list[Tensor]) -> KeptTokens:
    stores = [_mapped_file(folder, i, part, len(dataset), new=False) for i, part in enumerate(one)]
    return KeptTokens(dataset, stores, np.load(folder / "targets.npy"))


def _mapped_file(folder: Path, i: int, part: Tensor, images: int, new: bool) -> Tensor:
    shape = (images, *part.shape[1:])
    file = folder / f"{i}.bin"
    if new:
        _reserve(file, images * part.nbytes)
    flat = torch.from_file(str(file), shared=new, size=images * part.numel(), dtype=part.dtype)
    return flat.view(shape)


def _reserve(file: Path, size: int) -> None:
    """A file of this size whose room on the disk is taken: writing to a mapped file cannot fail with an error."""
    with open(file, "wb") as new:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(new.fileno(), 0, size)
            return
        for start in range(0, size, 1 << 24):
            new.write(bytes(min(1 << 24, size - start)))


def shapes(one: list[Tensor]) -> list:
    """Type and shape of every part of an image, as JSON values."""
    return [[str(part.dtype), list(part.shape[1:])] for part in one]
