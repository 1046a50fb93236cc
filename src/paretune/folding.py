"""Merge a model: fold its leaves into the backbone for deployment. Or strip it: remove all adapters and the reducer."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from paretune.core import leaf, peft_modules, quantised
from paretune.core.leaf import Leafed
from paretune.core.method import Foreign
from paretune.core.model import Adapted
from paretune.core.target_units import Units


def merge(model: Adapted) -> Adapted:
    """A copy of the model with every leaf (LoRA...) folded into its layer. In evaluation its outputs are the same.

    Branches and the reducer stay, because they are not linear maps of one layer; their quantised weights become
    constants, so that no forward pass has to quantise them. The copy is in evaluation mode, has no trainable tensors,
    and cannot be saved as an adapter any more.
    """
    merged = copy.deepcopy(model).eval().requires_grad_(False)
    peft_modules.fold_all(merged.backbone)  # a leaf may sit on an HF PEFT module, never the other way round
    leaf.fold_all(merged.backbone)
    quantised.fold_all(merged)
    merged.spec = None
    return merged


def stripped(model: Adapted) -> Adapted:
    """A copy of the model without adapters and reducer: its backbone, head and task.

    Backbone weights that were trained in place, as in full fine-tuning, keep their trained values.
    """
    plain = copy.deepcopy(model)
    plain.branches, plain.reducer = nn.ModuleList(), None
    plain.spec = model.spec and replace(model.spec, adapters=(), reducer=None)
    _strip(plain.backbone)
    return plain


def _strip(root: nn.Module) -> None:
    """Remove every leaf except the Units of a head, and every HF PEFT module, below `root`, in place."""
    for name, child in root.named_children():
        if (layer := _below(child)) is not child:
            setattr(root, name, layer)
        else:
            _strip(child)


def _below(module: Foreign) -> nn.Module:
    if isinstance(module, Leafed) and not isinstance(module.leaf, Units):
        return _below(module.layer)
    if peft_modules.is_peft_module(module):
        return module.original_module if hasattr(module, "modules_to_save") else module.get_base_layer()
    return module
