"""Check that a PNG file is complete. Pillow does not notice wrong checksums and rows that are missing at the end.

signature | length, name, content, checksum | length, name, content, checksum | ... | IEND
             IHDR comes first; the IDATs contain the deflated pixels, one after the other

ISO/IEC 15948:2004 (the PNG specification), sections 5, 8.2 and 10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by the colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: for each pass the first column and row, and the steps to the next column and row."""
_AT_ONCE = 1 << 20  # limit of the bytes that are inflated at once


def check_png(data: bytes) -> None:
    """Raise ValueError if a PNG file is cut off, a checksum is wrong, or pixels are damaged or missing."""
    header, inflate, rows = b"", zlib.decompressobj(), 0
    for name, content in _chunks(data):
        if name == b"IHDR":
            header = bytes(content)
        elif name == b"IDAT":
            rows += _inflated(inflate, content)
    wanted = _raw_bytes(header)
    if rows < wanted:
        raise ValueError(f"the pixels end after {rows:,} of {wanted:,} bytes")
    if not inflate.eof:
        raise ValueError("the pixels are cut off")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each chunk up to IEND. Raises ValueError if the file is cut off or a checksum is wrong."""
    view, at, name = memoryview(data), len(SIGNATURE), b""
    while name != b"IEND":
        if at + 12 > len(data):
            raise ValueError("the file is cut off")
        (length,), name = struct.unpack(">I", view[at : at + 4]), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(data):
            raise ValueError("the file is cut off")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack(">I", view[end : end + 4])[0]:
            raise ValueError(f"the checksum of the part {name.decode('latin-1')} is wrong")
        yield name, view[at + 8 : end]
        at = end + 4


def _inflated(inflate, content: memoryview) -> int:
    """The number of bytes in a part of the deflated pixels, which are not kept. Raises ValueError for damaged data."""
    try:
        found, rest = 0, content
        while len(rest) and not inflate.eof:
            found += len(inflate.decompress(rest, _AT_ONCE))
            rest = inflate.unconsumed_tail
        return found
    except zlib.error as problem:
        raise ValueError(f"the pixels are damaged: {problem}") from None


def _raw_bytes(header: bytes) -> int:
    """The smallest number of bytes of the inflated pixels: one for the filter of each row, and the samples."""
    try:
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        bits = depth * _SAMPLES[colour]
    except (struct.error, KeyError):
        raise ValueError("the header is damaged") from None
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // right), -(-(height - y) // down)) for x, y, right, down in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
