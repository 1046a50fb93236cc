"""A file that grows line by line and survives a kill: the next process goes on behind its last whole line.

.paretune-OUT.partial/   beside OUT, until OUT is complete
  head.json              what the lines were made with
  lines                  whole lines, and at most one that was cut off
  lock                   held by the process that writes
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from paretune.errors import UsageError, plain
from paretune.files import FULL, locked, remove_folder, write_json
from paretune.schema import read

HEAD, LINES, LOCK = "head.json", "lines", "lock"


class Growing:
    """The lines of an unfinished file, at `path`."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file

    def kept(self) -> Iterator[str]:
        """The whole lines that are there already. At the end, what is behind them is cut off."""
        end = self.file.seek(0)
        for line in self.file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield line.decode(errors="replace")
        self.file.truncate(end)
        self.file.seek(end)

    def add(self, line: str) -> None:
        """Append a line; it is in the file at once."""
        self.file.write(line.encode())
        self.file.flush()


@contextmanager
def growing(dest: Path, head: dict, afresh: bool = False) -> Iterator[Growing]:
    """The unfinished lines of `dest`, kept whatever ends the process. Whoever has completed them moves them to `dest`;
    then, or if there are none, everything but `dest` is removed.

    head: JSON values that say what the lines are made with; lines of another head are refused, or with `afresh` thrown
    away. Raises UsageError for this and while another process writes to `dest`; OSError, which names `dest`, where the
    disk is full.
    """
    folder = dest.parent / f".paretune-{dest.name}.partial"
    if folder.is_symlink():
        raise UsageError(f"{plain(folder)} is a link, and in the way of unfinished lines: remove it")
    with _full_disk_names(dest):
        folder.mkdir(exist_ok=True)
        busy = f"another process is writing {plain(dest)}: wait until it ends, or name another file"
        with locked(folder / LOCK, busy):
            try:
                _match(folder, head, dest, afresh)
                with os.fdopen(os.open(folder / LINES, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
                    yield Growing(folder / LINES, file)
            finally:
                if not (folder / LINES).exists() or not (folder / LINES).stat().st_size:
                    remove_folder(folder)


def _match(folder: Path, head: dict, dest: Path, afresh: bool) -> None:
    """Check that lines that are there belong to this head; write the head where there are none."""
    path, lines = folder / HEAD, folder / LINES
    if path.exists() and lines.exists():
        found = read(path, advice=f"remove the folder {plain(folder)}")
        if found == head:
            return
        if not afresh:
            other = ", ".join(key for key in {**head, **found} if head.get(key) != found.get(key))
            raise UsageError(
                f"{plain(folder)} holds unfinished lines of {plain(dest)} that were made with another {other}: finish "
                "them with the command that began them, or add --overwrite to begin anew"
            )
    lines.unlink(missing_ok=True)
    write_json(path, head)


@contextmanager
def _full_disk_names(dest: Path) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno not in FULL:
            raise
        raise OSError(failure.errno, failure.strerror, str(dest)) from failure
