"""The task "distance": how far apart are the two rings, measured in their radius?

A picture shows two rings of the same size, among discs of the same colour and size. The label is one of six bins of
equal width; CLEVR-distance has six classes too. Size, position and direction vary, so neither the position nor the size
of the rings alone tells the answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.drawing import SIZE, background, colour_pairs, finish, uniform
from paretune.drawn.outline import filled, lined, over, pixels
from paretune.drawn.task import painted

BINS = 6
NEAREST, FARTHEST = 2.4, 8.4
"""The smallest and the largest distance between the centres, in radii."""

DISCS = 5
MARGIN = 0.5


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw two rings and up to five discs per picture."""
    count = len(labels)
    radius = uniform(rng, 2.0, 2.8, count)
    share = (labels + uniform(rng, 0.1, 0.9, count)) / BINS
    apart = radius * (NEAREST + share * (FARTHEST - NEAREST))
    first, second = _pair(rng, radius, apart)
    rings = torch.stack([first, second], dim=1)
    ink = lined(_discs(rings, radius).flatten(0, 1), torch.full((2 * count,), 1.0)).view(count, 2, SIZE, SIZE)
    others = _others(rng, rings, radius)
    ink = torch.cat([ink, filled(_discs(others, radius))], dim=1).amax(dim=1)
    back, fore = colour_pairs(rng, count, 0.35, 0.9)
    return finish(rng, over(background(rng, back, fore, clutter=0.4), fore, ink), noise=0.05)


def _pair(rng: torch.Generator, radius: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """Two centres (n, 2) at the given distance, in a random direction, both inside the picture."""
    turn = uniform(rng, 0, 2 * math.pi, len(radius))
    step = apart.unsqueeze(1) * torch.stack([torch.cos(turn), torch.sin(turn)], dim=1)
    room = SIZE - 2 * (radius + MARGIN).unsqueeze(1) - step.abs()
    first = (radius + MARGIN).unsqueeze(1) + (-step).clamp_min(0) + room * torch.rand(len(radius), 2, generator=rng)
    return first, first + step


def _others(rng: torch.Generator, rings: Tensor, radius: Tensor) -> Tensor:
    """Centres (n, DISCS, 2) of discs that touch no ring and no other disc. A disc without room is put outside."""
    reach, placed = radius.view(-1, 1), rings
    for _ in range(DISCS):
        tries = reach.unsqueeze(1) + torch.rand(len(radius), 12, 2, generator=rng) * (SIZE - 2 * reach).unsqueeze(1)
        gap = (tries.unsqueeze(2) - placed.unsqueeze(1)).norm(dim=-1).amin(dim=2)
        fits = gap > 2 * reach + MARGIN
        chosen = tries[torch.arange(len(tries)), fits.long().argmax(dim=1)]
        shown = fits.any(dim=1) & (torch.rand(len(tries), generator=rng) < 0.7)
        placed = torch.cat([placed, torch.where(shown.unsqueeze(1), chosen, -SIZE).unsqueeze(1)], dim=1)
    return placed[:, 2:]


def _discs(centres: Tensor, radius: Tensor) -> Tensor:
    """How deep every pixel is inside each disc (n, K, 2), in pixels: (n, K, S, S)."""
    x, y = pixels()
    cx, cy = (c[..., None, None] for c in centres.unbind(-1))
    return radius.view(-1, 1, 1, 1) - torch.hypot(x - cx, y - cy)


DISTANCE = painted(
    "distance", "structured", "how many radii the two rings are apart", [f"bin {b}" for b in range(BINS)], paint
)
