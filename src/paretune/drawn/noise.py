"""Random values at any coordinate, from a random table that repeats: one value per cell, or smoothly interpolated."""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.drawn.drawing import uniform

TABLE = 16
"""The table repeats after this many cells."""


def cell_values(rng: torch.Generator, column: Tensor, row: Tensor, table: Tensor | None = None) -> Tensor:
    """A random value in [0, 1), or that of `table` (n, 16, 16), for each cell (n, H, W), given by whole numbers."""
    count = len(column)
    if table is None:
        table = uniform(rng, 0, 1, count, TABLE, TABLE)
    index = (row % TABLE).long() * TABLE + (column % TABLE).long()
    return table.flatten(1).gather(1, index.flatten(1)).view_as(column)


def lattice_noise(rng: torch.Generator, u: Tensor, v: Tensor) -> Tensor:
    """Smooth noise in [-1, 1] with one random value per unit of u and v (n, H, W)."""
    table = uniform(rng, -1, 1, len(u), TABLE, TABLE)
    column, row = torch.floor(u), torch.floor(v)
    fu, fv = (w * w * (3 - 2 * w) for w in (u - column, v - row))
    upper, lower = (
        cell_values(rng, column, row + down, table) * (1 - fu) + cell_values(rng, column + 1, row + down, table) * fu
        for down in (0, 1)
    )
    return upper * (1 - fv) + lower * fv
