"""Dense Adapters of Sparse-Tuning: adapters that read what earlier adapters said (Liu et al., arXiv:2405.14700).

            DA of block n-3 ── S ── down3 ──┐                 S = whatever reductions lie in between
            DA of block n-1 ── S ── down2 ──+ ─ ReLU ─ up ─ * s ── DA of block n ──> beside the MLP of block n
            y of block n ────────── down1 ──┘                                   └──> later adapters

    DA_n = s W_up r_n,    r_n = relu(W_1 y_n + W_2 S(DA_{n-1}) + W_3 S(DA_{n-3}))          (equations 12 and 13)

Block 0 has only down1, blocks 1 and 2 have down1 and down2, all later ones three (the equations are lost in the text;
this wiring is the one of the authors' figure and of their parameter counts). All projections have biases; `up` starts
at zero. y is the residual stream after attention and after the reduction of block n, without LayerNorm.
Trained parameters on ViT-B/16: 1,091,584 at width 32, 279,808 at width 8.

What travels is not DA_n (D channels) but r_n with a constant 1 (h + 1 channels). A reduction is linear over tokens
and the projection linear over channels, so W_2 S(s (W_up r + b)) = s [W_2 W_up | W_2 b] S([r, 1]): the same function
and the same gradient at a fraction of cost and memory, also where S does not normalise. `carry="output"` is the plain
formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.method import Branch, Shape
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class DenseAdapter:
    """Densely connected bottlenecks beside every MLP."""

    width: int = 32
    """width h of the bottlenecks"""
    scale: float = 1.0
    """factor s on their output"""
    carry: Literal["activation", "output"] = "activation"
    """what travels to later adapters: the narrow activation, or the D-wide output as the paper writes it"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return [f"DenseAdapter width={self.width}: must be at least 1"] if self.width < 1 else []

    def attach(self, body: Body) -> None:
        """Add the branch."""
        body.branch(DenseBranch(body.shape.depth, body.shape.width, self, body.fresh("dense")))


class DenseBlock(nn.Module):
    """The projections of one block: `down[0]` reads the stream, `down[1:]` read the adapters of `sources`."""

    def __init__(self, block: int, channels: int, width: int):
        super().__init__()
        self.sources = [source for source in (block - 1, block - 3) if source >= 0]
        self.down = nn.ModuleList([nn.Linear(channels, width) for _ in range(1 + len(self.sources))])
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        for linear in (*self.down, self.up):
            nn.init.zeros_(linear.bias)


class DenseBranch(Branch):
    """A Dense Adapter for every block."""

    site = "mlp"

    def __init__(self, depth: int, channels: int, config: DenseAdapter, name: str):
        super().__init__()
        self.blocks = nn.ModuleList([DenseBlock(i, channels, config.width) for i in range(depth)])
        self.scale, self.narrow, self.name = config.scale, config.carry == "activation", name

    def forward(self, block: int, tokens: Tokens, h: Tensor) -> tuple[Tensor, Tokens]:
        here = self.blocks[block]
        u = here.down[0](tokens.x)
        for down, source in zip(here.down[1:], here.sources, strict=True):
            u = u + self.read(down, source, tokens.carried[f"{self.name}.{source}"])
        r = F.relu(u)
        output = here.up(r) * self.scale
        state = F.pad(r, (0, 1), value=1.0) if self.narrow else output
        needed = block + 1 < len(self.blocks)
        return output, tokens.carry(
            {f"{self.name}.{block - 3}": None, f"{self.name}.{block}": state if needed else None}
        )

    def read(self, down: nn.Linear, source: int, state: Tensor) -> Tensor:
        """W S(DA_source) + bias from what block `source` handed on: (B, N, h + 1 or D) -> (B, N, h)."""
        if not self.narrow:
            return down(state)
        up = self.blocks[source].up
        weight = self.scale * down.weight @ torch.cat([up.weight, up.bias[:, None]], dim=1)  # (h, h + 1)
        return F.linear(state, weight, down.bias)
