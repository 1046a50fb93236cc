"""Images in tar files, as the webdataset library writes them.

train-000000.tar  train-000001.tar  val-000000.tar  classes.json            any number of images in each
  000000.png  000000.cls  000001.png  000001.cls  ...                       in a tar: all files of an image together

`.cls` contains the number or the name of a class. `.json` contains {"label": ...}, {"labels": [names]} or
{"targets": {name: number}} instead. `paretune data convert` also writes classes.json, {"task": ..., "classes": [...]}.
Without this file, numbers mean the classes 0 to the highest number, and names are sorted.

Shards are indexed, not streamed. An uncompressed tar says where every file in it begins. paretune reads these headers
once, and can then read any image directly. So order, seeds, resuming and the division among processes work as for all
other data sets: shards of different sizes lose no images, and no process waits for another one that has no images left.
The index needs a few hundred bytes of memory per image.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from paretune.data.dataset import Images, Source, readable, some
from paretune.data.files import is_image
from paretune.data.images import UnreadableImage, file_stat
from paretune.data.shardlabels import Annotation, annotated, known_classes
from paretune.data.splitting import Parts, split_name
from paretune.data.text import parsed
from paretune.errors import UsageError, plain, quoted

BLOCK = 512  # bytes: a tar file consists of blocks of this size, and ends with two empty blocks
LABEL_BYTES = 1 << 20  # limit of a label file, 1 MiB
MOST_SHARDS = 100_000  # limit of the names that a pattern stands for
CLASSES = "classes.json"
_KINDS = {"label": (int, str), "labels": (list,), "targets": (dict,)}
"""The keys of a label file in JSON, and the types of their values."""


class Member(NamedTuple):
    """A file in a tar: the name of the tar, the name of the file, its offset and its size in bytes."""

    shard: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shards(Source[Member]):
    """Pictures in the tar files of `folder`. A key is a Member."""

    folder: Path

    @property
    def where(self) -> str:
        return str(self.folder.resolve())

    def name(self, key: Member) -> str:
        return f"{key.shard}/{key.name}"

    def size(self, key: Member) -> int:
        return key.size

    def stamp(self, key: Member) -> list[int]:
        found = file_stat(self.folder / key.shard)
        return [key.size, found.st_mtime_ns, found.st_ctime_ns, key.offset]

    def encoded(self, key: Member) -> bytes:
        try:  # opened for each image, so nothing is shared with the processes that load images
            with (self.folder / key.shard).open("rb") as file:
                file.seek(key.offset)
                return file.read(key.size)
        except OSError as problem:
            raise UnreadableImage(f"{self.where}/{self.name(key)}", problem.strerror) from problem


def is_shards(place: str) -> bool:
    """Whether a pattern or path stands for tar files, or for a folder that contains some."""
    if os.path.isdir(place):
        return any(not path.is_dir() for path in Path(place).glob("*.tar"))
    return place.endswith(".tar")


def shard_parts(place: str, skip_unreadable: bool = False) -> Parts:
    """The splits of the shards in a folder or of a pattern, by their names: train-*, val-*, test-*.

    {"all": ...} if no shard has such a name. Raises UsageError for shards that are missing, cut off or compressed, for
    images without an answer and for answers without an image.
    """
    paths = _paths(place)
    folder = paths[0].parent
    if any(path.parent != folder for path in paths):
        raise UsageError(f"{plain(place)}: all shards must be in the same folder")
    found = {path: _samples(path) for path in paths}
    task, classes = known_classes(folder / CLASSES, [note for samples in found.values() for _, note in samples])
    parts = {}
    for split, here in _splits(place, paths).items():
        samples = [sample for path in here for sample in found[path]]
        parts[split] = partial(_read, folder, samples, task, classes, split, skip_unreadable)
    return parts


def _read(folder: Path, samples, task, classes, split: str, skip_unreadable: bool) -> Images:
    targets = annotated([note for _, note in samples], task, classes)
    keys = tuple(member for member, _ in samples)
    return readable(Images(Shards(folder), keys, targets, classes, task, split), skip_unreadable)


def _paths(place: str) -> list[Path]:
    """The tar files in a folder or of a pattern, sorted."""
    if os.path.isdir(place):
        found = [path for path in Path(place).glob("*.tar") if not path.is_dir()]
    elif os.path.isfile(place):  # also if its name contains braces
        found = [Path(place)]
    else:
        found = [Path(path) for pattern in expand(place) for path in (sorted(glob.glob(pattern)) or [pattern])]
    missing = [str(path) for path in found if not os.path.isfile(path)]
    if missing:
        raise UsageError(f"no shard {some(missing)}: expected tar files")
    return sorted(set(found))


def expand(pattern: str) -> list[str]:
    """All names of a pattern: `{000..009}` stands for the numbers from 000 to 009, and `{a,b}` for a and b.

    Raises UsageError for braces in braces, for descending numbers, and for more than 100,000 names.
    """
    start, *rest = re.split(r"(\{[^{}]*\})", pattern)
    if re.search(r"[{}]", start + "".join(rest[1::2])):
        raise UsageError(
            f"the pattern of shards {quoted(pattern)} has nested or unpaired braces: write {{000..009}} or {{a,b}}"
        )
    found = [start]
    for braces, text in zip(rest[::2], rest[1::2], strict=True):
        words = _words(pattern, braces[1:-1])
        if len(words) * len(found) > MOST_SHARDS:
            raise _too_many(pattern)
        found = [begun + word + text for begun in found for word in words]
    return found


def _words(pattern: str, inside: str) -> Sequence[str]:
    """The texts that a pair of braces stands for."""
    between = re.fullmatch(r"([0-9]+)\.\.([0-9]+)", inside)
    if not between:
        return inside.split(",")
    if max(map(len, between.groups())) > 18 or int(between[2]) - int(between[1]) >= MOST_SHARDS:
        raise _too_many(pattern)
    if int(between[2]) < int(between[1]):
        raise UsageError(f"the pattern of shards {quoted(pattern)} counts down: write the lower number first")
    return [f"{number:0{len(between[1])}}" for number in range(int(between[1]), int(between[2]) + 1)]


def _too_many(pattern: str) -> UsageError:
    return UsageError(f"the pattern of shards {quoted(pattern)} stands for more than {MOST_SHARDS:,} names")


def _splits(place: str, paths: list[Path]) -> dict[str, list[Path]]:
    """The shards of each split, by the word before the first - or . in their names."""
    named = {path: split_name(re.split(r"[-.]", path.name)[0]) for path in paths}
    if not any(named.values()):
        return {"all": paths}
    strange = [path.name for path, split in named.items() if split is None]
    if strange:
        raise UsageError(
            f"{plain(place)}: {some(strange)} must begin with train-, val- or test-, like the other shards"
        )
    found = {split: [path for path in paths if named[path] == split] for split in ("train", "val", "test")}
    return {split: here for split, here in found.items() if here}


def _samples(path: Path) -> list[tuple[Member, Annotation]]:
    """Every image of a shard with its answer."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # "r:" refuses compressed files, in which no image can be read directly
            end, size = -1, path.stat().st_size
            for info in tar:
                end = _checked(path, info, end, size)
                if info.isfile() and not info.name.rpartition("/")[2].startswith("."):
                    _collect(path, groups, info)
            _check_end(path, tar.offset)
            return [_sample(path, tar, key, files) for key, files in groups.items()]
    except UsageError:
        raise
    except Exception as problem:  # wrong headers cause TarError, ValueError, OverflowError, ...
        raise UsageError(
            f"shard {plain(path)}: {plain(problem)}; it must be a complete, uncompressed tar file"
        ) from None


