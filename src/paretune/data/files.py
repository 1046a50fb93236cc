"""Image files below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from paretune.data.dataset import Source
from paretune.data.images import file_bytes, file_stat
from paretune.errors import UsageError, plain

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Place = tuple[int, int]
"""The identity of a folder, independent of its path: the device, and its number on the device."""


@dataclass(frozen=True)
class Files(Source[str]):
    """Pictures as files below `root`. A key is the path from `root`, with forward slashes."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root.resolve())

    def name(self, key: str) -> str:
        return key

    def size(self, key: str) -> int:
        return file_stat(self.root / key).st_size

    def stamp(self, key: str) -> list[int]:
        found = file_stat(self.root / key)
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]

    def encoded(self, key: str) -> bytes:
        return file_bytes(self.root / key)


def is_image(name: str) -> bool:
    """Whether a file with this name counts as an image: it has the ending of an image and is not hidden."""
    base = name.rpartition("/")[2]
    return base.lower().endswith(IMAGE_ENDINGS) and not base.startswith(".")


class Tree:
    """Finds the images below folders. Every folder is read once.

    A link to a folder that contains the link is a loop and is left out. Any other folder that is found twice is an
    error, because its pictures would count twice, perhaps in two classes.
    """

    def __init__(self, folders: Sequence[Path]):
        """folders: all folders that `images` or `each` will read. It is an error if one of them is found in another."""
        self.met: dict[Place, Path] = {}
        for folder in folders:
            self._meet(folder)

    def images(self, folder: Path) -> list[Path]:
        """All images below one of the folders, sorted. Raises UsageError if a folder cannot be read."""
        return list(self.each(folder))

    def each(self, folder: Path) -> Iterator[Path]:
        """The same images one by one. Only the open folders are in memory."""
        return (here / entry.name for here, entry in walk(folder, self._meet) if is_image(entry.name))

    def _meet(self, folder: Path) -> None:
        other = self.met.setdefault(place(folder), folder)
        if other != folder:
            raise UsageError(
                f"{plain(other)} and {plain(folder)} are the same folder, so its pictures would count twice: remove one"
            )


def walk(folder: Path, enter: Callable[[Path], object]) -> Iterator[tuple[Path, os.DirEntry]]:
    """Yield (where, entry) for everything below `folder` that is not a folder, sorted, without following loops.

    `enter` is called with every folder before it is opened. Raises UsageError if a folder cannot be read.
    """
    opened = [
        (folder, holders_of(folder), iter(listed(folder)))
    ]  # the folder that is being read, and the folders that contain it
    while opened:
        here, holders, entries = opened[-1]
        entry = next(entries, None)
        if entry is None:
            opened.pop()
        elif not _is_folder(entry):
            yield here, entry
        elif (where := place(path := here / entry.name)) not in holders:
            enter(path)
            opened.append((path, holders | {where}, iter(listed(path))))


def holders_of(folder: Path) -> set[Place]:
    """The folder itself and all folders that contain it, by its path and by its real place behind links."""
    return {place(here) for path in (folder.absolute(), folder.resolve()) for here in (path, *path.parents)}


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def listed(folder: Path) -> list[os.DirEntry]:
    """The entries of a folder, sorted by name. Raises UsageError if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as problem:
        raise UsageError(
            f"the folder {plain(folder)} cannot be read ({problem.strerror}): make it readable, or remove it"
        ) from None


def place(folder: Path) -> Place:
    """The identity of a folder. Raises UsageError if the folder cannot be read."""
    try:
        found = folder.stat()
    except OSError as problem:
        raise UsageError(f"the folder {plain(folder)} cannot be read ({problem.strerror})") from None
    return found.st_dev, found.st_ino


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted. Raises UsageError if the folder cannot be read."""
    return [entry.name for entry in listed(folder) if _is_folder(entry)]


def left_out(root: Path, taken: Set[str]) -> list[str]:
    """Files below `root` that are not in `taken`, and folders without a file of `taken`; a folder's path ends in /."""
    holding = {parent.as_posix() for name in taken for parent in PurePosixPath(name).parents}
    found, waiting = [], [""]
    while waiting:
        here = waiting.pop()
        for entry in listed(root / here):
            name = here + entry.name
            if name in holding:  # a loop contains no file of `taken`, which has every picture once
                waiting.append(f"{name}/")
            elif name not in taken:
                found.append(f"{name}/" if _is_folder(entry) else name)
    return sorted(found)


def missing_files(root: Path, keys: Sequence[str]) -> list[str]:
    """The paths below `root` that are not regular files."""
    return [key for key in dict.fromkeys(keys) if not os.path.isfile(root / key)]
