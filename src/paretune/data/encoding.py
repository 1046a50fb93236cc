"""How an image file is encoded: its format, whether the format loses detail, and how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from paretune.data.images import inspect

ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm"}
_LOSSLESS = ("PNG", "BMP", "GIF", "PPM", "TIFF")


@dataclass(frozen=True)
class Encoding:
    """The properties of an image file that its header states.

    Attributes:
        format: Pillow's name, such as JPEG or PNG.
        lossy: whether the format changes the pixels when it stores them.
        quality: 1 to 100 for a JPEG file: the quality whose tables in libjpeg are closest to those in the file. Else
            None.
        size: (width, height) in pixels.
    """

    format: str
    lossy: bool
    quality: int | None
    size: tuple[int, int]

    @property
    def ending(self) -> str:
        """The ending of the file's name."""
        return ENDINGS.get(self.format, f".{self.format.lower()}")


def encoding(name: str, data: bytes) -> Encoding:
    """Read the header of the image file `data`. Raises UnreadableImage, which contains `name`."""

    def look(image: Image.Image) -> Encoding:
        assert image.format is not None, "the image comes from a file"
        quality = jpeg_quality(image.quantization) if isinstance(image, JpegImageFile) else None
        kind = "JPEG" if image.format == "MPO" else image.format  # a JPEG file that contains more pictures
        return Encoding(kind, _lossy(kind, image, data), quality, image.size)

    return inspect(name, look, data)


def lossiness(encodings: Iterable[Encoding]) -> str:
    """ "lossy", "lossless", or "mixed"."""
    kinds = {"lossy" if one.lossy else "lossless" for one in encodings}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def jpeg_quality(tables: dict[int, list[int]]) -> int:
    """The quality, 1 to 100, whose luminance table in libjpeg is closest to table 0 of the file."""

    def distance(quality: int) -> int:
        return sum(abs(a - b) for a, b in zip(tables[0], _table(quality), strict=True))

    return min(range(100, 0, -1), key=distance)


@cache
def _table(quality: int) -> list[int]:
    """The luminance table that libjpeg writes at this quality."""
    file = BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
    image = Image.open(file)
    assert isinstance(image, JpegImageFile)
    return image.quantization[0]


def _lossy(kind: str, image: Image.Image, data: bytes) -> bool:
    if kind == "WEBP":
        return (
            b"VP8L" not in data[12:64]
        )  # the chunk with lossless pixels is the first one, or comes after a short header
    return kind not in _LOSSLESS or image.info.get("compression") == "jpeg"
