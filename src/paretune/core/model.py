"""The block loop: the whole forward of a slim ViT on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paretune.core import anatomy
from paretune.core.attention import Look, attend
from paretune.core.method import Branch, Foreign, Method, Reducer, Run, Site, Watch, known, unwatched
from paretune.core.tokens import Tokens


class Adapted(nn.Module):
    """A frozen backbone x small trained adapters x a token reducer. Made by `paretune.adapt`, not by hand.

    classes: names of the outputs, or None where the backbone's own head was kept
    task: what the outputs are: "multiclass" and "multilabel" logits, "regression" numbers in the targets' own units
    preprocessing: how images become tensors; spec: what the model is made of, None once it is merged
    """

    def __init__(
        self,
        backbone: Foreign,
        reducer: Reducer | None,
        classes: list[str] | None,
        spec: Any,  # a plan.Spec: of a room above this one
        task: str = "multiclass",
    ):
        super().__init__()
        self.backbone: Foreign = backbone
        self.branches = nn.ModuleList()
        self.reducer = reducer
        self.classes = classes
        self.task = task
        self.preprocessing = anatomy.preprocessing(backbone)
        self.spec = spec

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> outputs (B, classes): logits, or the numbers of a regression."""
        return self.run(images).logits

    def run(self, images: Tensor, reduced: bool = True, watch: Watch = unwatched) -> Run:
        """The same forward, returning the tokens too: where every patch went is `run.tokens.groups()`.

        With reduced=False all tokens stay, as if there were no reducer. `watch` is told what the trunk does.
        """
        tokens = anatomy.embed(self.backbone, images)
        watch("embed", 0, tokens)
        return self.finish(0, tokens, reduced, watch)

    def finish(self, start: int, tokens: Tokens, reduced: bool = True, watch: Watch = unwatched) -> Run:
        """The forward from block `start` to the logits, from the tokens that enter this block."""
        reducer, depth = self.reducer if reduced else None, len(self.backbone.blocks)
        for i in range(start, depth):
            if anatomy.checkpointing(self.backbone) and torch.is_grad_enabled():
                tokens = checkpoint(self.step, i, tokens, reducer, watch, use_reentrant=False)
            else:
                tokens = self.step(i, tokens, reducer, watch)
        tokens = self.ask(Site(depth, "exit", tokens.x), tokens, watch)
        features = anatomy.final_norm(self.backbone, tokens.x)  # (B, P + M, D)
        run = Run(anatomy.head(self.backbone, features, tokens), tokens, features)
        watch("head", depth, tokens)
        return run

    def step(self, i: int, tokens: Tokens, reducer: Reducer | None, watch: Watch = unwatched) -> Tokens:
        """Block i: attention, reduction, MLP; branches at the door and beside both."""
        if reducer is not None:
            tokens = tokens.shrink(i, reducer.before(i, tokens), "before")
            watch("reducer", i, tokens)
        tokens = self.ask(Site(i, "enter", tokens.x), tokens, watch)
        block = anatomy.read(self.backbone.blocks[i])
        size = tokens.size if tokens.masked or (reducer is not None and reducer.proportional) else None
        h = block.pre1(tokens.x)  # (B, N, D)
        q, k, v, plain = anatomy.qkv(block.attn, h, tokens, i)  # (B, H, N, d) each
        y = attend(q, k, v, size, anatomy.attention_dropout(block.attn), tokens.masked)
        y = block.post1(anatomy.out(block.attn, y, h))  # (B, N, D)
        look = Look(q, k, plain, size, tokens.prefix, tokens.readers)
        watch("attention", i, tokens, look)
        tokens = self.ask(Site(i, "attn", tokens.x, h, y, look), tokens.plus(y), watch)
        if reducer is not None:
            tokens = tokens.shrink(i, reducer(i, look, tokens))  # features, sizes, RoPE, carried states: all alike
            watch("reducer", i, tokens)
        h = block.pre2(tokens.x)  # (B, N', D), N' <= N
        y = block.post2(self.mlp(i, block, tokens)(h))
        watch("mlp", i, tokens)
        return self.ask(Site(i, "mlp", tokens.x, h, y), tokens.plus(y), watch)

    def ask(self, at: Site, tokens: Tokens, watch: Watch) -> Tokens:
        """Let the branches speak that have something to say at this moment."""
        for branch in self.branches:
            if at.place in known(Branch, branch).places:
                tokens = branch(at, tokens)
        watch("branches", at.block, tokens)
        return tokens

    def mlp(self, i: int, block: anatomy.BlockView, tokens: Tokens) -> Callable[[Tensor], Tensor]:
        """The MLP of block i, for some of the patches where a branch says so."""
        mlp = block.mlp
        for branch in self.branches:
            if (reduction := known(Branch, branch).around(i, tokens)) is not None:
                mlp = tokens.around(reduction, mlp)
        return mlp

    def methods(self) -> Iterator[Method]:
        """Every branch, every leaf and the reducer."""
        return (module for module in self.modules() if isinstance(module, Method))
