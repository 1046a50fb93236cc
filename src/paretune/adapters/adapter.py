"""Adapter: a bottleneck behind the MLP, or behind attention and MLP (Houlsby et al. 2019, arXiv:1902.00751).

            y ──┬─ LN ─ MLP ─ LayerScale ─ DropPath ─ z ─┬─────────────────────────────┐
                │                                        └─ down ─ act ─ dropout ─ up ─ * s
                └──────────────────────────────────────────────────────────────────────+ ── x'

    x' = y + z + s (W_up dropout(act(W_down z + a)) + b)

The adapter works in series: it reads what the sub-layer adds to the residual stream, while AdaptFormer reads the stream
itself. `placing="mlp"` is the adapter of NOAH (Zhang et al. 2022, arXiv:2206.04673) and of both papers' tables, with
the activation u sigmoid(1.702 u). `placing="both"` adds a second one behind the attention, as in Houlsby et al., who
also train the LayerNorms; this adapter does not.

NOAH initialises `up` at random, so its outputs differ from the backbone's when training starts. Here `up` starts at
zero, so training starts from the backbone itself. Trained parameters on ViT-B/16, width 8: 156,768 behind the MLP,
313,536 behind both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.method import Branch, Place, Shape, Site, known
from paretune.core.tokens import Tokens

PLACES: dict[str, tuple[Place, ...]] = {"mlp": ("mlp",), "both": ("attn", "mlp")}


@dataclass(frozen=True)
class Adapter:
    """A bottleneck of `width` in series with every MLP, or with attention and MLP."""

    width: int | tuple[int, ...] = 8
    """width h of the bottleneck, one number for all blocks or one for each; 0 = none in this block"""
    placing: Literal["mlp", "both"] = "mlp"
    """behind the MLP (NOAH), or behind attention and MLP (Houlsby)"""
    scale: float = 1.0
    """factor s on the adapter's output"""
    activation: Literal["quickgelu", "gelu", "relu"] = "quickgelu"
    """the non-linearity; quickgelu is u sigmoid(1.702 u)"""
    dropout: float = 0.1
    """dropout on the bottleneck"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that have an adapter; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return [
            *shape.block_problems("Adapter", self.blocks, "width", self.width),
            *([f"Adapter dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
        ]

    def attach(self, body: Body) -> None:
        """Add the branch."""
        body.branch(AdapterBranch(body.shape.per_block(self.blocks, self.width), body.shape.width, self))


def quickgelu(u: Tensor) -> Tensor:
    """u sigmoid(1.702 u)."""
    return u * torch.sigmoid(1.702 * u)


ACTIVATIONS = {"quickgelu": quickgelu, "gelu": F.gelu, "relu": F.relu}


class Serial(nn.Module):
    """scale * up(dropout(act(down z))): z (B, N, D) -> (B, N, D)."""

    def __init__(self, channels: int, width: int, config: Adapter):
        super().__init__()
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        self.dropout = nn.Dropout(config.dropout)
        self.act, self.scale = ACTIVATIONS[config.activation], config.scale
        nn.init.xavier_uniform_(self.down.weight)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.dropout(self.act(self.down(z)))) * self.scale


class AdapterBranch(Branch):
    """Bottlenecks by place and block: widths {block: h}."""

    def __init__(self, widths: dict[int, int], channels: int, config: Adapter):
        super().__init__()
        self.places = PLACES[config.placing]
        self.blocks = nn.ModuleDict({
            place: nn.ModuleDict({str(block): Serial(channels, h, config) for block, h in widths.items()})
            for place in self.places
        })  # fmt: skip

    def forward(self, at: Site, tokens: Tokens) -> Tokens:
        here = known(nn.ModuleDict, self.blocks[at.place])
        return tokens.plus(here[str(at.block)](at.y)) if str(at.block) in here else tokens
