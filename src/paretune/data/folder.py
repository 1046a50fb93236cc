"""A folder of images, one sub-folder per class, as data sets.

ROOT/train/CLASS/*.png   ROOT/val/CLASS/*.png   [ROOT/test/CLASS/*.png]      as it comes
ROOT/CLASS/*.png   or   ROOT/train/CLASS/*.png alone                         "val" is split off for you
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from paretune.data.images import UnreadableImage, open_image, probe
from paretune.errors import UsageError, refuse

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}

Sample = tuple[str, int]  # path relative to the root, with forward slashes; class index


@dataclass(frozen=True)
class ImageFolder:
    """Which file has which label, for one split of a folder tree: a map-style data set of (picture, label).

    Attributes:
        root: the folder as it was given.
        split: "train", "val", "test", or "all" (a tree that was not split).
        classes: names of the class folders; a label is an index into this tuple.
        samples: (path, label), sorted by class and path, so independent of the file system's order.
        transform: turns an RGB picture into what the model eats; None leaves it as it is.
        split_rule: how train and val were parted where the tree does not say; None where it does.
        skipped: (path, reason) of each unreadable image that was left out on request.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    transform: Callable[[Image.Image], object] | None = None
    split_rule: dict | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[object, int]:
        path, label = self.samples[index]
        picture = open_image(self.root / path)
        return (self.transform(picture) if self.transform else picture), label

    def through(self, transform: Callable[[Image.Image], object]) -> ImageFolder:
        """The same images, seen through `transform`."""
        return replace(self, transform=transform)

    def fingerprint(self) -> str:
        """SHA-256 over the sorted lines "path<TAB>bytes": notices added, removed, renamed and resized files.

        The contents are not read, so an edit that keeps a file's length goes unnoticed.
        """
        lines = sorted(f"{path}\t{(self.root / path).stat().st_size}\n" for path, _ in self.samples)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def describe(self) -> dict:
        """What a training record keeps about its data."""
        counts = Counter(label for _, label in self.samples)
        return {
            "path": str(self.root.resolve()),
            "split": self.split,
            "split_rule": self.split_rule,
            "images": len(self),
            "per_class": {name: counts[label] for label, name in enumerate(self.classes)},
            "fingerprint": self.fingerprint(),
            "skipped": [path for path, _ in self.skipped],
        }


def read_folder(
    root: str | Path, *, val_share: float = 0.2, seed: int = 0, skip_unreadable: bool = False
) -> tuple[ImageFolder, ImageFolder]:
    """The training and the validation set of a folder.

    Where the tree has no val folder, `val_share` of each class (at least one image, and at least one is left to train
    on) is drawn with `seed`. Every file is probed, so that a damaged one is named now and not in the ninth epoch.

    Raises:
        UsageError: no such folder, no class folders, only one class, a class without images, train and val with
            different classes, unreadable images (all are named) unless `skip_unreadable`.
    """
    if not 0 < val_share < 1:
        raise UsageError(f"val_share={val_share}: the share of images to validate on must lie between 0 and 1")
    parts = _parts(Path(root))
    classes = _classes(parts.get("train") or parts.get("all"), "train on")
    if "val" in parts:
        return tuple(_read(root, parts[name], name, classes, skip_unreadable) for name in ("train", "val"))
    whole = _read(root, parts.get("train") or parts["all"], "all", classes, skip_unreadable)
    return _split(whole, val_share, seed)


def read_split(root: str | Path, split: str, classes: tuple[str, ...], *, skip_unreadable: bool = False) -> ImageFolder:
    """One split of a folder, labelled by `classes`; "all" for a tree of class folders without train and val.

    Classes may be missing in the folder, unknown ones may not be there. Raises UsageError as `read_folder`.
    """
    parts = _parts(Path(root))
    if split not in parts:
        raise UsageError(f"{root} has no split '{split}': use {' or '.join(parts)}")
    found = _classes(parts[split], "evaluate on", least=1)
    strange = sorted(set(found) - set(classes))
    if strange:
        raise UsageError(f"{parts[split]}: the model does not know {_names(strange)}; it knows {_names(classes)}")
    return _read(root, parts[split], split, tuple(classes), skip_unreadable, present=found)


def available_splits(root: str | Path) -> list[str]:
    """The splits that a folder comes with; ["all"] for a tree of class folders."""
    return list(_parts(Path(root)))


