"""dSprites' grid of factors: 3 shapes, 6 scales, 40 orientations, 32 x 32 positions (Matthey et al., 2017).

The factors have the values of dSprites: scales from 0.5 to 1, orientations from 0 to 2 pi including both ends,
positions in the middle half of the picture. The pictures have 32 x 32 pixels instead of 64 x 64, colours, and varied
backgrounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.drawing import SIZE, background, colour_pairs, finish
from paretune.drawn.outline import filled, inside, over, placed
from paretune.drawn.shapes import HEART

SCALES, ORIENTATIONS, POSITIONS = 6, 40, 32
SQUARE = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
ELLIPSE = [(0.8 * math.cos(math.pi * i / 16), 1.6 * math.sin(math.pi * i / 16)) for i in range(32)]
SPRITES = {"square": SQUARE, "ellipse": ELLIPSE, "heart": [(1.2 * x, 1.2 * y) for x, y in HEART]}
BIGGEST = 4.5
"""Half of the side of the square at scale 1, in pixels."""


def any_of(rng: torch.Generator, values: int, count: int) -> Tensor:
    """`count` random values of a factor, in [0, values)."""
    return torch.randint(values, (count,), generator=rng)


def member(rng: torch.Generator, labels: Tensor, values: int, bins: int) -> Tensor:
    """A random value of a factor for each label: one with label = floor(value / (values / bins)), as in VTAB."""
    bin_of = torch.div(torch.arange(values) * bins, values, rounding_mode="floor")
    first = torch.searchsorted(bin_of, labels)
    width = torch.searchsorted(bin_of, labels, right=True) - first
    return first + (torch.rand(len(labels), generator=rng) * width).long()


def sprites(rng: torch.Generator, x: Tensor, orientation: Tensor) -> Tensor:
    """Pictures of one sprite each, with the given x and orientation (n,). The other factors are random."""
    count = len(x)
    shape, scale, y = any_of(rng, 3, count), any_of(rng, SCALES, count), any_of(rng, POSITIONS, count)
    radius = BIGGEST * (0.5 + 0.5 * scale / (SCALES - 1))
    angle = 2 * math.pi * orientation / (ORIENTATIONS - 1)
    centre = SIZE / 4 + torch.stack([x, y], dim=1) / (POSITIONS - 1) * SIZE / 2
    distance = torch.empty(count, SIZE, SIZE)
    for index, corners in enumerate(SPRITES.values()):
        rows = shape == index
        distance[rows] = inside(placed(torch.tensor(corners), radius[rows], angle[rows], centre[rows]))
    back, fore = colour_pairs(rng, count, 0.35, 0.9)
    return finish(rng, over(background(rng, back, fore, clutter=0.4), fore, filled(distance)), noise=0.05)
