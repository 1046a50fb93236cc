"""Which patches share a token, drawn over the image.

A patch that kept a token of its own is shown as it is; the more patches share a token, the paler they are. Patches of
one token have one colour, and lines run where one token ends and another begins. Dropped patches are black, with a
stroke through each.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

STROKE = (96, 96, 96)


def merged(image: NDArray[np.uint8], groups: NDArray[np.int64], grid: tuple[int, int], scale: int = 5) -> Image.Image:
    """One image (H, W, 3) with the tokens of its patches; `groups` (rows * columns,) as `Tokens.groups` gives them.

    `scale`: screen pixels per image pixel.
    """
    groups = groups.reshape(grid)
    height, width = image.shape[0] // grid[0] * scale, image.shape[1] // grid[1] * scale
    canvas = Image.fromarray(image).resize((width * grid[1], height * grid[0]), Image.Resampling.NEAREST)
    pixels = np.asarray(canvas).astype(np.float64)
    members = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    for (row, column), token in np.ndenumerate(groups):
        patch = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        patch[:] = _washed(patch, int(token), int(members[token]))
    canvas = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    _draw_strokes(pen, groups, height, width)
    _draw_borders(pen, groups, height, width)
    return canvas


def _washed(patch: NDArray[np.float64], token: int, members: int) -> NDArray[np.float64]:
    """The patch, mixed with its token's colour if it shares the token."""
    if token < 0:
        return np.zeros_like(patch)
    own = max(members**-0.5, 0.25)
    colour = colorsys.hsv_to_rgb(token * 0.618 % 1, 0.35, 1)  # neighbouring token numbers get colours far apart
    return own * patch + (1 - own) * 255 * np.array(colour)


def _draw_strokes(pen: ImageDraw.ImageDraw, groups: NDArray[np.int64], height: int, width: int) -> None:
    for row, column in zip(*np.nonzero(groups < 0), strict=True):
        x, y = column * width + width // 4, row * height + height // 4
        pen.line((x, y + height // 2, x + width // 2, y), fill=STROKE)


def _draw_borders(pen: ImageDraw.ImageDraw, groups: NDArray[np.int64], height: int, width: int) -> None:
    for row, column in zip(*np.nonzero(groups[:, 1:] != groups[:, :-1]), strict=True):
        x = (column + 1) * width
        pen.line((x, row * height, x, (row + 1) * height), fill="black")
    for row, column in zip(*np.nonzero(groups[1:] != groups[:-1]), strict=True):
        y = (row + 1) * height
        pen.line((column * width, y, (column + 1) * width, y), fill="black")
