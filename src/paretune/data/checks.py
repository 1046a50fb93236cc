"""Checks of a data set: missing or duplicate images, images in two splits, wrong counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from paretune.data import named, vtab
from paretune.data.dataset import READ, Images, some
from paretune.data.encoding import Encoding, encoding
from paretune.data.images import UnreadableImage, probe


@dataclass(frozen=True)
class Seen:
    """A split whose images were all read. found: SHA-256 and encoding of each image, in order, or its error."""

    images: Images
    found: tuple[tuple[str, Encoding] | UnreadableImage, ...]

    def contents(self) -> dict[str, list[int]]:
        """The rows of the images with the same content: {SHA-256: rows}."""
        rows: dict[str, list[int]] = {}
        for i, one in enumerate(self.found):
            if not isinstance(one, UnreadableImage):
                rows.setdefault(one[0], []).append(i)
        return rows


def see(images: Images) -> Seen:
    """Read, decode and hash every image."""

    def look(index: int) -> tuple[str, Encoding] | UnreadableImage:
        title = images.title(index)
        try:
            with READ.of(images.source.size(images.keys[index])):
                data = images.source.encoded(images.keys[index])
                probe(title, data)
                return hashlib.sha256(data).hexdigest(), encoding(title, data)
        except UnreadableImage as problem:
            return problem

    with ThreadPoolExecutor() as pool:
        return Seen(images, tuple(pool.map(look, range(len(images)))))


def split_problems(name: str, seen: Seen) -> list[str]:
    """Images that are missing, damaged, or listed twice."""
    bad = [(problem.path, problem.reason) for problem in seen.found if isinstance(problem, UnreadableImage)]
    bad += seen.images.skipped
    gone = [path for path, reason in bad if reason == "no such file"]
    damaged = [f"{path} ({reason})" for path, reason in bad if reason != "no such file"]
    twice = [seen.images.source.name(key) for key, times in Counter(seen.images.keys).items() if times > 1]
    kinds = {"missing images": gone, "unreadable images": damaged, "images listed more than once": twice}
    return [f"{name}: {what}, {len(paths):,}: {some(paths)}" for what, paths in kinds.items() if paths]


def doubles(name: str, seen: Seen) -> list[str]:
    """Images with the same content and different names, and those of them that have different labels."""
    targets = seen.images.targets.tolist()
    groups = [rows for rows in seen.contents().values() if len({seen.images.keys[i] for i in rows}) > 1]
    torn = [rows for rows in groups if any(targets[i] != targets[rows[0]] for i in rows)]
    kinds = {"pictures that occur more than once": groups, "pictures with more than one answer": torn}
    return [
        f"{name}: {what}, {len(found):,}: {some([' = '.join(map(seen.images.name, rows[:3])) for rows in found])}"
        for what, found in kinds.items()
        if found
    ]


def leaks(seen: dict[str, Seen]) -> list[str]:
    """Images with the same content in two splits. train800val200 is left out: it consists of the other two."""
    found = []
    for (a, first), (b, second) in combinations([pair for pair in seen.items() if pair[0] != "train800val200"], 2):
        mine, theirs = first.contents(), second.contents()
        both = [first.images.name(rows[0]) for content, rows in mine.items() if content in theirs]
        if both:
            found.append(f"pictures both in {a} and in {b}, {len(both):,}: {some(both)}")
    return found


def class_problems(seen: dict[str, Seen]) -> list[str]:
    """Classes that are not in the training images, and classes that are missing in the validation images."""
    if "train" not in seen:
        return []
    known = dict.fromkeys(seen["train"].images.classes)
    found = []
    for name, one in seen.items():
        own = dict.fromkeys(one.images.classes)
        strange = [text for text in own if text not in known]
        missing = [text for text in known if text not in own] if name == "val" else []
        found += [f"{name}: train has no {some(strange)}"] if strange else []
        found += [f"{name}: there is no {some(missing)}"] if missing else []
    return found


def count_problems(place: str, layout: str, seen: dict[str, Seen]) -> list[str]:
    """Wrong numbers of images in a well-known set, and a train800val200 that is not train800 and val200 together."""
    counts = {name: len(one.images) for name, one in seen.items()}
    if layout == "vtab":
        return _vtab_counts(Path(place).resolve().name, counts) + _vtab_union(seen)
    wanted = named.SIZES.get(layout, {})
    if wanted and set(counts) - set(wanted):  # VPT's lists divide train differently
        counts, wanted = {"all": sum(counts.values())}, {"all": sum(wanted.values())}
    return _differences(counts, wanted)


def _vtab_counts(task: str, counts: dict[str, int]) -> list[str]:
    """Wrong numbers of images in a task of VTAB-1K; any other task may have any size."""
    if task not in vtab.VTAB:
        return []
    sizes = {"train": vtab.SIZES["train800"], "val": vtab.SIZES["val200"]}
    whole = {"train800val200": vtab.SIZES["train800val200"], "test": vtab.VTAB[task].test}
    return _differences(counts, {**sizes, **whole})


def _differences(counts: dict[str, int], wanted: dict[str, int]) -> list[str]:
    return [
        f"{name}: {counts.get(name, 0):,} images instead of {number:,}"
        for name, number in wanted.items()
        if counts.get(name, 0) != number
    ]


def _vtab_union(seen: dict[str, Seen]) -> list[str]:
    if not {"train", "val", "train800val200"} <= set(seen):
        return []
    whole, two = _labelled(seen["train800val200"]), _labelled(seen["train"]) + _labelled(seen["val"])
    differing = sum(((whole - two) + (two - whole)).values())
    return [f"train800val200 differs from train800 and val200 together in {differing:,} images"] if differing else []


def _labelled(seen: Seen) -> Counter:
    """How often each content occurs with each label."""
    targets = seen.images.targets.tolist()
    return Counter((content, targets[i]) for content, rows in seen.contents().items() for i in rows)
