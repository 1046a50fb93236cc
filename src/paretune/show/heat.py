"""Attention as a heat map over the image: dark violet for none, through red, to pale yellow for the most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Evenly spaced, lightness rising all the way, so that it reads without colour too.
COLOURS = np.array([(13, 8, 35), (72, 18, 96), (142, 36, 104), (208, 62, 74), (246, 124, 38), (252, 192, 64),
                    (255, 252, 214)], dtype=np.float64)  # fmt: skip
OVER = 0.8  # how much the colour covers the grey image below


def coloured(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values 0 to 1 (...) -> colours 0 to 255 (..., 3)."""
    at = np.clip(values, 0, 1) * (len(COLOURS) - 1)
    return np.stack([np.interp(at, np.arange(len(COLOURS)), channel) for channel in COLOURS.T], axis=-1)


def heat(
    image: NDArray[np.uint8], attention: NDArray[np.float64], grid: tuple[int, int], most: float, scale: int = 5
) -> Image.Image:
    """One image (H, W, 3), grey, below the attention (rows * columns,) of its patches; NaN is left grey and dark.

    most: the attention that gets the brightest colour; scale: screen pixels per image pixel.
    """
    height, width = image.shape[0] // grid[0] * scale, image.shape[1] // grid[1] * scale
    size = (width * grid[1], height * grid[0])
    grey = np.asarray(Image.fromarray(image).convert("L").resize(size, Image.Resampling.NEAREST))[..., None]
    shown = np.sqrt(attention.reshape(grid) / most)  # the root spreads the many small values out
    cells = shown.repeat(height, 0).repeat(width, 1)
    over = OVER * coloured(np.nan_to_num(cells)) + (1 - OVER) * grey
    return Image.fromarray(np.where(np.isnan(cells)[..., None], 0.2 * grey, over).astype(np.uint8))


def bar(width: int, height: int) -> Image.Image:
    """The scale of the colours, from none to the most."""
    line = coloured(np.sqrt(np.linspace(0, 1, width)))
    return Image.fromarray(line.astype(np.uint8)[None].repeat(height, 0))
