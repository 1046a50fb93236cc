"""Safe writing: a file or folder appears complete or not at all, and no incomplete files are left behind.

    .paretune-HOST-PID-RANDOM.tmp   where a file is written: opened exclusively, so that no planted link is followed
    NAME                            its final name, which it gets in one step when it is complete

A write that fails removes its temporary files. Those of a killed process are removed by the next process that writes to
the folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from paretune.errors import UsageError

FULL = (errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else []))  # the disk is full
_LEFTOVER = re.compile(r"\.paretune-([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.tmp")


class Staged:
    """Files that appear in a folder together. They have temporary names until all are complete, then they are renamed.

    Example:

        with Staged(folder) as staged:
            staged.path("model.json").write_text(text)
    """

    def __init__(self, folder: Path):
        self.folder, self.new = folder, {}

    def path(self, name: str) -> Path:
        """Where to write the file that becomes `name` at the end: an empty file with the permissions of the umask."""
        path = self.new[name] = _temporary(self.folder)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        self.mode = path.stat().st_mode
        return path

    def __enter__(self) -> Staged:
        sweep(self.folder)
        return self

    def __exit__(self, kind: type | None, failure: BaseException | None, trace: object) -> None:
        try:
            if failure is None:
                for name, path in self.new.items():
                    path.chmod(self.mode)  # safetensors replaces the file by one that only its owner can read
                    os.replace(path, self.folder / name)
        finally:
            for path in self.new.values():
                path.unlink(missing_ok=True)
        if isinstance(failure, OSError) and failure.errno is not None:
            names = ", ".join(str(self.folder / name) for name in self.new)
            raise OSError(failure.errno, failure.strerror or str(failure), names) from failure


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Where to write the content of `path`, which appears complete at the end. Its folder must exist.

    Raises UsageError if `path` is a folder, and OSError, which names it, if it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a file to write")
    with Staged(path.parent) as staged:
        yield staged.path(path.name)


@contextmanager
def whole(dest: str | Path) -> Iterator[Path]:
    """A temporary folder to fill. At the end it becomes the new or empty folder `dest`; an error removes it."""
    dest = Path(dest).absolute()
    dest.parent.mkdir(parents=True, exist_ok=True)
    sweep(dest.parent)
    partial = _temporary(dest.parent)
    try:
        partial.mkdir()
        yield partial
        if dest.exists():
            dest.rmdir()
        os.replace(partial, dest)
    except OSError as failure:
        if failure.errno not in FULL:
            raise
        raise OSError(failure.errno, failure.strerror or str(failure), str(dest)) from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` in one step."""
    with written(path) as new:
        new.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def remove_folder(folder: Path) -> None:
    """Remove a folder. Its name is free at once; if the process is killed, a later sweep removes the rest."""
    if folder.is_dir() and not folder.is_symlink():
        partial = _temporary(folder.parent)
        with suppress(FileNotFoundError):  # another process removes it
            os.replace(folder, partial)
        shutil.rmtree(partial, ignore_errors=True)


def cache_folder() -> Path:
    """The folder of all caches: $PARETUNE_CACHE, or `paretune` in $XDG_CACHE_HOME or ~/.cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("PARETUNE_CACHE") or os.path.join(caches, "paretune"))


def sweep(folder: Path) -> None:
    """Remove incomplete files in `folder` from processes of this machine that no longer run."""
    for entry in os.scandir(folder) if folder.is_dir() else ():
        found = _LEFTOVER.fullmatch(entry.name)
        if found and found[1] == _host() and not psutil.pid_exists(int(found[2])):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


@contextmanager
def locked(file: Path, taken: str = "") -> Iterator[None]:
    """Hold the lock `file` exclusively among all processes and threads until the end. The empty file stays.

    taken: the message of the UsageError if the lock is already held; empty: wait until it is free.
    """
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(timeout=0 if taken else -1, poll_interval=0.01)
    except Timeout as error:
        raise UsageError(taken) from error
    try:
        yield
    finally:
        lock.release()


def _temporary(folder: Path) -> Path:
    return folder / f".paretune-{_host()}-{os.getpid()}-{secrets.token_hex(8)}.tmp"


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"
