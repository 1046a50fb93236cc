"""The task "orientation": by what angle is the sprite turned?

As in VTAB's dsprites_ori, the label is floor(orientation / 2.5) of the 40 orientations. Shape, scale and position vary.

Symmetry is ignored, as in VTAB. A square looks the same (to about 2 degrees) after every quarter turn, and an ellipse
(to about 5 degrees) after half a turn, but the labels differ. Only the orientation of a heart is certain. A model that
sees the sprite perfectly, but not differences of a few degrees, is right in about (1 + 1/2 + 1/4) / 3 = 58 % of the
pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.drawn.sprites import ORIENTATIONS, POSITIONS, any_of, member, sprites
from paretune.drawn.task import painted

BINS = 16


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw one sprite per picture, with its orientation in the bin of the label."""
    return sprites(rng, any_of(rng, POSITIONS, len(labels)), member(rng, labels, ORIENTATIONS, BINS))


ORIENTATION = painted(
    "orientation", "structured", "the angle by which the sprite is turned", [f"turn {b}" for b in range(BINS)], paint
)
