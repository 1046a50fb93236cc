"""HF PEFT modules that were injected into a timm model before it came here: found, kept trainable, described, folded.

paretune's trunk calls them where they sit, so their LoRA also works where timm reads weights behind the wrapper.
Nothing here imports peft until a guest is really there.
"""

from __future__ import annotations

from torch import nn

from paretune.errors import UsageError

KINDS = ("BaseTunerLayer", "AuxiliaryTrainingWrapper")


def is_guest(module: nn.Module) -> bool:
    """Whether this is a tuner layer of HF PEFT, or a layer that it trains as a whole."""
    return any(c.__module__.startswith("peft.") and c.__name__ in KINDS for c in type(module).__mro__)


def unwrap(model: nn.Module) -> nn.Module:
    """The timm model inside of a PeftModel; any other model as it is."""
    return model.get_base_model() if type(model).__module__.startswith("peft.") else model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The tensors that guests train."""
    return [p for m in model.modules() if is_guest(m) for p in m.parameters() if p.requires_grad]


def describe(model: nn.Module) -> dict | None:
    """The peft config that made the guests, as JSON values; None if there are no guests."""
    if not any(map(is_guest, model.modules())):
        return None
    configs = getattr(model, "peft_config", {})
    if list(configs) != ["default"]:
        raise UsageError(
            f"the model holds HF PEFT adapters named {sorted(configs) or 'nothing'}; paretune takes one, named "
            "'default': inject it with peft.inject_adapter_in_model or peft.get_peft_model"
        )
    return {name: sorted(v) if isinstance(v, set) else v for name, v in configs["default"].to_dict().items()}


def inject(model: nn.Module, described: dict) -> None:
    """Put guests as described into a plain timm model."""
    try:
        import peft
    except ImportError as error:
        raise UsageError("this model was tuned with HF PEFT: install it with `pip install paretune[peft]`") from error
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING[described["peft_type"]]
    known = {name: v for name, v in described.items() if name in kind.__dataclass_fields__}
    peft.inject_adapter_in_model(kind(**known), model)


def fold_all(root: nn.Module) -> None:
    """Replace every guest below `root` by the plain layer that computes the same in evaluation, in place."""
    for name, child in root.named_children():
        if hasattr(child, "modules_to_save") and is_guest(child):
            setattr(root, name, child.modules_to_save["default"])
        elif is_guest(child):
            child.merge()
            setattr(root, name, child.get_base_layer())
        else:
            fold_all(child)
