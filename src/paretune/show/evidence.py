"""What a model does with the patches of some images: who left at which reduction, and where the summary token looks.

images ──> [ block ]──>[ block ]──> ...          Watch stands where the reducer stood, is handed what the
               │  Watch(reducer)                 reducer is handed, notes the attention, and passes on the
               └─ notes, then asks reducer       reducer's answer: no hooks, no second forward
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paretune.backbone import create
from paretune.core import anatomy, guests
from paretune.core.attention import Look
from paretune.core.leaf import Leafed
from paretune.core.method import Reducer
from paretune.core.model import Adapted
from paretune.core.reduction import Reduction
from paretune.core.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Stage:
    """The patches of B images after one reduction.

    block, place: where it happened, as in `Step`; tokens: patch tokens (before, after) it
    groups (B, rows * columns) int64: the patch token of every patch of the grid, -1 = dropped
    """

    block: int
    place: str
    tokens: tuple[int, int]
    groups: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `gather` saw.

    grid: (rows, columns) of patches; readers: summary tokens, as in `Tokens`; stages: one per reduction, in order
    attention {block: (B, rows * columns) float64}: see `on_grid`; logits (B, classes)
    """

    grid: tuple[int, int]
    readers: int
    stages: tuple[Stage, ...]
    attention: dict[int, NDArray[np.float64]]
    logits: Tensor


class Watch(Reducer):
    """A reducer, or none, with a memory: `seen[block]` is the attention in every block asked for, see `on_grid`."""

    def __init__(self, reducer: Reducer | None, blocks: Collection[int]):
        super().__init__()
        self.reducer, self.blocks, self.seen = reducer, frozenset(blocks), {}
        self.proportional = reducer is not None and reducer.proportional

    def before(self, block: int, tokens: Tokens) -> Reduction | None:
        return None if self.reducer is None else self.reducer.before(block, tokens)

    def forward(self, block: int, look: Look, tokens: Tokens) -> Reduction | None:
        if block in self.blocks:
            self.seen[block] = on_grid(look.scores(), tokens)
        return None if self.reducer is None else self.reducer(block, look, tokens)


def on_grid(scores: Tensor, tokens: Tokens) -> Tensor:
    """Attention per patch token (B, M) -> per patch of the input grid (B, rows * columns).

    What a merged token receives is shared out equally among its patches, so totals stay; dropped patches get NaN.
    """
    if tokens.size is not None:
        scores = scores / tokens.size[:, tokens.prefix :]
    return tokens.unmerge(scores, fill=float("nan"))


@torch.inference_mode()
def gather(model: Adapted, images: Tensor, blocks: Collection[int]) -> Evidence:
    """Run images (B, 3, H, W) in evaluation mode; note the attention in `blocks`. The model stays as it is."""
    watch = Watch(model.reducer, blocks)
    watched = Adapted(model.backbone, watch, model.classes, model.spec)
    watched.branches = model.branches
    training = model.training
    watched.eval()
    try:
        run = watched.run(images)
    finally:
        watched.train(training)
    return Evidence(
        grid=run.tokens.grid,
        readers=run.tokens.readers,
        stages=tuple(_stage(run.tokens, count) for count in range(1, len(run.tokens.trail) + 1)),
        attention={block: seen.double().cpu().numpy() for block, seen in watch.seen.items()},
        logits=run.logits.float().cpu(),
    )


def _stage(tokens: Tokens, count: int) -> Stage:
    """The patches after the first `count` reductions."""
    step = tokens.trail[count - 1]
    groups = replace(tokens, trail=tokens.trail[:count]).groups()
    groups = torch.where(groups < 0, groups, groups - tokens.prefix)
    return Stage(step.block, step.place, (step.reduction.n_in, step.reduction.n_out), groups.cpu().numpy())


def original(model: Adapted) -> Adapted | None:
    """The backbone of `model` as it was before training: no adapters, all tokens; its head is of no meaning.

    What training has left alone is taken from the model. A backbone that itself has been trained is fetched anew by its
    name; None where it has none, or where adapters have been folded into it.
    """
    if model.spec is None:
        return None
    backbone = stripped(model)
    heads = {id(p) for head in anatomy.classifiers(backbone) for p in head.parameters()}
    if any(p.requires_grad for p in backbone.parameters() if id(p) not in heads):
        origin = model.spec.backbone
        if origin.source != "pretrained":
            return None
        backbone = create(origin.name, True, None, origin.options)
    return Adapted(backbone, None, None, None).to(next(model.parameters()).device)


def stripped(model: Adapted) -> nn.Module:
    """A copy of the model's backbone with no adapter on it."""
    backbone = copy.deepcopy(model.backbone)
    _strip(backbone)
    return backbone


def _strip(root: nn.Module) -> None:
    """Take every leaf and every HF PEFT module off the layers below `root`, in place."""
    for name, child in root.named_children():
        if (layer := _below(child)) is not child:
            setattr(root, name, layer)
        else:
            _strip(child)


def _below(module: nn.Module) -> nn.Module:
    if isinstance(module, Leafed):
        return _below(module.layer)
    if guests.is_guest(module):
        return module.original_module if hasattr(module, "modules_to_save") else module.get_base_layer()
    return module
