"""The task "location": what is the x position of the sprite?

As in VTAB's dsprites_loc, the label is floor(x / 2) of the 32 x positions. Shape, scale, orientation and y vary. A bin
is about one pixel wide, a quarter of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.drawn.sprites import ORIENTATIONS, POSITIONS, any_of, member, sprites
from paretune.drawn.task import painted

BINS = 16


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw one sprite per picture, with its x position in the bin of the label."""
    return sprites(rng, member(rng, labels, POSITIONS, BINS), any_of(rng, ORIENTATIONS, len(labels)))


LOCATION = painted("location", "structured", "the x position of the sprite", [f"x {b}" for b in range(BINS)], paint)
