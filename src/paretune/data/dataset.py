"""Data sets whose images are decoded when they are used: from files, archives, tables or memory."""

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
        """The place, for records and errors: an absolute path, or the name that the user gave."""

    @abstractmethod
    def name(self, key: K) -> str:
        """The picture's name at that place, with forward slashes. No two pictures have the same name."""

    @abstractmethod
    def size(self, key: K) -> int:
        """The number of bytes of `encoded`, found without reading them if possible."""

    def stamp(self, key: K) -> list[int] | None:
        """Values that change if the image changes, found without reading it: size, then times in ns. None if unknown.

        Raises UnreadableImage if the picture no longer exists.
        """
        return None

    @abstractmethod
    def encoded(self, key: K) -> bytes:
        """The content of the image file. Raises UnreadableImage if it no longer exists."""


@dataclass(frozen=True, eq=False)
class Numbered(Source[int]):
    """One split of a data set whose pictures have no names. A key is the number of a row; the name contains it."""

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
        source: the place of the pictures.
        keys: the keys of the pictures, in a fixed order.
        targets: multiclass: (n,) int64, indices into `classes`; multilabel: (n, C) 0 or 1; regression: (n, C) float32.
        classes: a name for each class, or for each column of the targets.
        task: "multiclass", "multilabel" or "regression".
        split: "train", "val", "test", or "all" (data that was not split).
        transform: turns an RGB picture into the input of a model; None returns the picture.
        split_rule: how this part was drawn, or None if the data are already split.
        skipped: (name, reason) of each unreadable image that was left out on request.
        lenient: what happens if a picture becomes unreadable later: False raises UnreadableImage; True logs a warning
            and takes the next readable picture, with its target.

    Raises UsageError for a class name that is empty or cannot be written in UTF-8.
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
            raise UsageError(f"{plain(self.source.where)}: classes have the names {some(bad)}: use names in UTF-8")

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
        """The number and the picture at `index`, or of the first readable picture after it."""
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
        """The picture's name at its place."""
        return self.source.name(self.keys[index])

    def title(self, index: int) -> str:
        """The picture's place and name, for errors."""
        return f"{self.source.where}/{self.name(index)}"

    def through(self, transform: Callable[[Image.Image], object] | None) -> Images:
        """The same images with another transform."""
        return replace(self, transform=transform)

    def part(self, indices: Sequence[int], name: str) -> Images:
        """The images at `indices`, in this order, as a split with the name `name`."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(self, keys=tuple(self.keys[i] for i in rows), targets=self.targets[rows], split=name)

    def fingerprint(self) -> str:
        """SHA-256 over the sorted lines "name<TAB>bytes<TAB>answer". It changes if an image is added, renamed, or gets
        another size in bytes or another answer.

        The contents are not read, so it does not change if a file changes but keeps its length. `content_hash` does.
        """
        return digest(self, (str(self.source.size(key)) for key in self.keys))

    def content_hash(self) -> str:
        """SHA-256 over the sorted lines "name<TAB>SHA-256 of the file<TAB>answer". Reads every byte."""
        return digest(self, (hashlib.sha256(self.source.encoded(key)).hexdigest() for key in self.keys))

    def _content(self) -> str:
        """`content_hash`, without reading files again whose size and times are the same. Raises UnreadableImage."""
        found = examined(self, decode=False)
        if bad := next((one for one in found if isinstance(one, UnreadableImage)), None):
            raise bad
        return digest(self, [one for one in found if not isinstance(one, UnreadableImage)])

    def lossy(self) -> str:
        """Whether the format of the image files loses detail: "lossy", "lossless" or "mixed"."""
        return lossiness(encoding(self.title(i), self.source.encoded(key)) for i, key in enumerate(self.keys))

    def describe(self) -> dict:
        """The description of the data in a training record."""
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
    """SHA-256 over the sorted lines "name<TAB>content<TAB>answer"; contents: one for each image.

    An answer is the name of a class, or {name: value}.
    """
    rows = zip(images.keys, contents, _answers(images), strict=True)
    lines = sorted(f"{images.source.name(key)}\t{content}\t{answer}\n" for key, content, answer in rows)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _answers(images: Images) -> Iterable[str | dict]:
    if images.task == "multiclass":
        return (images.classes[label] for label in images.targets)
    return (dict(zip(images.classes, row, strict=True)) for row in images.targets.tolist())


def readable(images: Images, skip_unreadable: bool = False) -> Images:
    """Decode every image, so that a damaged file is reported at the start and not in a later epoch. Returns `images`.

    An image that was decoded before and has the same size and times is not decoded again. Raises UsageError, which
    names the unreadable images. With `skip_unreadable`, they are left out of the result instead.
    """
    bad = {i: one for i, one in enumerate(examined(images)) if isinstance(one, UnreadableImage)}
    if bad and not skip_unreadable:
        raise UsageError(_complain(list(bad.values()), len(images)))
    kept = images.part([i for i in range(len(images)) if i not in bad], images.split)
    return replace(kept, skipped=tuple((images.name(i), problem.reason) for i, problem in bad.items()))


def examined(images: Images, decode: bool = True) -> list[str | UnreadableImage]:
    """For every image the SHA-256 of its file, or its error: it is missing or, with `decode`, damaged."""
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

    with ThreadPoolExecutor() as pool:  # Pillow releases Python's lock while it decodes
        found = list(pool.map(look, range(len(images))))
    memory.save()
    return found


def labelled_by(images: Images, classes: Sequence[str]) -> Images:
    """The same images with targets that refer to `classes`, for example those of a model.

    A class may have no images here. Raises UsageError if the data have a class that is not in `classes`, or if they
    have no values for a label or number in `classes`.
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
        refuse(missing[:10], f"{plain(images.source.where)} lacks columns that the model predicts")
        targets = images.targets[:, [own[name] for name in classes]]
    return replace(images, classes=tuple(classes), targets=targets)


def some(names: Iterable[str]) -> str:
    """The first names, as many as fit into a message (at most ten), and the number of the others."""
    names, shown = list(names), []
    for name in names[:10]:
        if sum(map(len, shown)) > SHOWN:
            break
        shown.append(plain(name))
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _is_name(text: str) -> bool:
    """Whether a class can have this name: it is not empty and can be written in UTF-8."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # a file name with bytes that are not text
        return False


def _complain(bad: list[UnreadableImage], total: int) -> str:
    shown = "; ".join(f"{plain(problem.path)}: {plain(problem.reason)}" for problem in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    return (
        f"{len(bad)} of {total} images cannot be read (repair or remove them, or skip unreadable ones): {shown}{more}"
    )