def _checked(path: Path, info: tarfile.TarInfo, end: int, size: int) -> int:
    """Where a file's content begins. Raises UsageError if that is not after `end`, the start of the file before, or if
    the content is not inside the tar of `size` bytes."""
    if info.issparse():
        raise UsageError(
            f"shard {plain(path)}: {plain(info.name)} is stored as a sparse file: write the tar without sparse files"
        )
    if info.offset_data <= end or info.size < 0 or (info.isfile() and info.offset_data + info.size > size):
        raise UsageError(f"shard {plain(path)}: {plain(info.name)} is not inside the tar file, so the tar is damaged")
    return info.offset_data


def _collect(path: Path, groups: dict[str, dict[str, tarfile.TarInfo]], info: tarfile.TarInfo) -> None:
    """Add a file to its sample. As in webdataset, a sample is the name up to the first dot after the last slash."""
    folder, slash, base = info.name.rpartition("/")
    key, _, ending = base.partition(".")
    files = groups.setdefault(folder + slash + key, {})
    if ending in files:
        raise UsageError(f"shard {plain(path)} contains two files with the name {plain(info.name)}")
    files[ending] = info


def _sample(path: Path, tar: tarfile.TarFile, key: str, files: dict) -> tuple[Member, Annotation]:
    images = [info for info in files.values() if is_image(info.name)]
    notes = [ending for ending in ("cls", "json") if ending in files]
    if len(images) != 1 or not notes:
        what = f"{len(images)} images and {'a' if notes else 'no'} label"
        raise UsageError(f"shard {plain(path)}: {plain(key)} has {what}; expected one image, and .cls or .json")
    if files[notes[0]].size > LABEL_BYTES:
        raise UsageError(f"shard {plain(path)}: the label of {plain(key)} has more than {LABEL_BYTES:,} bytes")
    note = tar.extractfile(files[notes[0]])
    assert note is not None, "the member is a file"
    member = Member(path.name, images[0].name, images[0].offset_data, images[0].size)
    return member, _annotation(f"{path}/{key}.{notes[0]}", notes[0], note.read())


def _annotation(name: str, ending: str, data: bytes) -> Annotation:
    """The content of a label file: a number, a class name, a list of labels, or {name: number}."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise UsageError(f"{plain(name)} is not in UTF-8") from None
    if ending == "cls":
        if not text or (text.isdecimal() and len(text) > 18):
            raise UsageError(f"{plain(name)}: expected the number or the name of a class, found {quoted(text)}")
        return int(text) if text.isdecimal() else text
    content: Any = parsed(name, text)
    word = next((word for word in _KINDS if word in content), None) if isinstance(content, dict) else None
    if word is None or (word == "targets" and not content[word]):
        raise UsageError(
            f'{plain(name)}: expected {{"label": ...}}, {{"labels": [...]}} or {{"targets": {{...}}}}, '
            f"found {quoted(content)}"
        )
    if type(content[word]) not in _KINDS[word]:
        kind = type(content[word]).__name__
        raise UsageError(f"{plain(name)}: {word} must all contain the same kind of answer; they contain {kind}")
    return content[word]


def _check_end(path: Path, offset: int) -> None:
    """Raise UsageError if the end mark is missing: only this shows that a tar was cut off between two files."""
    with path.open("rb") as file:
        file.seek(offset)
        end = file.read(BLOCK)
    if end != bytes(BLOCK):
        raise UsageError(f"shard {plain(path)} is cut off: there is no end mark after its last file")
