"""Keep drawn sets in a cache, and compare them with the hashes in hashes.json.

CACHE/offline/tissue-seed0-version1.npz

CACHE is the folder of `paretune.files.cache_folder`.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from paretune.data.arrays import ImageArrays
from paretune.drawn.task import Drawn
from paretune.errors import UsageError
from paretune.files import cache_folder

VERSION = 1
"""If the same seed draws other pictures, raise this number and write hashes.json with scripts/offline_hashes.py."""

HASHES = Path(__file__).with_name("hashes.json")
SEED = 0
"""The seed of the pictures whose hashes are in hashes.json."""


def kept(name: str, seed: int, draw: Callable[[], list[Drawn]]) -> list[Drawn]:
    """The sets of a task from the cache. If they are not there, or the file is damaged, draw them and keep them.

    If the cache cannot be written, a warning says so, and the sets are drawn every time.
    """
    file = cache_folder() / "offline" / f"{name}-seed{seed}-version{VERSION}.npz"
    sets = _read(file)
    if sets is None:
        sets = draw()
        try:
            _write(file, sets)
        except OSError as problem:
            warnings.warn(
                f"{name} cannot be written to {file.parent}, so it is drawn every time: {problem}", stacklevel=3
            )
    return sets


def check(name: str, parts: dict[str, ImageArrays]) -> None:
    """Raise UsageError if the parts of a task, drawn from SEED, differ in any byte from those of this VERSION."""
    known = json.loads(HASHES.read_text(encoding="utf-8"))["sha256"][name]
    other = [part for part, data in parts.items() if data.describe()["fingerprint"] != known[part]]
    if other:
        raise UsageError(
            f"offline task '{name}': torch {version('torch')} on this machine draws pictures that differ from those of "
            f"version {VERSION} of the suite, in {', '.join(other)}; results could not be compared with published "
            f"ones. Use another version of torch, or offline_parts('{name}', verify=False) to use these pictures anyway"
        )


def _digest(sets: list[Drawn]) -> str:
    content = hashlib.sha256()
    for array in (array for one in sets for array in one):
        content.update(f"{array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def _write(file: Path, sets: list[Drawn]) -> None:
    """Write to a temporary name of this process, then rename, so that no process reads an incomplete file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    arrays: dict[str, Any] = {
        f"{kind}{i}": array for i, one in enumerate(sets) for kind, array in zip(_KINDS, one, strict=True)
    }
    try:
        np.savez_compressed(new, digest=np.array(_digest(sets)), **arrays)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def _read(file: Path) -> list[Drawn] | None:
    """The sets in a file, or None if there is no file or it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream) as found:
            sets = [tuple(found[f"{kind}{i}"] for kind in _KINDS) for i in range(len(found.files) // len(_KINDS))]
            return sets if found["digest"] == _digest(sets) else None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


_KINDS = ("images", "targets")
