"""AdaptFormer: a bottleneck beside every MLP (Chen et al. 2022, arXiv:2205.13535).

            y ──┬─ LN ─ MLP ─ LayerScale ─ DropPath ─┐
                ├────────────────────────────────────+ ── x'
                └─ down ─ ReLU ─ dropout ─ up ─ * s ─┘        x' = y + MLP(LN y) + s (W_up dropout(relu(W_down y)))

It reads the residual stream itself (no LayerNorm); its output is added after LayerScale and DropPath. `up` starts at
zero. Trained parameters on ViT-B/16, width 8: 147,456, with biases 156,768. FPET uses no biases; the original has them.

`bits` = 1, 2, 4 or 8 quantises both projections, so that a wider bottleneck needs less storage: Bi-AdaptFormer (Jie et
al. 2023, arXiv:2307.16867) has width 32 at 1 bit, 73,920 bytes for 589,824 weights. `up` then starts near zero instead
of at zero, so training starts near the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.method import Branch, Shape, Site
from paretune.core.quantised import BITS, linear, start_
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class AdaptFormer:
    """A bottleneck of `width` beside every MLP."""

    width: int | tuple[int, ...] = 8
    """width h of the bottleneck, one number for all blocks or one for each; 0 = none in this block"""
    scale: float = 1.0
    """factor s on the output of the bottleneck (original on full data sets: 0.1; FPET: 1; Bi-AdaptFormer: chosen per
    task from 0.01, 0.1, 1, 10)"""
    bias: bool = False
    """whether both projections have biases"""
    dropout: float = 0.1
    """dropout on the bottleneck"""
    bits: int = 0
    """bits per weight: 1, 2, 4 or 8; 0 = float weights"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that have a bottleneck; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return [
            *shape.block_problems("AdaptFormer", self.blocks, "width", self.width),
            *([f"AdaptFormer dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
            *([f"AdaptFormer bits={self.bits}: must be one of {BITS}, or 0"] if self.bits not in (0, *BITS) else []),
            *([f"AdaptFormer bits={self.bits} bias=True: quantised projections have no bias; set bias=False"]
              if self.bits and self.bias else []),
        ]  # fmt: skip

    def attach(self, body: Body) -> None:
        """Add the branch."""
        body.branch(AdaptFormerBranch(body.shape.per_block(self.blocks, self.width), body.shape.width, self))


class Bottleneck(nn.Module):
    """scale * up(dropout(relu(down x)))."""

    def __init__(self, channels: int, width: int, config: AdaptFormer):
        super().__init__()
        self.down = linear(channels, width, config.bits, config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.up = linear(width, channels, config.bits, config.bias)
        self.scale = config.scale
        start_(self.up)
        for projection in (self.down, self.up):
            if config.bias and isinstance(projection, nn.Linear):
                nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.dropout(F.relu(self.down(x)))) * self.scale


class AdaptFormerBranch(Branch):
    """Bottlenecks by block: widths {block: h}."""

    places = ("mlp",)

    def __init__(self, widths: dict[int, int], channels: int, config: AdaptFormer):
        super().__init__()
        self.blocks = nn.ModuleDict({str(block): Bottleneck(channels, h, config) for block, h in widths.items()})

    def forward(self, at: Site, tokens: Tokens) -> Tokens:
        if str(at.block) not in self.blocks:
            return tokens
        return tokens.plus(self.blocks[str(at.block)](at.x))
