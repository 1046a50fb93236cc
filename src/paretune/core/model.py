"""The block loop: the whole forward of a slim ViT on one screen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paretune.core import anatomy
from paretune.core.attention import Look, attend
from paretune.core.method import Reducer, Run, Site
from paretune.core.tokens import Tokens


class Adapted(nn.Module):
    """A frozen backbone x small trained adapters x a token reducer. Made by `paretune.adapt`, not by hand.

    classes: names of the outputs, or None where the backbone's own head was kept
    task: what the outputs are: "multiclass" and "multilabel" logits, "regression" numbers in the targets' own units
    preprocessing: how images become tensors; spec: what the model is made of, None once it is merged
    """

    def __init__(
        self,
        backbone: nn.Module,
        reducer: Reducer | None,
        classes: list[str] | None,
        spec: Any,
        task: str = "multiclass",
    ):
        super().__init__()
        self.backbone = backbone
        self.branches = nn.ModuleList()
        self.reducer = reducer
        self.classes = classes
        self.task = task
        self.preprocessing = anatomy.preprocessing(backbone)
        self.spec = spec

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> outputs (B, classes): logits, or the numbers of a regression."""
        return self.run(images).logits

    def run(self, images: Tensor, reduced: bool = True) -> Run:
        """The same forward, returning the tokens too: where every patch went is `run.tokens.groups()`.

        With reduced=False all tokens stay, as if there were no reducer.
        """
        return self.finish(0, anatomy.embed(self.backbone, images), reduced)

    def finish(self, start: int, tokens: Tokens, reduced: bool = True) -> Run:
        """The forward from block `start` to the logits, from the tokens that enter this block."""
        reducer = self.reducer if reduced else None
        for i in range(start, len(self.backbone.blocks)):
            if anatomy.checkpointing(self.backbone) and torch.is_grad_enabled():
                tokens = checkpoint(self.step, i, tokens, reducer, use_reentrant=False)
            else:
                tokens = self.step(i, tokens, reducer)
        features = anatomy.final_norm(self.backbone, tokens.x)
        return Run(anatomy.head(self.backbone, features, tokens.size, tokens.prefix), tokens, features)

    def step(self, i: int, tokens: Tokens, reducer: Reducer | None) -> Tokens:
        """Block i: attention, reduction, MLP; branches beside both."""
        if reducer is not None and (reduction := reducer.before(i, tokens)) is not None:
            tokens = tokens.shrink(i, reduction, "before")
        block = anatomy.read(self.backbone.blocks[i])
        size = tokens.size if tokens.masked or (reducer is not None and reducer.proportional) else None
        h = block.pre1(tokens.x)
        q, k, v, plain = anatomy.qkv(block.attn, h, tokens, i)
        y = attend(q, k, v, size, anatomy.attention_dropout(block.attn), tokens.masked)
        tokens = self.add(i, "attn", tokens, h, block.post1(anatomy.out(block.attn, y, h)))
        if reducer is not None:
            reduction = reducer(i, Look(q, k, plain, size, tokens.prefix, tokens.readers), tokens)
            if reduction is not None:
                tokens = tokens.shrink(i, reduction)  # features, sizes, RoPE, carried states: all alike
        h = block.pre2(tokens.x)
        return self.add(i, "mlp", tokens, h, block.post2(block.mlp(h)))

    def add(self, i: int, site: Site, tokens: Tokens, h: Tensor, y: Tensor) -> Tokens:
        """Join the sub-layer's output y and what the branches at this site say to the residual stream."""
        x = tokens.x + y
        for branch in self.branches:
            if branch.site == site:
                delta, tokens = branch(i, tokens, h)
                x = x + delta
        return tokens.with_x(x)
