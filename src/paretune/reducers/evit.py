"""EViT: keep the patches that CLS attends to most, fuse the rest into one (Liang et al. 2022, arXiv:2202.07800).

            a   B   c   D   e   f         attention of CLS:  B D e > a c f,  keep = 0.5
                |       |   |
                B   D   e   (a c f)       kept in raster order, then one token for the rest

    kept  = the ceil(keep * M) patches with most attention          fused = sum_rest a_i x_i / sum_rest a_i

Sparse-Tuning uses it with keep 0.7 in blocks 3, 6, 9 of 12 and 6, 12, 18 of 24, and with normalised weights (its
equation 8). The code released by EViT's authors uses the un-normalised sum, `normalise=False`. A fused token is a
candidate again at the next reduction. Prefix tokens are never candidates (the released code prunes DeiT's distillation
token and registers).

EViT trains with all patches for `shrink_start` epochs (10 in its recipes, Sparse-Tuning: none). Then the share falls to
`keep` along a cosine over `shrink_epochs` (100):

    share(t) = keep + (1 - keep) (1 + cos(pi t / shrink_epochs)) / 2        t = epoch - shrink_start

Evaluation always uses `keep`, also after every epoch of a training (the released code evaluates with the current
share). So the best epoch is chosen for the model that is used later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paretune.core.attention import Look
from paretune.core.method import Reducer, Shape
from paretune.core.reduction import Merge, descending
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class EViT:
    """Keep the patches that CLS attends to most; fuse the rest, keep the best of them, or drop them."""

    keep: float = 0.7
    """share of the patches kept at every reduction"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that reduce, between attention and MLP; None = at one quarter, one half and three quarters of the
    depth: 3, 6, 9 of 12 blocks"""
    rest: Literal["merge", "argmax", "drop"] = "merge"
    """what to do with the other patches: merge = fuse them into one token, argmax = keep the best one of them, drop =
    drop all"""
    normalise: bool = True
    """whether to divide the fused token by its total attention (Sparse-Tuning: yes, EViT's released code: no)"""
    shrink_start: int = 0
    """number of training epochs at the start that keep all patches"""
    shrink_epochs: int = 0
    """number of training epochs after that in which the share falls to `keep`; 0 = at once"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        wrong = [b for b in self.blocks or () if not 0 <= b < shape.depth]
        return [
            *(["EViT blocks=(): needs at least one block"] if self.blocks == () else []),
            *([f"EViT keep={self.keep}: must be above 0 and at most 1"] if not 0 < self.keep <= 1 else []),
            *([f"EViT blocks={self.blocks}: the backbone has blocks 0 to {shape.depth - 1}"] if wrong else []),
            *(f"EViT {name}={epochs}: must be at least 0"
              for name, epochs in (("shrink_start", self.shrink_start), ("shrink_epochs", self.shrink_epochs))
              if epochs < 0),
        ]  # fmt: skip

    def build(self, shape: Shape) -> EViTReducer:
        """The reducer for a backbone of this shape."""
        return EViTReducer(self, frozenset(shape.quarters if self.blocks is None else self.blocks))

    def share(self, epoch: int) -> float:
        """The share of patches kept in this training epoch; the first epoch is 0."""
        since = epoch - self.shrink_start
        done = min(max(since / self.shrink_epochs, 0.0), 1.0) if self.shrink_epochs else float(since >= 0)
        return self.keep + (1 - self.keep) * (1 + math.cos(math.pi * done)) / 2


def keep_count(keep: float, patches: int) -> int:
    """ceil(keep * patches) without floating-point error: plain ceil(0.55 * 100) would be 56."""
    return math.ceil(round(keep * patches, 9))


class EViTReducer(Reducer):
    """See the module."""

    def __init__(self, config: EViT, blocks: frozenset[int]):
        super().__init__()
        self.config, self.blocks = config, blocks
        self.training_share = config.keep

    @property
    def changes(self) -> bool:
        return self.config.shrink_start > 0 or self.config.shrink_epochs > 0

    def at_epoch(self, epoch: int) -> None:
        self.training_share = self.config.share(epoch)

    def forward(self, block: int, look: Look, tokens: Tokens) -> Merge | None:
        kept = keep_count(self.training_share if self.training else self.config.keep, tokens.patches)
        if block not in self.blocks or kept == tokens.patches:
            return None
        scores = look.scores()
        order = descending(scores)
        keep, heaviest, others = order[:, :kept].sort().values, order[:, kept : kept + 1], order[:, kept + 1 :]
        if self.config.rest != "merge":
            keep = keep if self.config.rest == "drop" else torch.cat([keep, heaviest], dim=1)
            return Merge(n_in=tokens.patches, keep=keep, src=others[:, :0], dst=others[:, :0])
        return Merge(
            n_in=tokens.patches,
            keep=torch.cat([keep, heaviest], dim=1),  # the fused token takes the place of the one with most attention
            src=others,
            dst=torch.full_like(others, kept),
            weight=fuse_weights(scores, keep),
            normalise=self.config.normalise,
        )


def fuse_weights(scores: Tensor, keep: Tensor) -> Tensor:
    """Fusion weights: 1 for kept patches, the attention for all others; scores (B, M), keep (B, k) -> (B, M)."""
    is_kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, keep, True)
    return torch.where(is_kept, 1.0, scores.clamp(min=1e-12))  # the attention to all other patches may underflow to 0
