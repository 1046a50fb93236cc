"""Verify a data set. Every image is read once."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low

from paretune.data import vtab
from paretune.data.checks import Seen, class_problems, count_problems, doubles, leaks, see, split_problems
from paretune.data.dataset import digest, some
from paretune.data.encoding import lossiness
from paretune.data.folder import left_out_of
from paretune.data.images import UnreadableImage
from paretune.data.opening import form_of
from paretune.data.task import balance
from paretune.errors import UsageError


@dataclass(frozen=True)
class SplitReport:
    """One split: the number of images, their distribution over the classes (or numbers), and the content hash."""

    name: str
    images: int
    balance: dict[str, dict]
    content_hash: str


@dataclass(frozen=True)
class Report:
    """The result of a verification.

    Attributes:
        path: the place, as it was given.
        layout: folder, csv, shards, hf, vtab, or the name of a well-known set.
        task, classes: those of the data; None and () if nothing could be read.
        splits: a report on each split.
        problems: errors in the data, one sentence each.
        remarks: useful facts that are not errors, one sentence each.
        formats: the number of images of each format.
        lossy: "lossy", "lossless" or "mixed"; None without images.
        jpeg_quality: (lowest, median, highest) of the JPEG files, estimated from their tables; None without any.
        sizes: (width, height) of the smallest and of the largest image, by area; None without images.
        content_hash: SHA-256 over the splits' names and content hashes.
    """

    path: str
    layout: str
    task: str | None
    classes: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    formats: dict[str, int]
    lossy: str | None
    jpeg_quality: tuple[int, int, int] | None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None
    content_hash: str

    @property
    def sound(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict:
        """Everything as plain values, for JSON."""
        return {"sound": self.sound, **asdict(self)}


def verify(data: str | Path) -> Report:
    """Read all of `data`, in any format, and report the content and all problems.

    Raises UsageError if `data` does not exist or has an unknown format.
    """
    layout, read = form_of(data, skip_unreadable=True)
    problems: list[str] = []
    seen: dict[str, Seen] = {}
    try:
        parts = read()
    except UsageError as problem:
        parts, problems = {}, [str(problem)]
    for name, part in parts.items():
        try:
            seen[name] = see(part())
        except UsageError as problem:
            problems.append(f"{name}: {problem}")
    problems += [text for name, one in seen.items() for text in split_problems(name, one)]
    problems += class_problems(seen) + count_problems(str(data), layout, seen)
    remarks = [text for name, one in seen.items() for text in doubles(name, one)]
    if layout == "folder" and seen:
        remarks += _left_out(Path(data), seen)
    (problems if layout in ("folder", "csv", "shards", "hf") else remarks).extend(leaks(seen))
    return _report(str(data), layout, seen, problems, remarks)


def _left_out(root: Path, seen: dict[str, Seen]) -> list[str]:
    """A sentence that lists the files and folders that do not count as pictures of a class, if there are any."""
    found = left_out_of(root, [one.images for one in seen.values()])
    what = f"files and folders that are not pictures of a class and are left out, {len(found):,}"
    return [f"{what}: {some(found)}"] if found else []


def verify_vtab(root: str | Path) -> dict[str, Report | None]:
    """A report on every task in `root`. If one of VTAB-1K's 19 tasks is there, the missing ones of them get None."""
    there = vtab.task_folders(Path(root))
    wanted = list(vtab.VTAB) if set(there) & set(vtab.VTAB) else []
    own = [name for name in there if name not in wanted]
    return {name: verify(Path(root) / name) if name in there else None for name in [*wanted, *own]}


def _report(place: str, layout: str, seen: dict[str, Seen], problems: list[str], remarks: list[str]) -> Report:
    encodings = [one[1] for split in seen.values() for one in split.found if not isinstance(one, UnreadableImage)]
    qualities = sorted(one.quality for one in encodings if one.quality is not None)
    sizes = sorted((one.size for one in encodings), key=lambda size: (size[0] * size[1], size))
    first = next((split.images for split in seen.values()), None)
    splits = tuple(_split_report(name, one) for name, one in seen.items())
    return Report(
        path=place,
        layout=layout,
        task=first.task if first else None,
        classes=first.classes if first else (),
        splits=splits,
        problems=tuple(problems),
        remarks=tuple(remarks),
        formats=dict(Counter(one.format for one in encodings).most_common()),
        lossy=lossiness(encodings) if encodings else None,
        jpeg_quality=(qualities[0], median_low(qualities), qualities[-1]) if qualities else None,
        sizes=(sizes[0], sizes[-1]) if sizes else None,
        content_hash=hashlib.sha256(
            "".join(f"{one.name}\t{one.content_hash}\n" for one in splits).encode()
        ).hexdigest(),
    )


def _split_report(name: str, seen: Seen) -> SplitReport:
    images = seen.images
    contents = ("unreadable" if isinstance(one, UnreadableImage) else one[0] for one in seen.found)
    spread = balance(images.task, images.classes, images.targets)
    return SplitReport(name, len(images), spread, digest(images, contents))
