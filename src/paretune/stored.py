"""Backbones that were read from a local file, kept once for all runs that were trained on them.

    CACHE/backbones/FINGERPRINT.safetensors    the frozen tensors, called 00000, 00001... in the order of their names
    CACHE/backbones/lock                       held while one is written or removed

CACHE is the folder of `paretune.files.cache_folder`. The name of a file is the fingerprint of its content, so equal
backbones are kept once, and a damaged file is noticed. A run says the fingerprint and, as a hint for people, where the
weights came from. This path is printed and never opened: a folder of unknown origin must not choose what is read.
Everything here may be removed; then the file that the weights came from must be named once, with --checkpoint.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from paretune.errors import UsageError, plain, quoted
from paretune.files import FULL, Staged, cache_folder, locked, sweep
from paretune.frozen import fingerprint, on_cpu
from paretune.tensorfile import check_fit, opened, read_tensors, write_tensors

ADVICE = (
    "name the file that the weights came from once more, with --checkpoint FILE of eval, predict or show, or with "
    "load(folder, checkpoint=FILE)"
)
SUFFIX, LOCK = ".safetensors", "lock"
_LOG = logging.getLogger(__name__)


def place() -> Path:
    """The folder of the backbones."""
    return cache_folder() / "backbones"


def entry(digest: str) -> Path:
    """Where the backbone of this fingerprint is kept, if it is."""
    return place() / f"{digest}{SUFFIX}"


def find(digest: str, folder: Path, hint: str) -> Path:
    """The file of a run's backbone. Raises UsageError, which says where it was looked for, if it is not there.

    folder: the run; hint: where its weights came from, which is only told
    """
    file = entry(digest)
    if not file.is_file():
        raise UsageError(
            f"the backbone of '{plain(folder)}' is not in the cache: looked for {file}; its weights came from "
            f"{quoted(hint)} on the machine of the training; {ADVICE}, and it is kept again"
        )
    with suppress(OSError):  # a cache that others own can be read
        os.utime(file)
    return file


def keep(frozen: dict[str, Tensor], digest: str, name: str) -> bool:
    """Keep a backbone unless it is there already and sound; whether it is there now.

    frozen: its tensors by name; digest: their fingerprint; name: the model's name, for people

    A damaged file is replaced. A cache that cannot be written is told on the log. Raises OSError if the disk is full;
    then nothing is left of the file.
    """
    file, tensors = entry(digest), on_cpu(numbered(frozen))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent / LOCK):
            if _sound(file, digest):
                os.utime(file)
                sweep(file.parent)
                return True
            with Staged(file.parent) as staged:
                write_tensors(tensors, staged.path(file.name), {"model": name})
    except OSError as error:
        if error.errno in FULL:
            raise
        _LOG.warning("backbones cannot be kept in %s: %s", plain(file.parent), error.strerror or error)
        return False
    return True


def remove(file: Path) -> None:
    """Remove the file of a backbone."""
    with locked(file.parent / LOCK):
        file.unlink(missing_ok=True)


def model_of(file: Path) -> str:
    """The name of the model that a file belongs to; "damaged" for a file that cannot be read."""
    try:
        with opened(file) as found:
            return plain((found.metadata() or {}).get("model", ""))
    except UsageError:
        return "damaged"


def numbered(frozen: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they have in a file here: adapters change names, but not their order."""
    return {f"{i:05}": frozen[name] for i, name in enumerate(sorted(frozen))}


def named(tensors: dict[str, Tensor], frozen: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of a file here under the names of a model's frozen tensors. Raises UsageError if they do not fit."""
    numbers = dict(zip(numbered(frozen), sorted(frozen), strict=True))
    found = {numbers.get(number, number): tensor for number, tensor in tensors.items()}
    try:
        check_fit(found, frozen, file)
    except UsageError as error:
        raise UsageError(f"{error}; {ADVICE}") from error
    return found


def _sound(file: Path, digest: str) -> bool:
    try:
        return file.is_file() and fingerprint(read_tensors(file)) == digest
    except UsageError:
        return False
