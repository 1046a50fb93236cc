"""VPT: trained tokens that the blocks attend to, visual prompts (Jia et al. 2022, arXiv:2203.12119).

            deep      [CLS | p p p | patches] ─ block 0 ─ [CLS | · · · | patches] ─ block 1 ─ ...
                             P_0                                 P_1 takes the place of what block 0 made of P_0

            shallow   P_0 enters once, before the first block, and flows through all of them

Prompts stand between the prefix and the patches, have no position and no part in pooling. No reducer merges or drops
one, none is asked for attention, and each counts as one token where attention weighs tokens by size. The frozen
backbone is not changed at all, and the classifier reads what it always reads. Prompts start uniform within
sqrt(6 / (3 h w + D)) for patches of h x w pixels, so training begins beside the backbone, not at it.

Trained parameters: p D a block, on ViT-B/16 with 10 prompts 92,160 deep and 7,680 shallow. A prompt costs what a token
costs. The authors choose p per task from 1, 5, 10, 50, 100, 200. Several sizes, one for each block, give NOAH's prompts
(arXiv:2206.04673): where a size is 0, the prompts of the block before stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from paretune.core.body import Body
from paretune.core.method import Branch, Shape, Site
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class VPT:
    """Prompts: trained tokens in front of the patches."""

    prompts: int | tuple[int, ...] = 10
    """how many, one number for all blocks or one for each; 0 = the block before's stay"""
    deep: bool = True
    """new prompts in front of every block; otherwise once, in front of the first of `blocks`"""
    dropout: float = 0.1
    """dropout on the prompts (the authors: 0.1 deep, 0 shallow)"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that have prompts of their own before them; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        several = isinstance(self.prompts, tuple) and not self.deep
        return [
            *shape.block_problems("VPT", self.blocks, "prompts", self.prompts),
            *([f"VPT prompts={self.prompts} deep=False: shallow prompts are one number"] if several else []),
            *([f"VPT dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
        ]

    def attach(self, body: Body) -> None:
        """Add the branch."""
        counts = body.shape.per_block(self.blocks, self.prompts)
        if not self.deep:
            counts = dict([min(counts.items())])
        body.branch(PromptBranch(counts, body.shape, self.dropout, body.fresh("vpt")))


class PromptBranch(Branch):
    """Prompts (p, D) by block: counts {block: p}."""

    places = ("enter",)

    def __init__(self, counts: dict[int, int], shape: Shape, dropout: float, name: str):
        super().__init__()
        limit = math.sqrt(6 / (3 * math.prod(shape.patch) + shape.width))
        self.prompts = nn.ParameterDict({
            str(block): nn.Parameter(torch.empty(p, shape.width).uniform_(-limit, limit)) for block, p in counts.items()
        })  # fmt: skip
        self.dropout, self.name = nn.Dropout(dropout), name

    def forward(self, at: Site, tokens: Tokens) -> Tokens:
        if str(at.block) not in self.prompts:
            return tokens
        prompts = self.prompts[str(at.block)].expand(tokens.x.shape[0], -1, -1)  # (B, p, D)
        return tokens.prepend(self.name, self.dropout(prompts))
