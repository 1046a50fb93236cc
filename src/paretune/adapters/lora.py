"""LoRA: low-rank updates of linear layers (Hu et al. 2022, arXiv:2106.09685).

            x ──┬────────── W ──────────┐
                │                       + ── y         y = W x + scale * B dropout(A x)
                └─ A ─ dropout ─ B ─ s ─┘              A (r, in)  B (out, r)

The queries and the values of a fused qkv have separate pairs A and B, as in the two papers. `scale` multiplies the
update directly (there is no alpha / r); dropout is between A and B. B starts at zero, so training starts from the
backbone itself. Trained parameters on ViT-B/16, q and v, rank 8: 4 L D r = 294,912.

`bits` = 1, 2, 4 or 8 quantises A and B, so that a higher rank needs less storage: Bi-LoRA (Jie et al. 2023,
arXiv:2307.16867) has rank 32 at 1 bit, 147,840 bytes for 1,179,648 weights. B then starts near zero instead of at zero,
so training starts near the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.leaf import Leaf
from paretune.core.method import Shape, known
from paretune.core.quantised import BITS, linear, start_, weight_of
from paretune.errors import UsageError, unknown


@dataclass(frozen=True)
class LoRA:
    """Low-rank updates of linear layers; folds into the backbone."""

    rank: int | tuple[int, ...] = 8
    """rank r of the updates, one number for all blocks or one for each; 0 = none in this block"""
    scale: float = 1.0
    """factor on every update (Bi-LoRA: chosen per task from 0.01, 0.1, 1, 10)"""
    dropout: float = 0.1
    """dropout between A and B"""
    at: str = "q v"
    """which linears: any of q k v proj fc1 fc2 (fc1_g fc1_x in a SwiGLU MLP)"""
    bits: int = 0
    """bits per weight: 1, 2, 4 or 8; 0 = float weights"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that are updated; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return [
            *shape.block_problems("LoRA", self.blocks, "rank", self.rank, most=shape.width),
            *([f"LoRA dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
            *([f"LoRA bits={self.bits}: must be one of {BITS}, or 0"] if self.bits not in (0, *BITS) else []),
            *([f"LoRA at='': name at least one of {' '.join(shape.linears)}"] if not self.at.split() else []),
            *[
                f"LoRA at: {unknown('place', name, list(shape.linears))}"
                for name in self.at.split()
                if name not in shape.linears
            ],
        ]

    def attach(self, body: Body) -> None:
        """Put a leaf on every linear named in `at`."""
        ranks = body.shape.per_block(self.blocks, self.rank)
        for spot in body.layers(self.at, ranks):
            assert spot.block is not None, "linears are in blocks"
            spot.put(LoRALeaf(spot.layer.in_features, spot.layer.out_features, spot.parts, ranks[spot.block], self))

    def in_peft(self) -> dict:
        """The arguments of HF PEFT's LoraConfig for the same job on a timm ViT.

        There a fused qkv has one pair A and B for all of its rows; with q and v here that trains equally many numbers.
        Raises UsageError for settings that PEFT does not have.
        """
        if self.bits or not isinstance(self.rank, int):
            raise UsageError("HF PEFT's LoRA has one rank and float weights: leave out bits, and a rank per block")
        fused = {"q": "attn.qkv", "k": "attn.qkv", "v": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1",
                 "fc2": "mlp.fc2"}  # fmt: skip
        if unlike := [name for name in self.at.split() if name not in fused]:
            raise UsageError(f"LoRA at '{unlike[0]}' has no counterpart in HF PEFT here: use any of {' '.join(fused)}")
        where = {} if self.blocks is None else {"layers_to_transform": list(self.blocks), "layers_pattern": "blocks"}
        return {
            "r": self.rank,
            "lora_alpha": self.scale * self.rank,  # it divides by the rank
            "lora_dropout": self.dropout,
            "target_modules": sorted({fused[name] for name in self.at.split()}),
            **where,
        }


class LowRank(nn.Module):
    """scale * B dropout(A x)."""

    def __init__(self, inputs: int, outputs: int, rank: int, config: LoRA):
        super().__init__()
        self.down = linear(inputs, rank, config.bits)
        self.dropout = nn.Dropout(config.dropout)
        self.up = linear(rank, outputs, config.bits)
        self.scale = config.scale
        start_(self.up)

    def forward(self, x: Tensor) -> Tensor:
        return self.unscaled(x) * self.scale

    def unscaled(self, x: Tensor) -> Tensor:
        """B dropout(A x): (B, N, in) -> (B, N, out)."""
        return self.up(self.dropout(self.down(x)))

    def delta(self) -> Tensor:
        """The update of the weight, (out, in)."""
        return self.scale * weight_of(self.up) @ weight_of(self.down)


class LoRALeaf(Leaf):
    """One LowRank for every named range of output rows of a Linear; `None` means all rows."""

    def __init__(self, inputs: int, outputs: int, parts: dict[str, tuple[int, int] | None], rank: int, config: LoRA):
        super().__init__()
        self.rows = {name: rows or (0, outputs) for name, rows in parts.items()}
        self.low_rank = nn.ModuleDict(
            {name: LowRank(inputs, stop - start, rank, config) for name, (start, stop) in self.rows.items()}
        )

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        y = layer(x)
        if not torch.is_grad_enabled():  # in place, to avoid a copy of q, k and v
            for name, (start, stop) in self.rows.items():
                update = known(LowRank, self.low_rank[name])
                y[..., start:stop].add_(update.unscaled(x), alpha=update.scale)
            return y
        pieces, end = [], 0
        for name, (start, stop) in self.rows.items():
            pieces += [y[..., end:start], y[..., start:stop] + self.low_rank[name](x)]
            end = stop
        pieces = [piece for piece in (*pieces, y[..., end:]) if piece.shape[-1]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight = weight.clone()
        for name, (start, stop) in self.rows.items():
            weight[start:stop] += known(LowRank, self.low_rank[name]).delta()
        return weight, bias
