"""EViT: keep the patches that the CLS token attends to, fuse the rest into one (Liang et al. 2022, arXiv:2202.07800).

            a   B   c   D   e   f         attention of CLS:  B D e > a c f,  keep = 0.5
                |       |   |
                B   D   e   (a c f)       kept in raster order, then one token for the rest

    kept  = the ceil(keep * M) patches with most attention          fused = sum_rest a_i x_i / sum_rest a_i

Sparse-Tuning uses it at keep 0.7 in blocks 3, 6, 9 with normalised weights (its equation 8); the authors of EViT
release the un-normalised sum, `normalise=False`. A fused token competes again at the next reduction. Prefix tokens
are never candidates (the released code lets DeiT's distillation token and registers be pruned).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paretune.core.attention import Look
from paretune.core.method import Reducer, Shape
from paretune.core.reduction import Merge
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class EViT:
    """Keep the patches that CLS attends to; fuse, represent or drop the rest."""

    keep: float = 0.7
    """share of the patches that stay at every reduction"""
    blocks: tuple[int, ...] = (3, 6, 9)
    """0-based blocks that reduce, between attention and MLP"""
    rest: Literal["merge", "argmax", "drop"] = "merge"
    """what becomes of the others: one fused token, the best one of them, or nothing"""
    normalise: bool = True
    """divide the fused token by its total attention (Sparse-Tuning) or not (EViT as released)"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        wrong = [b for b in self.blocks if not 0 <= b < shape.depth]
        return [
            *([f"EViT keep={self.keep}: must be above 0 and at most 1"] if not 0 < self.keep <= 1 else []),
            *([f"EViT blocks={self.blocks}: the backbone has blocks 0 to {shape.depth - 1}"] if wrong else []),
        ]  # fmt: skip

    def build(self, shape: Shape) -> EViTReducer:
        """The reducer for a backbone of this shape."""
        return EViTReducer(self)


def keep_count(keep: float, patches: int) -> int:
    """ceil(keep * patches) without the noise of binary fractions: ceil(0.55 * 100) would be 56."""
    return math.ceil(round(keep * patches, 9))


class EViTReducer(Reducer):
    """See the module."""

    def __init__(self, config: EViT):
        super().__init__()
        self.config = config

    def forward(self, block: int, look: Look, tokens: Tokens) -> Merge | None:
        kept = keep_count(self.config.keep, tokens.patches)
        if block not in self.config.blocks or kept == tokens.patches:
            return None
        scores = look.scores()
        order = torch.argsort(scores.detach(), dim=-1, descending=True, stable=True)
        keep, heaviest, others = order[:, :kept].sort().values, order[:, kept : kept + 1], order[:, kept + 1 :]
        if self.config.rest != "merge":
            keep = keep if self.config.rest == "drop" else torch.cat([keep, heaviest], dim=1)
            return Merge(n_in=tokens.patches, keep=keep, src=others[:, :0], dst=others[:, :0])
        return Merge(
            n_in=tokens.patches,
            keep=torch.cat([keep, heaviest], dim=1),  # the fused token takes the place of its heaviest member
            src=others,
            dst=torch.full_like(others, kept),
            weight=fuse_weights(scores, keep),
            normalise=self.config.normalise,
        )


def fuse_weights(scores: Tensor, keep: Tensor) -> Tensor:
    """1 for kept patches, their attention for all others: scores (B, M), keep (B, k) -> (B, M)."""
    is_kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, keep, True)
    return torch.where(is_kept, 1.0, scores.clamp(min=1e-12))  # attention to all the rest may underflow to 0
