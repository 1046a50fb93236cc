"""RepAdapter: a foldable linear bottleneck before attention and MLP (Luo et al. 2023, arXiv:2302.08106).

            z ──┬───────────────────────────────┐
                │                               + ── R z ── qkv or fc1         R z = z + s (B dropout(A z + a) + b)
                └─ A ─ dropout ─ B, grouped ─ s ┘

            A (r, D)      B (D, r) of `groups` diagonal blocks: each part of the channels reads its own part of the r

R acts on the input of the linears, after the LayerNorm. It is affine, so it can be folded into them: their weights
become W + s W B A, and s W (B a + b) is added to their bias. If queries, keys and values, or the two halves of a
SwiGLU, are separate linears, each has its own R. B, a and b start at zero, so training starts from the backbone itself.
Trained parameters on ViT-B/16, rank 8, two groups: 239,808, of which 221,184 are weights, the published number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.leaf import Leaf
from paretune.core.method import Shape

READERS = {"attn": ("q", "k", "v"), "mlp": ("fc1", "fc1_g", "fc1_x")}


@dataclass(frozen=True)
class RepAdapter:
    """A linear bottleneck before attention and MLP; folds into the backbone."""

    rank: int | tuple[int, ...] = 8
    """width r of the bottleneck, one number for all blocks or one for each; 0 = none in this block"""
    groups: int = 2
    """number of diagonal blocks of the up-projection"""
    scale: float = 1.0
    """factor s on the output of the bottleneck (the authors choose it per task from 0.1, 0.5, 1, 5, 10)"""
    dropout: float = 0.1
    """dropout on the bottleneck"""
    before: Literal["attn mlp", "attn", "mlp"] = "attn mlp"
    """which sub-layers have a bottleneck before them"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that have bottlenecks; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        ranks = self.rank if isinstance(self.rank, tuple) else (self.rank,)
        fits = self.groups >= 1 and not any(n % self.groups for n in (*ranks, shape.width))
        return [
            *shape.block_problems("RepAdapter", self.blocks, "rank", self.rank, most=shape.width),
            *([f"RepAdapter groups={self.groups}: must divide rank={self.rank} and the width {shape.width}"]
              if not fits else []),
            *([f"RepAdapter dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
        ]  # fmt: skip

    def attach(self, body: Body) -> None:
        """Put a leaf on every linear that reads the normalised tokens."""
        readers = [name for site in self.before.split() for name in READERS[site] if name in body.shape.linears]
        ranks = body.shape.per_block(self.blocks, self.rank)
        for spot in body.layers(" ".join(readers), ranks):
            assert spot.block is not None, "linears are in blocks"
            spot.put(RepLeaf(spot.layer.in_features, ranks[spot.block], self))


class RepLeaf(Leaf):
    """layer(z + scale * (B dropout(A z + a) + b))."""

    def __init__(self, width: int, rank: int, config: RepAdapter):
        super().__init__()
        self.groups, self.scale = config.groups, config.scale
        self.down = nn.Linear(width, rank)
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Parameter(torch.zeros(width, rank // config.groups))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        hidden = self.dropout(self.down(x)).chunk(self.groups, dim=-1)
        blocks = zip(hidden, self.up.chunk(self.groups), self.bias.chunk(self.groups), strict=True)
        change = torch.cat([F.linear(h, up, bias) for h, up, bias in blocks], dim=-1)
        return layer(x + self.scale * change)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        through = self.scale * weight @ torch.block_diag(*self.up.chunk(self.groups))  # (out, r)
        constant = through @ self.down.bias + self.scale * weight @ self.bias
        return weight + through @ self.down.weight, constant if bias is None else bias + constant