def _parts(root: Path) -> dict[str, Path]:
    """Where the splits lie: {"train": ..., "val": ..., "test": ...} as far as they are there, or {"all": root}."""
    if not root.is_dir():
        raise UsageError(f"data folder {root} " + ("is a file, not a folder" if root.exists() else "does not exist"))
    parts = {split: root / name for split, names in SPLITS.items() for name in names if (root / name).is_dir()}
    if any(_folders(part) for part in parts.values()):
        if "train" in parts and not _folders(parts["train"]):
            raise UsageError(f"{parts['train']} holds no class folders, but {root} is laid out as train/ val/ test/")
        return parts
    if parts and set(_folders(root)) <= {part.name for part in parts.values()}:
        raise UsageError(
            f"{root} has {_names(_folders(root))}, but no class folders in them: expected train/CLASS/*.png"
        )
    return {"all": root}


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _classes(part: Path | None, purpose: str, least: int = 2) -> tuple[str, ...]:
    if part is None:
        raise UsageError("there is no train folder: expected FOLDER/train/CLASS/*.png or FOLDER/CLASS/*.png")
    names = _folders(part)
    if not names:
        raise UsageError(f"{part} holds no class folders to {purpose}: expected {part}/CLASS/*.png, one per class")
    if len(names) < least:
        raise UsageError(f"{part} holds one class only, '{names[0]}': at least two are needed to {purpose}")
    return tuple(names)


def _read(root, part: Path, split: str, classes, skip_unreadable: bool, present=None) -> ImageFolder:
    """Every image of one part, probed; `present` are the classes that must have images (all unless given)."""
    root, present = Path(root), classes if present is None else present
    _same_classes(part, classes, present)
    found = {name: _image_files(part / name) for name in present}
    _no_empty_class(part, found)
    paths = [(path, classes.index(name)) for name, files in found.items() for path in files]
    bad = _unreadable([path for path, _ in paths])
    if bad and not skip_unreadable:
        raise UsageError(_complain(bad, len(paths)))
    broken = {problem.path for problem in bad}
    samples = tuple((path.relative_to(root).as_posix(), label) for path, label in paths if str(path) not in broken)
    whole = {name: [path for path in files if str(path) not in broken] for name, files in found.items()}
    _no_empty_class(part, whole)
    skipped = tuple((Path(problem.path).relative_to(root).as_posix(), problem.reason) for problem in bad)
    return ImageFolder(root, split, tuple(classes), samples, skipped=skipped)


def _image_files(folder: Path) -> list[Path]:
    """All images below a class folder, sorted; hidden files and other endings are no images."""
    found = [Path(where) / name for where, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(path for path in found if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."))


def _unreadable(paths: list[Path]) -> list[UnreadableImage]:
    def check(path: Path) -> UnreadableImage | None:
        try:
            probe(path)
        except UnreadableImage as problem:
            return problem

    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        return [problem for problem in pool.map(check, paths) if problem]


def _split(whole: ImageFolder, val_share: float, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """Stratified: `val_share` of each class, at least one image in each part, chosen by (seed, class) alone."""
    val = {sample for label in range(len(whole.classes)) for sample in _drawn(whole, label, val_share, seed)}
    rule = {"val_share": val_share, "seed": seed}
    parts = {"train": [s for s in whole.samples if s not in val], "val": [s for s in whole.samples if s in val]}
    return tuple(replace(whole, split=name, samples=tuple(part), split_rule=rule) for name, part in parts.items())


def _drawn(whole: ImageFolder, label: int, val_share: float, seed: int) -> list[Sample]:
    samples, name = [s for s in whole.samples if s[1] == label], whole.classes[label]
    if len(samples) < 2:
        raise UsageError(
            f"class '{name}' in {whole.root} has one image only: it needs two to be split in train and val"
        )
    count = min(max(1, round(val_share * len(samples))), len(samples) - 1)
    return random.Random(f"{seed}/{name}").sample(samples, count)


def _same_classes(part: Path, classes, present) -> None:
    have = set(_folders(part))
    problems = [f"class '{name}' is missing" for name in present if name not in have]
    problems += [f"class '{name}' is not in train" for name in sorted(have - set(classes))]
    refuse(problems, f"{part} must have the same class folders as train")


def _no_empty_class(part: Path, found: dict[str, list[Path]]) -> None:
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise UsageError(
            f"no readable images in {_names(str(part / name) for name in empty)}: remove or fill the folder"
        )


def _complain(bad: list[UnreadableImage], total: int) -> str:
    shown = "; ".join(f"{problem.path}: {problem.reason}" for problem in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"{len(bad)} of {total} images cannot be read (mend or remove them, or skip unreadable ones): {shown}{more}"


def _names(names) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
