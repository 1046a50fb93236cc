"""ToMe: merge the r most similar pairs in every block (Bolya et al. 2023, arXiv:2210.09461).

            A   a   b   c           every token of A is paired with the most similar token of B;
                 \\ /   |            the r best pairs merge into their size-weighted mean
            B     d     e

    metric = mean of the keys over heads, cosine     A = even, B = odd positions of the whole sequence, prefix left out

The choice of pairs has no gradient; the means have one. The resulting order is [A that stayed | B], both in order. FPET
compares itself with this matching of one half in one block, which is `ToMe(r=0.5, blocks=(6,))`. With
`proportional=True` attention adds log size. This is right for a model that was not trained with ToMe; for training with
ToMe the authors advise False.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.core.attention import Look
from paretune.core.method import Reducer, Shape
from paretune.core.reduction import SAME, Merge, descending, full_precision
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class ToMe:
    """Merge the r most similar pairs of patches in every block, or in some."""

    r: int | float | tuple[int, ...] = 8
    """pairs to merge per block: one number (fewer if a block has fewer pairs), one number for each block from the first
    on, or a share of the block's patches, at most 0.5"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that merge; None = all; if r has several numbers, they belong to these blocks in order"""
    proportional: bool = True
    """whether attention weights tokens by their size"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        if wrong := self._misplaced(shape):
            return wrong
        if isinstance(self.r, float):
            return [] if 0 <= self.r <= 0.5 else [f"ToMe r={self.r}: a share must be from 0 to 0.5"]
        if isinstance(self.r, int):
            fits = 0 <= self.r <= shape.patches // 2
            return [] if fits else [f"ToMe r={self.r}: {shape.patches} patches form 0 to {shape.patches // 2} pairs"]
        left = shape.patches
        for block, r in self.schedule(shape).items():
            if not 0 <= r <= left // 2:
                wrong.append(f"ToMe r={r} at block {block}: the {left} patches left form 0 to {left // 2} pairs")
            left -= min(max(r, 0), left // 2)
        return wrong

    def _misplaced(self, shape: Shape) -> list[str]:
        blocks, entries = self.blocks, len(self.r) if isinstance(self.r, tuple) else None
        if blocks is None:
            too_many = entries is not None and entries > shape.depth
            return [f"ToMe r has {entries} entries, the backbone has {shape.depth} blocks"] if too_many else []
        once = len(set(blocks)) == len(blocks) and all(0 <= block < shape.depth for block in blocks)
        return [
            *([] if blocks else ["ToMe blocks=(): needs at least one block"]),
            *([] if once else [f"ToMe blocks={blocks}: the backbone has blocks 0 to {shape.depth - 1}, each once"]),
            *([f"ToMe r has {entries} entries for {len(blocks)} blocks"]
              if entries not in (None, len(blocks)) else []),
        ]  # fmt: skip

    def build(self, shape: Shape) -> ToMeReducer:
        """The reducer for a backbone of this shape."""
        return ToMeReducer(self.schedule(shape), self.proportional)

    def schedule(self, shape: Shape) -> dict[int, int | float]:
        """The number or share of pairs to merge, for every block that merges, in the order of the blocks."""
        blocks = range(shape.depth) if self.blocks is None else self.blocks
        numbers = self.r if isinstance(self.r, tuple) else (self.r,) * len(blocks)
        return dict(sorted(zip(blocks, numbers, strict=False)))


class ToMeReducer(Reducer):
    """See the module."""

    def __init__(self, schedule: dict[int, int | float], proportional: bool):
        super().__init__()
        self.schedule, self.proportional = schedule, proportional

    def forward(self, block: int, look: Look, tokens: Tokens) -> Merge | None:
        pairs = self.schedule.get(block, 0)
        if isinstance(pairs, float):
            pairs = math.floor(round(pairs * tokens.patches, 9))
        r = min(pairs, tokens.patches // 2)
        return self.match(look.metric().detach(), r, first=tokens.own_prefix % 2) if r else None

    def match(self, metric: Tensor, r: int, first: int) -> Merge:
        """Bipartite soft matching: metric (B, M, d); A starts at patch `first` (0 or 1), B at the other one."""
        metric = F.normalize(metric, dim=-1, eps=1e-6)  # a key of zeros must not become NaN
        patches = torch.arange(metric.shape[1], device=metric.device)[None]
        a, b = patches[:, first::2], patches[:, 1 - first :: 2]
        with full_precision(metric):
            similarity = metric[:, first::2] @ metric[:, 1 - first :: 2].transpose(1, 2)  # (B, |A|, |B|)
            best, partner = self.settled(similarity, SAME).max(-1)
        order = descending(best)
        merging, staying = order[:, :r], order[:, r:].sort().values
        a, b = (side.expand(best.shape[0], -1) for side in (a, b))
        return Merge(
            n_in=metric.shape[1],
            keep=torch.cat([a.gather(1, staying), b], dim=1),
            src=a.gather(1, merging),
            dst=staying.shape[1] + partner.gather(1, merging),
        )
