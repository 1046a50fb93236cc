"""The block loop: the whole forward pass of an adapted ViT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paretune.core import anatomy
from paretune.core.attention import Look, attend
from paretune.core.memory import Memory, computed_again
from paretune.core.method import Branch, Foreign, Method, Reducer, Run, Site, Watch, known, unwatched
from paretune.core.tokens import Tokens


class Adapted(nn.Module):
    """A frozen backbone with small trained adapters and a token reducer. Create it with `paretune.adapt`.

    classes: names of the outputs, or None if the model keeps the backbone's own head
    task: what the outputs are: "multiclass" and "multilabel" logits, "regression" numbers in the units of the targets
    preprocessing: how images become tensors; spec: the settings that the model was made from, None once it is merged
    temperature: what logits are divided by before they become probabilities; the logits themselves are as trained
    memory: what a training forward pass keeps for its backward pass, see `core.memory`; evaluation ignores it
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
        self.temperature = 1.0
        self.memory: Memory = "full"
        self.preprocessing = anatomy.preprocessing(backbone)
        self.spec = spec

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> outputs (B, classes): logits, or the numbers of a regression."""
        return self.run(images).logits

    def run(self, images: Tensor, reduced: bool = True, watch: Watch = unwatched) -> Run:
        """The same forward pass, which also returns the tokens. `run.tokens.groups()` says where every patch went.

        With reduced=False all tokens stay, as if there were no reducer. `watch` is called after every part.
        """
        tokens = anatomy.embed(self.backbone, images)
        watch("embed", 0, tokens)
        return self.finish(0, tokens, reduced, watch)

    def finish(self, start: int, tokens: Tokens, reduced: bool = True, watch: Watch = unwatched) -> Run:
        """The forward pass from block `start` to the logits. `tokens` are the tokens that enter this block."""
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
        """Block i: attention, reduction, MLP, with the branches before the block and after attention and MLP."""
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
            tokens = tokens.shrink(i, reducer(i, look, tokens))  # features, sizes, RoPE, carried states
            watch("reducer", i, tokens)
        h, y = self.mlp(i, block, tokens)(tokens.x)  # (B, N', D) each, N' <= N
        y = block.post2(y)
        watch("mlp", i, tokens)
        return self.ask(Site(i, "mlp", tokens.x, h, y), tokens.plus(y), watch)

    def ask(self, at: Site, tokens: Tokens, watch: Watch) -> Tokens:
        """Call the branches that act at this point, one after the other."""
        for branch in self.branches:
            if at.place in known(Branch, branch).places:
                tokens = branch(at, tokens)
        watch("branches", at.block, tokens)
        return tokens

    def mlp(self, i: int, block: anatomy.BlockView, tokens: Tokens) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Norm and MLP of block i, x -> (h, y). If a branch asks for it, the MLP runs for some of the patches only."""
        thrifty = self.memory != "full" and self.training and tokens.x.requires_grad
        coded = anatomy.coded(block.mlp) if thrifty and self.memory == "low" else None
        mlp = coded or block.mlp
        for branch in self.branches:
            if (reduction := known(Branch, branch).around(i, tokens)) is not None:
                mlp = tokens.around(reduction, mlp)

        def run(x: Tensor) -> tuple[Tensor, Tensor]:
            h = block.pre2(x)
            return h, mlp(h)

        return computed_again(run) if thrifty and coded is None else run

    def methods(self) -> Iterator[Method]:
        """Every branch, every leaf and the reducer."""
        return (module for module in self.modules() if isinstance(module, Method))
