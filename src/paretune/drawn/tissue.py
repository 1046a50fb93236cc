"""The task "tissue": which of eight kinds of tissue is in the picture?

A picture shows violet nuclei on pink fibres. The kinds differ in the number, size, length, variety and arrangement of
the nuclei. Stain, brightness, magnification and focus vary within every kind.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paretune.drawn.drawing import SIZE, finish, uniform
from paretune.drawn.noise import lattice_noise
from paretune.drawn.outline import mixed, over, pixels, turned
from paretune.drawn.task import painted

MOST = 24


class Kind(NamedTuple):
    """Mean number of nuclei, radius in pixels, length divided by width, variation of the size, and arrangement."""

    number: int
    radius: float
    length: float = 1.2
    spread: float = 0.08
    aligned: bool = False
    ring: bool = False


KINDS = {
    "resting": Kind(8, 2.0),
    "crowded": Kind(14, 2.0),
    "lymphocytic": Kind(18, 1.4, 1.0),
    "enlarged": Kind(8, 2.7),
    "spindle": Kind(10, 1.9, 2.2, aligned=True),
    "disarrayed": Kind(10, 1.9, 2.2),
    "pleomorphic": Kind(8, 2.1, 1.5, 0.4),
    "glandular": Kind(12, 1.8, 1.3, ring=True),
}
_TABLE = torch.tensor(list(KINDS.values()), dtype=torch.float64)


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw one field of view per picture."""
    count = len(labels)
    number, radius, length, spread, aligned, ring = _TABLE[labels].unbind(1)
    zoom = torch.exp(uniform(rng, -0.12, 0.12, count))
    centre, outward = _places(rng, count, ring > 0)
    grain = uniform(rng, 0, math.pi, count, 1)
    free = uniform(rng, 0, math.pi, count, MOST)
    wobble = 0.25 * torch.randn(count, MOST, generator=rng)
    turn = torch.where(ring[:, None] > 0, outward + wobble, torch.where(aligned[:, None] > 0, grain + wobble, free))
    size = (radius * zoom)[:, None] * torch.exp(spread[:, None] * torch.randn(count, MOST, generator=rng))
    long = length[:, None] * torch.exp(0.1 * torch.randn(count, MOST, generator=rng))
    shown = torch.arange(MOST) < (number / zoom**2 * torch.exp(uniform(rng, -0.15, 0.15, count)))[:, None]
    darkness = shown * (uniform(rng, 0.6, 0.95, count, 1) + 0.1 * torch.randn(count, MOST, generator=rng)).clamp(0.3, 1)
    focus = uniform(rng, 0.35, 1.0, count)
    ink = _nuclei(centre, turn, size * long.sqrt(), size / long.sqrt(), focus, darkness)
    return finish(rng, _stained(rng, ink, grain[:, 0]), noise=0.05)


def _places(rng: torch.Generator, count: int, ring: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of separate nuclei (n, MOST, 2), and their direction from the middle of the gland (n, MOST)."""
    side = 6
    cell = torch.rand(count, side * side, generator=rng).argsort(dim=1)[:, :MOST]
    corner = torch.stack([cell % side, torch.div(cell, side, rounding_mode="floor")], dim=-1)
    free = (corner + 0.5 + uniform(rng, -0.38, 0.38, count, MOST, 2)) * (SIZE / side)
    middle = uniform(rng, 10, 22, count, 1, 2)
    turn = (torch.arange(MOST) * 2 * math.pi / 12) + uniform(rng, 0, 6, count, 1)
    turn = turn + uniform(rng, -0.12, 0.12, count, MOST)
    reach = uniform(rng, 8, 10.5, count, 1) + uniform(rng, -0.8, 0.8, count, MOST)
    around = middle + reach.unsqueeze(-1) * torch.stack([torch.cos(turn), torch.sin(turn)], dim=-1)
    return torch.where(ring.view(-1, 1, 1), around, free), turn


def _nuclei(centre: Tensor, turn: Tensor, long: Tensor, short: Tensor, focus: Tensor, darkness: Tensor) -> Tensor:
    """Ink (n, S, S) of n x MOST ellipses; `focus` (n,) is the softness of the edges in pixels."""
    x, y = pixels()
    soft, ink = focus.view(-1, 1, 1), torch.zeros(len(centre), SIZE, SIZE)
    for i in range(MOST):
        left, top, half, thin, dark = (w[:, i].view(-1, 1, 1) for w in (*centre.unbind(-1), long, short, darkness))
        along, across = turned(x - left, y - top, turn[:, i])
        depth = (1 - torch.hypot(along / half, across / thin)) * thin
        ink = torch.maximum(ink, dark * torch.sigmoid(2.5 * depth / soft))
    return ink


def _stained(rng: torch.Generator, ink: Tensor, grain: Tensor) -> Tensor:
    """Colour the fibres, along `grain`, as eosin does, and the nuclei as haematoxylin does."""
    count = len(ink)
    u, v = turned(*pixels(), grain)
    fibre = lattice_noise(rng, u / 14, v / 3) + 0.5 * lattice_noise(rng, u / 5, v / 1.5)
    stain = uniform(rng, -0.06, 0.06, 3, count, 3)
    pale = torch.tensor([0.95, 0.82, 0.88]) + stain[0]
    pink = torch.tensor([0.86, 0.55, 0.70]) + stain[1]
    violet = torch.tensor([0.40, 0.25, 0.55]) + 1.5 * stain[2]
    image = mixed(pale, pink, (uniform(rng, 0.3, 0.7, count, 1, 1) + 0.4 * fibre).clamp(0, 1))
    mottled = ink * (1 - 0.2 * lattice_noise(rng, u / 1.3, v / 1.3).abs())
    return over(image, violet, mottled) * uniform(rng, 0.85, 1.1, count, 1, 1, 1)


TISSUE = painted("tissue", "specialized", "which of eight kinds of tissue is in the picture", tuple(KINDS), paint)
