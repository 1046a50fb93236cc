"""AdaptFormer: a bottleneck beside every MLP (Chen et al. 2022, arXiv:2205.13535).

            y ──┬─ LN ─ MLP ─ LayerScale ─ DropPath ─┐
                ├────────────────────────────────────+ ── x'
                └─ down ─ ReLU ─ dropout ─ up ─ * s ─┘        x' = y + MLP(LN y) + s (W_up dropout(relu(W_down y)))

It reads the residual stream itself (no LayerNorm) and joins it outside LayerScale and DropPath. `up` starts at zero.
Trained parameters on ViT-B/16, width 8: 147,456, with biases 156,768. FPET uses no biases, the original has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.method import Branch, Shape
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class AdaptFormer:
    """A bottleneck of `width` beside every MLP."""

    width: int = 8
    """width h of the bottleneck"""
    scale: float = 1.0
    """factor s on its output (0.1 in the original on full data sets, 1 in FPET)"""
    bias: bool = False
    """biases in both projections"""
    dropout: float = 0.1
    """dropout on the bottleneck"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return [
            *([f"AdaptFormer width={self.width}: must be at least 1"] if self.width < 1 else []),
            *([f"AdaptFormer dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
        ]

    def attach(self, body: Body) -> None:
        """Add the branch."""
        body.branch(AdaptFormerBranch(body.shape.depth, body.shape.width, self))


class Bottleneck(nn.Module):
    """scale * up(dropout(relu(down x)))."""

    def __init__(self, channels: int, config: AdaptFormer):
        super().__init__()
        self.down = nn.Linear(channels, config.width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Linear(config.width, channels, bias=config.bias)
        self.scale = config.scale
        nn.init.zeros_(self.up.weight)
        for bias in (self.down.bias, self.up.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.dropout(F.relu(self.down(x)))) * self.scale


class AdaptFormerBranch(Branch):
    """A bottleneck for every block."""

    site = "mlp"

    def __init__(self, depth: int, channels: int, config: AdaptFormer):
        super().__init__()
        self.blocks = nn.ModuleList([Bottleneck(channels, config) for _ in range(depth)])

    def forward(self, block: int, tokens: Tokens, h: Tensor) -> tuple[Tensor, Tokens]:
        return self.blocks[block](tokens.x), tokens
