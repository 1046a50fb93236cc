"""Orientation: how far is the sprite turned?

VTAB's dsprites_ori: label = floor(orientation / 2.5) of the 40 orientations; shape, scale and position vary.

VTAB makes nothing of symmetry, and so is it here: a square looks the same (to about 2 degrees) after every quarter turn
and an ellipse (to about 5 degrees) after half a turn, with other labels. Only a heart can be told for certain; whoever
sees the sprite perfectly but not those few degrees is right in about (1 + 1/2 + 1/4) / 3 = 58 % of the pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.drawn.sprites import ORIENTATIONS, POSITIONS, any_of, member, sprites
from paretune.drawn.task import painted

BINS = 16


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """One sprite per picture, its orientation in the bin of the label."""
    return sprites(rng, any_of(rng, POSITIONS, len(labels)), member(rng, labels, ORIENTATIONS, BINS))


ORIENTATION = painted(
    "orientation", "structured", "how far the sprite is turned", [f"turn {b}" for b in range(BINS)], paint
)
