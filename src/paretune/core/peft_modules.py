"""HF PEFT modules that were injected into a timm model before paretune got it: find, describe, inject and fold them.

paretune's forward pass calls these modules, so their LoRA also works where timm itself would read the weights behind
the wrapper. peft is imported only when a model has such modules.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from paretune.core.method import Foreign
from paretune.errors import UsageError

KINDS = ("BaseTunerLayer", "AuxiliaryTrainingWrapper")


def is_peft_module(module: nn.Module) -> bool:
    """Whether this is a tuner layer of HF PEFT, or a layer that it trains as a whole."""
    return any(c.__module__.startswith("peft.") and c.__name__ in KINDS for c in type(module).__mro__)


def unwrap(model: Foreign) -> Foreign:
    """The timm model inside of a PeftModel; any other model unchanged."""
    return model.get_base_model() if type(model).__module__.startswith("peft.") else model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The tensors that HF PEFT modules train."""
    return [p for m in model.modules() if is_peft_module(m) for p in m.parameters() if p.requires_grad]


def describe(model: nn.Module) -> dict | None:
    """The peft config that made these modules, as JSON values; None if there are none."""
    if not any(map(is_peft_module, model.modules())):
        return None
    configs = getattr(model, "peft_config", {})
    if list(configs) != ["default"]:
        raise UsageError(
            f"the model has HF PEFT adapters named {sorted(configs) or 'nothing'}; paretune takes one, named "
            "'default': inject it with peft.inject_adapter_in_model or peft.get_peft_model"
        )
    return {name: sorted(v) if isinstance(v, set) else v for name, v in configs["default"].to_dict().items()}


def kinds() -> dict[str, type]:
    """The configs of HF PEFT that put tuners on layers, by their peft_type. Raises UsageError if peft is missing."""
    try:
        import peft
    except ImportError as error:
        raise UsageError("this model was tuned with HF PEFT: install it with `pip install paretune[peft]`") from error
    found = {getattr(name, "value", name): kind for name, kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return {name: kind for name, kind in found.items() if "target_modules" in kind.__dataclass_fields__}


def inject(model: nn.Module, described: dict) -> None:
    """Inject HF PEFT modules into a plain timm model, from their config. Raises UsageError if peft refuses it."""
    kind = kinds()[described["peft_type"]]
    known = {name: v for name, v in described.items() if name in kind.__dataclass_fields__}
    import peft

    try:
        peft.get_peft_model(model, kind(**known))  # inject_adapter_in_model refuses tensors that layers share (VeRA)
    except Exception as error:  # peft raises anything on settings that do not fit a layer
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"HF PEFT cannot put {kind.__name__} on this backbone: {said}") from error


def fold_all(root: Foreign) -> None:
    """Replace every HF PEFT module below `root` by the plain layer that computes the same in evaluation, in place.

    Raises UsageError if the layer that peft merged computes something else (its OFT on a convolution).
    """
    for name, child in root.named_children():
        if hasattr(child, "modules_to_save") and is_peft_module(child):
            setattr(root, name, child.modules_to_save["default"])
        elif is_peft_module(child):
            setattr(root, name, _folded(child, name))
        else:
            fold_all(child)


@torch.no_grad()
def _folded(tuner: Foreign, name: str) -> nn.Module:
    probe = _probe(tuner.get_base_layer())
    before = None if probe is None else tuner(probe)
    tuner.merge()
    layer = tuner.get_base_layer()
    if before is not None and not (layer(probe) - before).norm() <= 0.05 * before.norm():
        kind = type(tuner).__module__.split(".")[2]
        raise UsageError(
            f"HF PEFT merges its {kind} into '{name}', a {type(layer).__name__}, with different outputs than before; "
            "keep the model unmerged, or leave this layer out of its targets"
        )
    return layer


def _probe(layer: Foreign) -> torch.Tensor | None:
    """A test input for a layer; None if the layer cannot be tested."""
    weight = layer.weight
    if not weight.is_floating_point() or weight.is_meta or not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return None
    linear = isinstance(layer, nn.Linear)
    size = (1, layer.in_features) if linear else (1, layer.in_channels, *(2 * side for side in layer.kernel_size))
    scattered = (torch.arange(math.prod(size)) * 0.618034).frac() - 0.5  # spread out enough, without a random generator
    return scattered.view(size).to(weight)
