"""Decode an image file to an upright 8-bit RGB picture, or raise an error that names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from paretune.data.budget import Budget
from paretune.data.png import check_png
from paretune.errors import UsageError, plain

T = TypeVar("T")

FILE_BYTES = 1 << 29  # limit of an image file, 512 MiB: the pixel limit with 32 bits per pixel, uncompressed
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # the grey modes of Pillow with more than 8 bits
_PROGRAMS = ("EPS",)  # formats for which Pillow would start another program
_STRIP = 1 << 22  # pixels whose mode is converted at once
_PROBED = Budget(1 << 26)  # pixels, for all threads together that run `probe`
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes a picture upright, by its EXIF orientation."""
_SAID = "cannot read image "


class UnreadableImage(UsageError):
    """An image file cannot be decoded; `path` and `reason` say which file and why.

    If a loading process raises this error, torch's DataLoader raises it again with one argument, a text that ends with
    the message. Path and reason are then taken from this text.
    """

    def __init__(self, path: str | Path, reason: str | None = None):
        if reason is None:
            path, _, reason = str(path).rpartition(_SAID)[2].strip().partition(": ")
        super().__init__(f"{_SAID}{plain(path)}: {plain(reason)}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


def open_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """The picture as an image viewer shows it: EXIF rotation applied, transparency on white, any mode to 8-bit RGB.

    16-bit grey is scaled (65535 becomes 255), not clipped. An animation gives its first frame. EXIF data that cannot be
    read are ignored. `data` is the content of the file, if it is not read from `path`; `path` is then its name in
    errors.

    Raises:
        UnreadableImage: the file is missing, not a regular file, damaged or truncated; it has more pixels than Pillow
            accepts without a warning; or there is no defined conversion to RGB.
    """
    data = file_bytes(path) if data is None else data
    return inspect(path, lambda image: _upright(image, data), data)


def probe(path: str | Path, data: bytes | None = None) -> None:
    """Check that `open_image` will succeed, by decoding the image: JPEG at 1/8 of its size, other formats in full.

    All threads that call this share a budget of pixels, so many large pictures need no more memory than one.

    Raises:
        UnreadableImage: in the cases of `open_image`.
    """
    data = file_bytes(path) if data is None else data
    inspect(path, lambda image: _probe(image, data), data)


def inspect(path: str | Path, look: Callable[[Image.Image], T], data: bytes | None = None) -> T:
    """`look(image)` on the open file. Every exception of a decoder becomes UnreadableImage."""
    data = file_bytes(path) if data is None else data
    try:
        with Image.open(BytesIO(data)) as image:
            _check(image)
            return look(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, _too_large()) from None
    except Exception as problem:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise UnreadableImage(path, _reason(problem)) from problem


def file_bytes(path: str | Path) -> bytes:
    """The content of an image file. Raises UnreadableImage if it is missing or not a regular file."""
    size = file_stat(path).st_size
    try:
        with Path(path).open("rb") as file:
            data = file.read(min(size, FILE_BYTES) + 1)  # not more, even if the file grows
    except OSError as problem:
        raise UnreadableImage(path, problem.strerror or str(problem)) from problem
    if len(data) > FILE_BYTES:
        raise UnreadableImage(path, f"more than {FILE_BYTES >> 20} MiB: shrink the picture")
    return data


def file_stat(path: str | Path) -> os.stat_result:
    """`os.stat` of an image file. Raises UnreadableImage if it is missing, a pipe, a device or a folder."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file") from None
    except (OSError, ValueError) as problem:  # a name with a zero in it is a ValueError
        raise UnreadableImage(path, getattr(problem, "strerror", None) or str(problem)) from problem
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage(path, "not a regular file")
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any Pillow mode. Raises ValueError if there is no defined conversion.

    A conversion of several steps runs strip by strip, so a large picture is in memory twice and not five times.
    """
    if image.mode in _DEEP:
        _check_range(image)
    elif not image.has_transparency_data:
        return image.convert("RGB")
    whole = Image.new("RGB", image.size)
    for box in _strips(image):
        whole.paste(_strip_to_rgb(image.crop(box)), box[:2])
    return whole


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        image = _to_8_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _strips(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """The boxes (left, top, right, bottom) of strips of whole rows. Together they are the picture."""
    rows = max(1, _STRIP // image.width)
    return [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]


def _check_range(image: Image.Image) -> None:
    ends = [(part.min(), part.max()) for part in (np.asarray(image.crop(box)) for box in _strips(image))]
    low, high, top = np.min(ends), np.max(ends), _top(image)
    if not (low >= 0 and high <= top):  # false for NaN too
        raise ValueError(
            f"{image.mode} pixels from {low:g} to {high:g}, expected 0 to {top:g}; "
            "convert the file to 8 or 16 bits first"
        )


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values * (255.0 / _top(image))).astype(np.uint8))


def _top(image: Image.Image) -> float:
    """The value of white in this mode."""
    return 1.0 if image.mode == "F" else 65535.0


def _check(image: Image.Image) -> None:
    """Raise ValueError for a file that must not be decoded."""
    if image.format in _PROGRAMS:
        raise ValueError(f"{image.format} is a program that draws, not a picture")
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(_too_large())


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: shrink the picture"


def _upright(image: Image.Image, data: bytes) -> Image.Image:
    """The decoded picture in RGB, turned upright by its EXIF data. Raises ValueError and the errors of the decoders."""
    if image.format == "PNG":
        check_png(data)
    image.load()
    method = _TURNED.get(_orientation(image))
    picture = to_rgb(image)
    return picture if method is None else picture.transpose(method)


def _orientation(image: Image.Image) -> int:
    """1 to 8, from the EXIF data; 1 (upright) if they cannot be read, because the pixels may still be good."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises exceptions of any kind for damaged EXIF data
        return 1
    return found if isinstance(found, int) else 1


def _probe(image: Image.Image, data: bytes) -> None:
    with _PROBED.of(image.width * image.height):  # at 1/8 of its size too, a progressive JPEG is in memory as a whole
        if image.format == "JPEG":  # only JPEG can be decoded at a smaller size
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        _upright(image, data)


def _reason(problem: Exception) -> str:
    if isinstance(problem, Image.UnidentifiedImageError):
        return "not an image file, or a format that Pillow does not know"
    return str(problem) or type(problem).__name__
