"""Write data of any format as tar shards, or as a folder of class folders."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from paretune.data.dataset import Images, labelled_by, some
from paretune.data.encoding import encoding
from paretune.data.images import open_image
from paretune.data.opening import parts_of
from paretune.data.shards import CLASSES
from paretune.errors import UsageError, plain, unknown
from paretune.files import whole

TARGETS = ("shards", "folder")
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
SPLITS = ("train", "val", "test", "all")
_JPEG_SIDE = 65_500  # pixels: the limit of a JPEG file
_COPIED = (
    "JPEG",
    "PNG",
    "GIF",
    "TIFF",
    "WEBP",
)  # other formats become PNG, which has the same pixels and which every reader knows


@dataclass(frozen=True)
class Looks:
    """How images are written. size: largest shorter side in pixels; format: png or jpg; None changes nothing."""

    size: int | None = None
    format: str | None = None


def convert(
    data: str | Path,
    dest: str | Path,
    to: str = "shards",
    *,
    shard_size: int = 1000,
    size: int | None = None,
    format: str | None = None,
) -> dict[str, int]:
    """Write every split of `data` to the new folder `dest`. Returns the number of images of each split.

    Without `size` and `format`, files are copied byte for byte; BMP files and pixels in memory become PNG. `size`
    shrinks images, with antialiasing, until the shorter side has this many pixels. Only the splits train, val, test and
    all are written; VTAB-1K's train800val200 is left out, because it consists of two other splits. `dest` appears only
    when it is complete.

    Raises:
        UsageError: `dest` is not empty, or is inside `data`; a folder of class folders cannot express the answers or
        the
            class names; and all errors of reading.
    """
    dest, looks = Path(dest), Looks(size, format)
    _check(data, dest, to, shard_size, looks)
    parts = {split: read() for split, read in parts_of(data).items() if split in SPLITS}
    if not parts:
        raise UsageError(f"{plain(data)} has none of the splits {', '.join(SPLITS)}")
    classes = parts.get("train", next(iter(parts.values()))).classes
    parts = {split: labelled_by(images, classes) for split, images in parts.items()}
    with whole(dest) as folder:
        for split, images in parts.items():
            if to == "shards":
                _write_shards(folder, split, images, shard_size, looks)
            else:
                _write_folder(folder, split, images, looks)
    return {split: len(images) for split, images in parts.items()}


def _check(data: str | Path, dest: Path, to: str, shard_size: int, looks: Looks) -> None:
    if to not in TARGETS:
        raise unknown("format to write", to, list(TARGETS))
    if looks.format is not None and looks.format not in FORMATS:
        raise unknown("image format", looks.format, list(FORMATS))
    if shard_size < 1 or (looks.size is not None and looks.size < 1):
        raise UsageError(f"shard_size={shard_size} and size={looks.size} must be at least 1")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UsageError(f"{plain(dest)} exists and is not an empty folder: give a new folder")
    if Path(data).is_dir() and Path(data).resolve() in (dest.resolve(), *dest.resolve().parents):
        raise UsageError(f"{plain(dest)} is inside {plain(data)}: give a folder outside of it")


def _write_shards(folder: Path, split: str, images: Images, shard_size: int, looks: Looks) -> None:
    said = {"task": images.task, "classes": list(images.classes)}
    (folder / CLASSES).write_text(json.dumps(said, indent=2), encoding="utf-8")
    for number, start in enumerate(range(0, len(images), shard_size)):
        with tarfile.open(folder / f"{split}-{number:06}.tar", "w") as tar:
            for i in range(start, min(start + shard_size, len(images))):
                data, ending = _encoded(images, i, looks)
                _add(tar, f"{i:06}{ending}", data)
                _add(tar, *_answer(images, i))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # without time and owner, so the same images give the same shard
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _answer(images: Images, index: int) -> tuple[str, bytes]:
    """The name and content of a label file."""
    target = images.targets[index].tolist()
    if images.task == "multiclass":
        return f"{index:06}.cls", str(target).encode()
    if images.task == "multilabel":
        content = {"labels": [name for name, has in zip(images.classes, target, strict=True) if has]}
    else:
        content = {"targets": dict(zip(images.classes, target, strict=True))}
    return f"{index:06}.json", json.dumps(content).encode()


def _write_folder(folder: Path, split: str, images: Images, looks: Looks) -> None:
    if images.task != "multiclass":
        raise UsageError(f"a folder of class folders cannot hold {images.task} answers: write shards")
    bad = [name for name in images.classes if not _is_folder_name(name)]
    if bad:
        raise UsageError(
            f"the class names {some([repr(name) for name in bad])} cannot be names of folders: write shards"
        )
    there = sorted(set(images.targets.tolist()))
    if split in ("train", "all") and len(there) < len(images.classes):
        raise UsageError(f"{split} has images of only {len(there)} of {len(images.classes)} classes: write shards")
    place = folder if split == "all" else folder / split
    for label in there:
        (place / images.classes[label]).mkdir(parents=True)
    for i, label in enumerate(images.targets.tolist()):
        data, ending = _encoded(images, i, looks)
        (place / images.classes[label] / f"{i:06}{ending}").write_bytes(data)


def _is_folder_name(name: str) -> bool:
    """Whether a class folder can have this name: the folder reader finds it, and the disk accepts it."""
    return not (name.startswith((".", "__")) or "/" in name or "\0" in name) and len(name.encode()) <= 255


def _encoded(images: Images, index: int, looks: Looks) -> tuple[bytes, str]:
    """The content of the image file to write, and the ending of its name."""
    title, data = images.title(index), images.source.encoded(images.keys[index])
    found = encoding(title, data)
    kept = found.format in _COPIED if looks.format is None else found.format == FORMATS[looks.format]["format"]
    if kept and (looks.size is None or min(found.size) <= looks.size):
        return data, found.ending
    format = looks.format or ("jpg" if found.format == "JPEG" else "png")
    picture = _shrunk(open_image(title, data), looks.size)
    if format == "jpg" and max(picture.size) > _JPEG_SIDE:
        raise UsageError(
            f"a side of {plain(title)} has {max(picture.size):,} pixels, and a JPEG file can have {_JPEG_SIDE:,}: "
            "use --format png, or a --size"
        )
    return _written(picture, format)


def _shrunk(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or min(image.size) <= size:
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _written(image: Image.Image, format: str) -> tuple[bytes, str]:
    file = io.BytesIO()
    image.save(file, **FORMATS[format])
    return file.getvalue(), f".{format}"
