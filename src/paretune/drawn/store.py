"""Drawn sets are kept for the next time, and checked against the hashes that came with this version.

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
"""Raised, and hashes.json written anew by scripts/offline_hashes.py, when the same seed draws other pictures."""

HASHES = Path(__file__).with_name("hashes.json")
SEED = 0
"""The seed whose pictures hashes.json knows."""


def kept(name: str, seed: int, draw: Callable[[], list[Drawn]]) -> list[Drawn]:
    """A task's sets from the cache; drawn, and put there, if the cache has none or a damaged file.

    A cache that cannot be written costs a warning and the seconds of drawing, nothing else.
    """
    file = cache_folder() / "offline" / f"{name}-seed{seed}-version{VERSION}.npz"
    sets = _read(file)
    if sets is None:
        sets = draw()
        try:
            _write(file, sets)
        except OSError as problem:
            warnings.warn(f"{name} cannot be kept in {file.parent}, it is drawn every time: {problem}", stacklevel=3)
    return sets


def check(name: str, parts: dict[str, ImageArrays]) -> None:
    """Raise UsageError if the parts of a task, drawn from SEED, are not to the byte those of this VERSION."""
    known = json.loads(HASHES.read_text(encoding="utf-8"))["sha256"][name]
    other = [part for part, data in parts.items() if data.describe()["fingerprint"] != known[part]]
    if other:
        raise UsageError(
            f"offline task '{name}': torch {version('torch')} draws other pictures on this machine than version "
            f"{VERSION} of the suite has, in {', '.join(other)}; results would not compare with published ones. Use "
            f"another version of torch, or offline_parts('{name}', verify=False) to work with the pictures as they are"
        )


def _digest(sets: list[Drawn]) -> str:
    content = hashlib.sha256()
    for array in (array for one in sets for array in one):
        content.update(f"{array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def _write(file: Path, sets: list[Drawn]) -> None:
    """Write under a name of this process's own first, so that nobody ever reads half a file."""
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
    """The sets of a file, None if it is not there or not what was written."""
    try:
        with file.open("rb") as stream, np.load(stream) as found:
            sets = [tuple(found[f"{kind}{i}"] for kind in _KINDS) for i in range(len(found.files) // len(_KINDS))]
            return sets if found["digest"] == _digest(sets) else None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


_KINDS = ("images", "targets")
