"""Pooling of neighbours: the baseline for learned matching in FPET's Figure 3 (arXiv:2503.20282, section 5.4.3).

            a b c d          neighbours in a row become one token, whatever their content;
            e f g h          tokens: 2x4 -> 2x2, in one block

            ab  cd           in a grid of odd width, the patches of the last column are paired vertically; with an odd
            ef  gh           number of patches, one stays alone

    average   the mean of the pair              max   the larger of the two, channel by channel

Pooling has no parameters and does not depend on the tokens. The maximum is not a linear map, so an adapter that carries
a narrow state across it raises an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paretune.core.attention import Look
from paretune.core.method import Reducer, Shape
from paretune.core.reduction import Merge
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class Pool:
    """Pool neighbouring patches, two by two, once."""

    by: Literal["average", "max"] = "average"
    """how two patches become one token: by their mean, or by their channel-wise maximum"""
    block: int | None = None
    """0-based block that reduces, between attention and MLP; None = at half of the depth"""
    proportional: bool = True
    """whether attention weights tokens by their size"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        fits = self.block is None or 0 <= self.block < shape.depth
        return [] if fits else [f"Pool block={self.block}: the backbone has blocks 0 to {shape.depth - 1}"]

    def build(self, shape: Shape) -> PoolReducer:
        """The reducer for a backbone of this shape."""
        return PoolReducer(self, shape.depth // 2 if self.block is None else self.block)


class PoolReducer(Reducer):
    """See the module."""

    def __init__(self, config: Pool, block: int):
        super().__init__()
        self.block, self.peak, self.proportional = block, config.by == "max", config.proportional

    def forward(self, block: int, look: Look, tokens: Tokens) -> Merge | None:
        if block != self.block or tokens.patches < 2:
            return None
        first = firsts(tokens.grid, tokens.x.device)
        patches = torch.arange(tokens.patches, device=first.device)
        second = first != patches
        order = torch.argsort(second * tokens.patches + patches)  # a sort instead of a mask keeps the shapes static
        left = (tokens.patches + 1) // 2
        keep, joining = order[:left], order[left:]
        slots = torch.zeros_like(first).scatter(0, keep, torch.arange(left, device=first.device))
        dst = slots[first[joining]]
        return Merge(n_in=tokens.patches, keep=keep[None], src=joining[None], dst=dst[None], peak=self.peak)


def firsts(grid: tuple[int, int], device: torch.device) -> Tensor:
    """For every patch, the raster index of the first patch of its pair."""
    rows, columns = grid
    cells = torch.arange(rows * columns, device=device)
    row, column = cells // columns, cells % columns
    paired = columns // 2 * 2
    return torch.where(column < paired, cells - column % 2, cells - columns * (row % 2))
