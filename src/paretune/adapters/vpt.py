"""VPT: visual prompts, trained tokens that the blocks attend to (Jia et al. 2022, arXiv:2203.12119).

            deep      [CLS | p p p | patches] ─ block 0 ─ [CLS | · · · | patches] ─ block 1 ─ ...
                             P_0                                 P_1 replaces the output of block 0 for P_0

            shallow   P_0 is added once, before the first block, and goes through all blocks

Prompts stand between the prefix and the patches. They have no position, and pooling leaves them out. Reducers never
merge or drop them and do not use their attention. Each counts as one token if attention weights tokens by size. The
frozen backbone does not change, and the classifier reads the same tokens as before. Prompts are initialised uniformly
within sqrt(6 / (3 h w + D)) for patches of h x w pixels, so at the start of training the outputs already differ from
the backbone's.

Trained parameters: p D per block, on ViT-B/16 with 10 prompts 92,160 deep and 7,680 shallow. A prompt costs as much
compute as any token. The authors choose p per task from 1, 5, 10, 50, 100, 200. Different sizes for the blocks give
NOAH's prompts (arXiv:2206.04673): in a block of size 0, the prompts of the previous block stay.
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
    """number of prompts, one for all blocks or one for each; 0 = keep the prompts of the previous block"""
    deep: bool = True
    """new prompts before every block; False = only before the first of `blocks`"""
    dropout: float = 0.1
    """dropout on the prompts (the authors: 0.1 deep, 0 shallow)"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that get new prompts; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        several = isinstance(self.prompts, tuple) and not self.deep
        return [
            *shape.block_problems("VPT", self.blocks, "prompts", self.prompts),
            *([f"VPT prompts={self.prompts} deep=False: give one number for shallow prompts"] if several else []),
            *([f"VPT dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
        ]

    def attach(self, body: Body) -> None:
        """Add the branch."""
        counts = body.shape.per_block(self.blocks, self.prompts)
        if not self.deep:
            counts = dict([min(counts.items())])
        body.branch(PromptBranch(counts, body.shape, self.dropout, body.fresh("vpt")))


class PromptBranch(Branch):
    """The prompts (p, D) of every block, from counts {block: p}."""

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
