"""Data sets whose images are decoded on access, from files, archives, tables or memory."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from paretune.data.budget import Budget
from paretune.data.encoding import encoding, lossiness
from paretune.data.images import UnreadableImage, open_image, probe
from paretune.data.memory import Memory
from paretune.data.task import Task, balance
from paretune.errors import SHOWN, UsageError, plain, refuse

READ = Budget(1 << 28)  # bytes of image files, over all threads that check
_LOG = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)


class Source(ABC, Generic[K]):
    """A place with encoded images. A key identifies one of them; the type of the keys depends on the source."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The place, for records and errors: an absolute path, or what was asked for."""

    @abstractmethod
    def name(self, key: K) -> str:
        """What the picture is called at that place, with forward slashes; no two have the same name."""

    @abstractmethod
    def size(self, key: K) -> int:
        """How many bytes `encoded` has, found without reading them if that can be."""

    def stamp(self, key: K) -> list[int] | None:
        """Values that change if the image changes, found without reading it: bytes, then times in ns; None if unknown.

        Raises UnreadableImage if the picture is gone.
        """
        return None

    @abstractmethod
    def encoded(self, key: K) -> bytes:
        """The content of the image file. Raises UnreadableImage if it is gone."""


@dataclass(frozen=True, eq=False)
class Numbered(Source[int]):
    """One split of a data set whose pictures have no names: a key is a row, and the name is made of it."""

    place: str
    split: str

    @property
    def where(self) -> str:
        return self.place

    def name(self, key: int) -> str:
        return f"{self.split}/{key:06}"


