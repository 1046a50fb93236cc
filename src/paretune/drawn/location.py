"""Location: where does the sprite lie from left to right?

VTAB's dsprites_loc: label = floor(x / 2) of the 32 x positions; shape, scale, orientation and y vary. A bin is about
one pixel wide, a quarter of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.drawn.sprites import ORIENTATIONS, POSITIONS, any_of, member, sprites
from paretune.drawn.task import painted

BINS = 16


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """One sprite per picture, its x position in the bin of the label."""
    return sprites(rng, member(rng, labels, POSITIONS, BINS), any_of(rng, ORIENTATIONS, len(labels)))


LOCATION = painted(
    "location", "structured", "where the sprite lies from left to right", [f"x {b}" for b in range(BINS)], paint
)
