"""Images in tar files, as the webdataset library writes them.

train-000000.tar  train-000001.tar  val-000000.tar  classes.json            any number of images in each
  000000.png  000000.cls  000001.png  000001.cls  ...                       in a tar: files of one image in a row

`.cls` holds a number or a class's name; `.json` instead of it {"label": ...}, {"labels": [names]} or
{"targets": {name: number}}. classes.json, {"task": ..., "classes": [...]}, is what `paretune data convert` writes;
without it numbers are the classes 0 to the highest one, and names are sorted.

Why an index and not a stream: an uncompressed tar says where every file in it begins, so opening reads the headers
once, and then any image is one seek away. Order, seeds, resuming and the even division among processes are then those
of every other data set: shards of different sizes neither lose images nor leave a process waiting for a partner that
has none left. The price is an index in memory, a few hundred bytes an image.
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

BLOCK = 512  # bytes: a tar file is made of these, and ends with two empty ones
LABEL_BYTES = 1 << 20  # a label file may have 1 MiB
MOST_SHARDS = 100_000  # names that a pattern may stand for
CLASSES = "classes.json"
_KINDS = {"label": (int, str), "labels": (list,), "targets": (dict,)}
"""What a label file in JSON may say, and how."""


class Member(NamedTuple):
    """A file in a tar: the tar's name, its own, and where it lies, in bytes."""

    shard: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shards(Source[Member]):
    """Pictures in the tar files of `folder`; a key is a Member."""

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
        try:  # opened anew for each image: nothing is shared with the processes that load images
            with (self.folder / key.shard).open("rb") as file:
                file.seek(key.offset)
                return file.read(key.size)
        except OSError as problem:
            raise UnreadableImage(f"{self.where}/{self.name(key)}", problem.strerror) from problem


def is_shards(place: str) -> bool:
    """Whether a pattern or path means tar files, or a folder that has them."""
    if os.path.isdir(place):
        return any(not path.is_dir() for path in Path(place).glob("*.tar"))
    return place.endswith(".tar")


def shard_parts(place: str, skip_unreadable: bool = False) -> Parts:
    """The splits of the shards in a folder, or of those that a pattern names: train-*, val-*, test-*.

    {"all": ...} where no shard is called so. Raises UsageError for shards that are not there, cut off or compressed,
    for images without an answer and answers without an image.
    """
    paths = _paths(place)
    folder = paths[0].parent
    if any(path.parent != folder for path in paths):
        raise UsageError(f"{plain(place)}: shards must lie in one folder")
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
    """The tar files that a folder holds or a pattern names, sorted."""
    if os.path.isdir(place):
        found = [path for path in Path(place).glob("*.tar") if not path.is_dir()]
    elif os.path.isfile(place):  # whatever braces are in its name
        found = [Path(place)]
    else:
        found = [Path(path) for pattern in expand(place) for path in (sorted(glob.glob(pattern)) or [pattern])]
    missing = [str(path) for path in found if not os.path.isfile(path)]
    if missing:
        raise UsageError(f"no shard {some(missing)}: expected tar files")
    return sorted(set(found))


def expand(pattern: str) -> list[str]:
    """`{000..009}` as the numbers from 000 to 009, and `{a,b}` as a and b.

    Raises UsageError for braces in braces, for numbers that fall, and for more than 100,000 names.
    """
    start, *rest = re.split(r"(\{[^{}]*\})", pattern)
    if re.search(r"[{}]", start + "".join(rest[1::2])):
        raise UsageError(f"the pattern of shards {quoted(pattern)} has braces in braces, or without a partner")
    found = [start]
    for braces, text in zip(rest[::2], rest[1::2], strict=True):
        words = _words(pattern, braces[1:-1])
        if len(words) * len(found) > MOST_SHARDS:
            raise _too_many(pattern)
        found = [begun + word + text for begun in found for word in words]
    return found


def _words(pattern: str, inside: str) -> Sequence[str]:
    """What a pair of braces stands for."""
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
    """Shards by the word before the first - or . of their names."""
    named = {path: split_name(re.split(r"[-.]", path.name)[0]) for path in paths}
    if not any(named.values()):
        return {"all": paths}
    strange = [path.name for path, split in named.items() if split is None]
    if strange:
        raise UsageError(
            f"{plain(place)}: {some(strange)} must begin with train-, val- or test-, as the other shards do"
        )
    found = {split: [path for path in paths if named[path] == split] for split in ("train", "val", "test")}
    return {split: here for split, here in found.items() if here}


def _samples(path: Path) -> list[tuple[Member, Annotation]]:
    """Every image of a shard with its answer."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # "r:" takes no compressed ones: these have no places to seek to
            end, size = -1, path.stat().st_size
            for info in tar:
                end = _checked(path, info, end, size)
                if info.isfile() and not info.name.rpartition("/")[2].startswith("."):
                    _collect(path, groups, info)
            _check_end(path, tar.offset)
            return [_sample(path, tar, key, files) for key, files in groups.items()]
    except UsageError:
        raise
    except Exception as problem:  # headers that say what cannot be end in TarError, ValueError, OverflowError, ...
        raise UsageError(f"shard {plain(path)}: {plain(problem)}; it must be a whole, uncompressed tar file") from None


def _checked(path: Path, info: tarfile.TarInfo, end: int, size: int) -> int:
    """Where a file's content begins. Raises UsageError if it lies not behind the one before, at `end`, or not in the
    tar of `size` bytes."""
    if info.issparse():
        raise UsageError(f"shard {plain(path)}: {plain(info.name)} is stored with holes: write the tar without them")
    if info.offset_data <= end or info.size < 0 or (info.isfile() and info.offset_data + info.size > size):
        raise UsageError(f"shard {plain(path)}: {plain(info.name)} does not lie in the tar file, which is damaged")
    return info.offset_data


def _collect(path: Path, groups: dict[str, dict[str, tarfile.TarInfo]], info: tarfile.TarInfo) -> None:
    """Add a file to its sample: the name up to the first point after the last slash, as webdataset has it."""
    folder, slash, base = info.name.rpartition("/")
    key, _, ending = base.partition(".")
    files = groups.setdefault(folder + slash + key, {})
    if ending in files:
        raise UsageError(f"shard {plain(path)} has two files {plain(info.name)}")
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
    assert note is not None, "it is a file"
    member = Member(path.name, images[0].name, images[0].offset_data, images[0].size)
    return member, _annotation(f"{path}/{key}.{notes[0]}", notes[0], note.read())


def _annotation(name: str, ending: str, data: bytes) -> Annotation:
    """The number, class name, list of labels or {name: number} that a label file holds."""
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
        raise UsageError(f"{plain(name)}: {word} must all hold one kind of answer, they hold {kind}")
    return content[word]


def _check_end(path: Path, offset: int) -> None:
    """A tar that was cut between two files reads like a whole one, but for its missing end."""
    with path.open("rb") as file:
        file.seek(offset)
        end = file.read(BLOCK)
    if end != bytes(BLOCK):
        raise UsageError(f"shard {plain(path)} is cut off: there is no end mark after its last file")
