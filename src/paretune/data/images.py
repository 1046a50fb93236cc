"""One image file in, one upright 8-bit RGB picture out, or an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from paretune.errors import UsageError

T = TypeVar("T")

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's gray modes with more than 8 bits


class UnreadableImage(UsageError):
    """An image file that cannot be decoded; `path` and `reason` say which one and why."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"cannot read image {path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


def open_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """The picture as people see it: EXIF rotation applied, transparency on white, any mode to 8-bit RGB.

    16-bit gray is scaled (65535 becomes 255), not clipped; of an animation the first frame is taken. Pillow's guard
    against decompression bombs stays on. `data` is the file's content where it lies elsewhere than in a file; `path` is
    then its name in errors.

    Raises:
        UnreadableImage: the file is missing, damaged, truncated, or of a kind without an agreed way to RGB.
    """
    return inspect(path, lambda image: to_rgb(ImageOps.exif_transpose(image)), data)


def probe(path: str | Path, data: bytes | None = None) -> None:
    """Cheap check that `open_image` will succeed: PNG by its checksums, JPEG decoded at 1/8 size, the rest in full.

    Raises:
        UnreadableImage: as `open_image`.
    """
    inspect(path, _probe, data)


def inspect(path: str | Path, look: Callable[[Image.Image], T], data: bytes | None = None) -> T:
    """`look(image)` with the file open; whatever a decoder raises on a damaged file becomes UnreadableImage."""
    data = file_bytes(path) if data is None else data
    try:
        with Image.open(BytesIO(data)) as image:
            return look(image)
    except Exception as problem:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise UnreadableImage(path, _reason(problem)) from problem


def file_bytes(path: str | Path) -> bytes:
    """The content of an image file; raises UnreadableImage where there is none."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file") from None
    except OSError as problem:
        raise UnreadableImage(path, problem.strerror) from problem


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any Pillow mode; raises ValueError where no conversion is agreed on."""
    if image.mode in _DEEP:
        image = _to_8_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if values.min() < 0 or values.max() > top:
        raise ValueError(
            f"{image.mode} pixels from {values.min():g} to {values.max():g}, expected 0 to {top:g}; "
            "convert the file to 8 or 16 bits first"
        )
    return Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


def _probe(image: Image.Image) -> None:
    if image.format == "PNG":
        image.verify()
        return
    eighth = max(1, image.width // 8), max(1, image.height // 8)
    image.draft("RGB", eighth)  # only JPEG has this short cut; others ignore it
    image.load()


def _reason(problem: Exception) -> str:
    if isinstance(problem, Image.UnidentifiedImageError):
        return "not an image file, or a format that Pillow does not know"
    return str(problem) or type(problem).__name__
