"""The task "textures": which of twelve materials fills the picture?

Repeat length, tilt, colours, contrast and light vary. The embedded backbone was pretrained on stripes, checks, dots and
noise, but on none of these materials.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.drawing import colour_pairs, finish, uniform
from paretune.drawn.noise import cell_values, lattice_noise
from paretune.drawn.outline import averaged, mixed, pixels, turned
from paretune.drawn.task import painted

FINE = 2

# Every function below draws a material: (rng, u, v) -> brightness in [0, 1]. u and v (n, H, W) count repetitions.


def bricks(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Rows of bricks of slightly different brightness. Every second row is shifted by half a brick."""
    row = torch.floor(2 * v)
    u = u + 0.5 * (row % 2)
    mortar = torch.minimum(_edge(u), _edge(2 * v) / 2) < 0.06
    return torch.where(mortar, 0, 1 - 0.35 * cell_values(rng, torch.floor(u), row))


def honeycomb(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Hexagonal cells with walls."""
    tall = math.sqrt(3)
    reach = [_hexagonal((u + s) % 1 - 0.5, (v + s * tall) % tall - tall / 2) for s in (0.0, 0.5)]
    return (torch.minimum(*reach) < 0.40).to(u)


def weave(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Strands that cross over and under each other, shaded to look round."""
    u, v = 2 * u, 2 * v
    upright = (torch.floor(u) + torch.floor(v)) % 2 < 1
    across, along = torch.where(upright, u, v) % 1, torch.where(upright, v, u) % 1
    return (torch.sin(math.pi * across) * (0.55 + 0.45 * torch.sin(math.pi * along))).sqrt()


def herringbone(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Planks of two by one, alternately horizontal and vertical."""
    u, v = 2.4 * u, 2.4 * v
    place = (torch.floor(u) - torch.floor(v)) % 4
    lying = place < 2
    along = torch.where(lying, place + u % 1, 3 - place + v % 1)
    across = torch.where(lying, v, u)
    gap = torch.minimum(_edge(across), torch.minimum(along, 2 - along)) < 0.11
    return torch.where(gap, 0, torch.where(lying, 1.0, 0.72))


def scales(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Round scales in overlapping rows, dark at the edge."""
    u, v = 0.75 * u, 0.75 * v
    value = torch.zeros_like(u)
    for below in (0, 1):
        row = torch.floor(2 * v) + below
        distance = torch.hypot((u + 0.5 * (row % 2)) % 1 - 0.5, v - row / 2)
        value = torch.where(distance < 0.5, ((0.5 - distance) / 0.16).clamp(0, 1) * (1 - 0.4 * distance), value)
    return value


def wood(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Long grain; every year ring ends sharply."""
    rings = 1.6 * v + 1.6 * lattice_noise(rng, 0.25 * u, 0.7 * v) + 0.12 * lattice_noise(rng, u, 8 * v)
    return 1 - (rings % 1) ** 2


def marble(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Thin winding veins."""
    u, v = 0.6 * u, 0.6 * v
    folds = lattice_noise(rng, u, v) + 0.5 * lattice_noise(rng, 2 * u, 2 * v) + 0.25 * lattice_noise(rng, 4 * u, 4 * v)
    return torch.sin(math.pi * (0.8 * u + 1.6 * folds)).abs().sqrt()


def cells(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Irregular cells around random points (Voronoi), separated by lines."""
    u, v = 1.3 * u, 1.3 * v
    distances = []
    shift = [torch.rand(len(u), 16, 16, generator=rng) for _ in range(2)]
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            column, row = torch.floor(u) + i, torch.floor(v) + j
            dx, dy = (cell_values(rng, column, row, table) for table in shift)
            distances.append(torch.hypot(column + dx - u, row + dy - v))
    near = torch.stack(distances).topk(2, dim=0, largest=False).values
    return ((near[1] - near[0]) / 0.22).clamp(0, 1)


def zigzag(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Stripes that change direction after every half repetition."""
    return (torch.sin(2 * math.pi * (1.5 * v + 1.5 * _edge(u))) > 0).to(u)


def rings(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Concentric circles on a square grid."""
    u, v = 0.7 * u, 0.7 * v
    distance = torch.hypot(u % 1 - 0.5, v % 1 - 0.5)
    return 0.5 + 0.5 * torch.cos(2 * math.pi * 4 * distance)


def labyrinth(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Winding walls of equal width: a sum of waves of one length from all directions."""
    total = torch.zeros_like(u)
    for _ in range(14):
        angle, phase = uniform(rng, 0, 2 * math.pi, 2, len(u), 1, 1)
        total = total + torch.cos(2 * math.pi * 1.5 * (torch.cos(angle) * u + torch.sin(angle) * v) + phase)
    return (total > 0).to(u)


def plaid(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Broad and narrow bands that cross, as in a tartan."""
    bands = [((w % 1 < 0.42).to(u) + (_edge(w - 0.71) < 0.06).to(u)) / 2 for w in (u, v)]
    return bands[0] + bands[1]


MATERIALS = {
    m.__name__: m
    for m in (
        bricks, honeycomb, weave, herringbone, scales, wood, marble, cells, zigzag, rings, labyrinth, plaid,
    )
}  # fmt: skip


def _edge(w: Tensor) -> Tensor:
    """Distance to the nearest whole number."""
    return 0.5 - (w % 1 - 0.5).abs()


def _hexagonal(x: Tensor, y: Tensor) -> Tensor:
    """Half of the width of the hexagon around the origin through (x, y); its left and right sides are vertical."""
    x, y = x.abs(), y.abs()
    return torch.maximum(x, x / 2 + y * math.sqrt(3) / 2)


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw one material per picture, in light that gets weaker towards one side."""
    count = len(labels)
    x, y = turned(*pixels(FINE), uniform(rng, 0, 2 * math.pi, count))
    period = 7 * torch.exp(uniform(rng, -0.3, 0.45, count, 1, 1))
    start = uniform(rng, 0, 16, 2, count, 1, 1)
    u, v = x / period + start[0], y / period + start[1]
    value = torch.empty_like(u)
    for label, material in enumerate(MATERIALS.values()):
        rows = labels == label
        value[rows] = material(rng, u[rows], v[rows])
    image = mixed(*colour_pairs(rng, count, 0.2, 0.7), averaged(value, FINE))
    x, y = (p / 16 - 1 for p in pixels())
    light = turned(x, y, uniform(rng, 0, 2 * math.pi, count))[0]
    return finish(rng, image * (1 + 0.3 * light.unsqueeze(1)), noise=0.1)


TEXTURES = painted("textures", "natural", "which of twelve materials fills the picture", tuple(MATERIALS), paint)
