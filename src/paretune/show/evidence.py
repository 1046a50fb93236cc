"""What a model does with the patches of some images: which leave at each reduction, and the summary token's attention.

images ──> [ block ]──>[ block ]──> ...          the model calls `watch` after each attention, with the queries and
               └─ watch("attention", ...)        keys: no hooks and no second forward pass are needed
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretune.core import anatomy
from paretune.core.attention import Look
from paretune.core.method import Part
from paretune.core.model import Adapted
from paretune.core.tokens import Tokens
from paretune.folding import stripped
from paretune.plan import adapt


@dataclass(frozen=True, eq=False)
class Stage:
    """The patches of B images after one reduction.

    block, when: where it happened, as in `Step`; tokens: patch tokens (before, after) it
    groups (B, rows * columns) int64: the patch token of every patch of the grid, -1 = dropped
    """

    block: int
    when: str
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


def on_grid(scores: Tensor, tokens: Tokens) -> Tensor:
    """Attention per patch token (B, M) -> per patch of the input grid (B, rows * columns).

    The attention of a merged token is divided equally among its patches, so totals stay the same; dropped patches get
    NaN.
    """
    if tokens.size is not None:
        scores = scores / tokens.size[:, tokens.prefix :]
    return tokens.unmerge(scores, fill=float("nan"))


@torch.inference_mode()
def gather(model: Adapted, images: Tensor, blocks: Collection[int]) -> Evidence:
    """Run images (B, 3, H, W) in evaluation mode; note the attention in `blocks`. The model stays as it is."""
    seen: dict[int, Tensor] = {}

    def watch(part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None:
        if look is not None and block in blocks:
            seen[block] = on_grid(look.scores(), tokens)

    training = model.training
    model.eval()
    try:
        run = model.run(images, watch=watch)
    finally:
        model.train(training)
    return Evidence(
        grid=run.tokens.grid,
        readers=run.tokens.readers,
        stages=tuple(_stage(run.tokens, count) for count in range(1, len(run.tokens.trail) + 1)),
        attention={block: scores.double().cpu().numpy() for block, scores in seen.items()},
        logits=run.logits.float().cpu(),
    )


def _stage(tokens: Tokens, count: int) -> Stage:
    """The patches after the first `count` reductions."""
    step = tokens.trail[count - 1]
    groups = replace(tokens, trail=tokens.trail[:count]).groups()
    groups = torch.where(groups < 0, groups, groups - tokens.prefix)
    return Stage(step.block, step.when, (step.reduction.n_in, step.reduction.n_out), groups.cpu().numpy())


def original(model: Adapted) -> Adapted | None:
    """The backbone of `model` as it was before training, without adapters and with all tokens; its head is meaningless.

    Tensors that were not trained are taken from the model. A backbone that was itself trained is created again from its
    name. The result is None if it has no name, or if adapters were folded into it.
    """
    if model.spec is None:
        return None
    plain = stripped(model)
    heads = {id(p) for head in anatomy.classifiers(plain.backbone) for p in head.parameters()}
    if not any(p.requires_grad for p in plain.backbone.parameters() if id(p) not in heads):
        return plain
    origin = model.spec.backbone
    if origin.source != "pretrained":
        return None
    return adapt(origin.name, pretrained=True, **origin.options).to(next(model.parameters()).device)
