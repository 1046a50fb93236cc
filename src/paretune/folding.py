"""Fold what folds: the model as it is served."""

from __future__ import annotations

import copy

from paretune.core import guests, leaf, quantised
from paretune.core.model import Adapted


def merge(model: Adapted) -> Adapted:
    """A copy of the model with every leaf (LoRA...) folded into its layer, and the same outputs in evaluation.

    Branches and the reducer stay, they are no linear maps of one layer; their weights of few bits become constants, in
    the place of codes that are looked up at every forward. The copy is in evaluation mode, nothing in it trains, and it
    cannot be saved as an adapter any more.
    """
    merged = copy.deepcopy(model).eval().requires_grad_(False)
    guests.fold_all(merged.backbone)  # a leaf may sit on a guest, never the other way round
    leaf.fold_all(merged.backbone)
    quantised.fold_all(merged)
    merged.spec = None
    return merged
