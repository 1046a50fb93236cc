"""One image file in, one upright 8-bit RGB picture out, or an error that names the file."""

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

FILE_BYTES = 1 << 29  # an image file may have 512 MiB: what the pixel limit allows, in 32 bits, not compressed
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's gray modes with more than 8 bits
_PROGRAMS = ("EPS",)  # Pillow would start another program to draw them
_STRIP = 1 << 22  # pixels that change their mode at once
_PROBED = Budget(1 << 26)  # pixels, over all threads that probe
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
_SAID = "cannot read image "


class UnreadableImage(UsageError):
    """An image file that cannot be decoded; `path` and `reason` say which one and why.

    With one argument it is what torch's DataLoader makes of one that a loading process raised: a text that ends with
    the sentence.
    """

    def __init__(self, path: str | Path, reason: str | None = None):
        if reason is None:
            path, _, reason = str(path).rpartition(_SAID)[2].strip().partition(": ")
        super().__init__(f"{_SAID}{plain(path)}: {plain(reason)}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


def open_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """The picture as people see it: EXIF rotation applied, transparency on white, any mode to 8-bit RGB.

    16-bit gray is scaled (65535 becomes 255), not clipped; of an animation the first frame is taken. EXIF data that
    cannot be read turn nothing. `data` is the file's content where it lies elsewhere than in a file; `path` is then its
    name in errors.

    Raises:
        UnreadableImage: the file is missing, no regular file, damaged, truncated, of more pixels than Pillow's guard
            against decompression bombs lets pass without a warning, or of a kind without an agreed way to RGB.
    """
    data = file_bytes(path) if data is None else data
    return inspect(path, lambda image: _upright(image, data), data)


def probe(path: str | Path, data: bytes | None = None) -> None:
    """Check that `open_image` will succeed, by decoding: JPEG at 1/8 size, the rest in full.

    Threads that probe share a budget of pixels, so that many large pictures do not take more memory than one.

    Raises:
        UnreadableImage: as `open_image`.
    """
    data = file_bytes(path) if data is None else data
    inspect(path, lambda image: _probe(image, data), data)


def inspect(path: str | Path, look: Callable[[Image.Image], T], data: bytes | None = None) -> T:
    """`look(image)` with the file open; whatever a decoder raises on a damaged file becomes UnreadableImage."""
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
    """The content of an image file; raises UnreadableImage where there is none, or something else than a file."""
    size = file_stat(path).st_size
    try:
        with Path(path).open("rb") as file:
            data = file.read(min(size, FILE_BYTES) + 1)  # a file that grows is read no further
    except OSError as problem:
        raise UnreadableImage(path, problem.strerror or str(problem)) from problem
    if len(data) > FILE_BYTES:
        raise UnreadableImage(path, f"more than {FILE_BYTES >> 20} MiB, shrink the picture")
    return data


def file_stat(path: str | Path) -> os.stat_result:
    """What the disk says of an image file; raises UnreadableImage for a pipe, a device, a folder, or nothing."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file") from None
    except (OSError, ValueError) as problem:  # a name with a zero in it is a ValueError
        raise UnreadableImage(path, getattr(problem, "strerror", None) or str(problem)) from problem
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage(path, "no regular file")
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any Pillow mode; raises ValueError where no conversion is agreed on.

    What needs more than one step goes strip by strip: a large picture is in memory twice, not five times.
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
    """The boxes (left, top, right, bottom) of whole rows that make up the picture."""
    rows = max(1, _STRIP // image.width)
    return [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]


def _check_range(image: Image.Image) -> None:
    ends = [(part.min(), part.max()) for part in (np.asarray(image.crop(box)) for box in _strips(image))]
    low, high, top = np.min(ends), np.max(ends), _top(image)
    if not (low >= 0 and high <= top):  # NaN is neither
        raise ValueError(
            f"{image.mode} pixels from {low:g} to {high:g}, expected 0 to {top:g}; "
            "convert the file to 8 or 16 bits first"
        )


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values * (255.0 / _top(image))).astype(np.uint8))


def _top(image: Image.Image) -> float:
    """The value of white."""
    return 1.0 if image.mode == "F" else 65535.0


def _check(image: Image.Image) -> None:
    """Raise ValueError for what must not be decoded."""
    if image.format in _PROGRAMS:
        raise ValueError(f"{image.format} is a program that draws, no picture")
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(_too_large())


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: shrink the picture"


def _upright(image: Image.Image, data: bytes) -> Image.Image:
    """The decoded picture in RGB, turned as its EXIF data say. Raises ValueError and whatever decoders raise."""
    if image.format == "PNG":
        check_png(data)
    image.load()
    method = _TURNED.get(_orientation(image))
    picture = to_rgb(image)
    return picture if method is None else picture.transpose(method)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as in the EXIF data; 1 (upright) where they cannot be read: the pixels are sound all the same."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # as many kinds as a damaged file has
        return 1
    return found if isinstance(found, int) else 1


def _probe(image: Image.Image, data: bytes) -> None:
    with _PROBED.of(image.width * image.height):  # a progressive JPEG is in memory as a whole at 1/8 size too
        if image.format == "JPEG":  # only JPEG has this short cut
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        _upright(image, data)


def _reason(problem: Exception) -> str:
    if isinstance(problem, Image.UnidentifiedImageError):
        return "not an image file, or a format that Pillow does not know"
    return str(problem) or type(problem).__name__