@dataclass(frozen=True, eq=False)
class Images:
    """A map-style data set of (picture, target) over a source.

    Attributes:
        source: where the pictures lie.
        keys: which of them, in a fixed order.
        targets: multiclass: (n,) int64, indices into `classes`; multilabel: (n, C) 0 or 1; regression: (n, C) float32.
        classes: a name per class, or per column of the targets.
        task: "multiclass", "multilabel" or "regression".
        split: "train", "val", "test", or "all" (data that was not split).
        transform: turns an RGB picture into what the model eats; None leaves it as it is.
        split_rule: how this part was drawn where the data does not say; None where it does.
        skipped: (name, reason) of each unreadable image that was left out on request.
        lenient: what to do with a picture that became unreadable later on: False raises UnreadableImage, True says so
            on the log and takes the next picture that can be read, with its target.

    Raises UsageError for classes whose names are empty, or no text that can be written.
    """

    source: Source[Any]
    keys: Sequence[Hashable]
    targets: np.ndarray
    classes: tuple[str, ...]
    task: Task = "multiclass"
    split: str = "all"
    transform: Callable[[Image.Image], object] | None = None
    split_rule: dict | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    lenient: bool = False

    def __post_init__(self) -> None:
        bad = [repr(name) for name in self.classes if not _is_name(name)]
        if bad:
            raise UsageError(f"{plain(self.source.where)}: classes called {some(bad)}: give them a name in UTF-8")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[object, int | np.ndarray]:
        row, picture = self._picture_or_next(index) if self.lenient else (index, self.picture(index))
        target = self.targets[row]
        target = int(target) if self.task == "multiclass" else target.astype(np.float32)
        return (self.transform(picture) if self.transform else picture), target

    def picture(self, index: int) -> Image.Image:
        """The RGB picture, not transformed. Raises UnreadableImage, which names it."""
        return open_image(self.title(index), self.source.encoded(self.keys[index]))

    def _picture_or_next(self, index: int) -> tuple[int, Image.Image]:
        """Picture `index`, or the first one behind it that can be read, and which one it is."""
        try:
            return index, self.picture(index)
        except UnreadableImage as problem:
            _LOG.warning("%s; the next image takes its place", problem)
            for other in [*range(index + 1, len(self)), *range(index)]:
                try:
                    return other, self.picture(other)
                except UnreadableImage:
                    continue
            raise

    def name(self, index: int) -> str:
        """What the picture is called at its place."""
        return self.source.name(self.keys[index])

    def title(self, index: int) -> str:
        """The picture's place and name, for errors."""
        return f"{self.source.where}/{self.name(index)}"

    def through(self, transform: Callable[[Image.Image], object] | None) -> Images:
        """The same images, seen through `transform`."""
        return replace(self, transform=transform)

    def part(self, indices: Sequence[int], name: str) -> Images:
        """The images at `indices`, in that order, as a split called `name`."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(self, keys=tuple(self.keys[i] for i in rows), targets=self.targets[rows], split=name)

    def fingerprint(self) -> str:
        """SHA-256 over the sorted lines "name<TAB>bytes<TAB>answer": notices new, renamed, resized, relabelled ones.

        The contents are not read, so an edit that keeps a file's length goes unnoticed; `content_hash` sees it, and is
        what a record keeps as its data's content.
        """
        return digest(self, (str(self.source.size(key)) for key in self.keys))

    def content_hash(self) -> str:
        """SHA-256 over the sorted lines "name<TAB>SHA-256 of the file<TAB>answer"; reads every byte."""
        return digest(self, (hashlib.sha256(self.source.encoded(key)).hexdigest() for key in self.keys))

    def _content(self) -> str:
        """`content_hash`, where files of the same size and times need not be read again. Raises UnreadableImage."""
        found = examined(self, decode=False)
        if bad := next((one for one in found if isinstance(one, UnreadableImage)), None):
            raise bad
        return digest(self, [one for one in found if not isinstance(one, UnreadableImage)])

    def lossy(self) -> str:
        """Whether the image files keep less than the pixels they were made of: "lossy", "lossless" or "mixed"."""
        return lossiness(encoding(self.title(i), self.source.encoded(key)) for i, key in enumerate(self.keys))

    def describe(self) -> dict:
        """What a training record keeps about its data."""
        return {
            "path": self.source.where,
            "split": self.split,
            "split_rule": self.split_rule,
            "task": self.task,
            "images": len(self),
            **balance(self.task, self.classes, self.targets),
            "fingerprint": self.fingerprint(),
            "content": self._content(),
            "skipped": [name for name, _ in self.skipped],
        }


def digest(images: Images, contents: Iterable[str]) -> str:
    """SHA-256 over the sorted lines "name<TAB>content<TAB>answer", with a content for each image.

    An answer is a class's name, or {name: value}.
    """
    rows = zip(images.keys, contents, _answers(images), strict=True)
    lines = sorted(f"{images.source.name(key)}\t{content}\t{answer}\n" for key, content, answer in rows)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _answers(images: Images) -> Iterable[str | dict]:
    if images.task == "multiclass":
        return (images.classes[label] for label in images.targets)
    return (dict(zip(images.classes, row, strict=True)) for row in images.targets.tolist())


def readable(images: Images, skip_unreadable: bool = False) -> Images:
    """`images` after every one was decoded, so that a damaged file is named now and not in the ninth epoch.

    An image that was decoded before and has the same size and times is not decoded again. Raises UsageError, which
    names the unreadable images; with `skip_unreadable` they are left out instead.
    """
    bad = {i: one for i, one in enumerate(examined(images)) if isinstance(one, UnreadableImage)}
    if bad and not skip_unreadable:
        raise UsageError(_complain(list(bad.values()), len(images)))
    kept = images.part([i for i in range(len(images)) if i not in bad], images.split)
    return replace(kept, skipped=tuple((images.name(i), problem.reason) for i, problem in bad.items()))


def examined(images: Images, decode: bool = True) -> list[str | UnreadableImage]:
    """Of every image SHA-256 of its file, or what is wrong with it: missing, or with `decode` damaged."""
    memory, source = Memory(images.source.where), images.source

    def look(index: int) -> str | UnreadableImage:
        key, name = images.keys[index], images.name(index)
        try:
            stamp = source.stamp(key)
            if known := memory.recall(name, stamp, decode):
                return known
            with READ.of(source.size(key)):
                data = source.encoded(key)
                if decode:
                    probe(images.title(index), data)
            found = hashlib.sha256(data).hexdigest()
            memory.learn(name, stamp, found, decode)
            return found
        except UnreadableImage as problem:
            return problem

    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        found = list(pool.map(look, range(len(images))))
    memory.save()
    return found


def labelled_by(images: Images, classes: Sequence[str]) -> Images:
    """The same images with targets that refer to `classes`, a model's for example.

    A class may have no images here. Raises UsageError for classes that are not among `classes`, and where labels or
    numbers that are asked for were never annotated here.
    """
    if images.classes == tuple(classes):
        return images
    place = {name: i for i, name in enumerate(classes)}
    strange = [name for name in images.classes if name not in place]
    if strange:
        raise UsageError(
            f"{plain(images.source.where)}: the model does not know {some(strange)}; it knows {some(classes)}"
        )
    if images.task == "multiclass":
        targets = np.array([place[name] for name in images.classes], dtype=np.int64)[images.targets]
    else:
        own = {name: i for i, name in enumerate(images.classes)}
        missing = [f"there is no '{plain(name)}'" for name in classes if name not in own]
        refuse(missing[:10], f"{plain(images.source.where)} has not all that the model answers")
        targets = images.targets[:, [own[name] for name in classes]]
    return replace(images, classes=tuple(classes), targets=targets)


def some(names: Iterable[str]) -> str:
    """The first names, up to ten and not much longer than a message may be, and how many more there are."""
    names, shown = list(names), []
    for name in names[:10]:
        if sum(map(len, shown)) > SHOWN:
            break
        shown.append(plain(name))
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _is_name(text: str) -> bool:
    """Whether a class may be called so: some text that can be written in UTF-8."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # bytes of a file name that are no text
        return False


def _complain(bad: list[UnreadableImage], total: int) -> str:
    shown = "; ".join(f"{plain(problem.path)}: {plain(problem.reason)}" for problem in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"{len(bad)} of {total} images cannot be read (mend or remove them, or skip unreadable ones): {shown}{more}"
