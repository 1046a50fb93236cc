"""Who takes part in a benchmark: timm, recipes, and rivals, which do the job of a recipe with another library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from paretune.catalogue import Recipe, Schedule
from paretune.errors import UsageError, unknown
from paretune.methods import Methods


def hf_peft(module: nn.Module, methods: Methods) -> None:
    """Put HF PEFT's LoRA into a timm model, with the rank, scale, dropout and places of a recipe's LoRA.

    Raises UsageError if peft is missing, for other adapters and for token reducers.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError("the rival hf-peft is HF PEFT: `pip install paretune[peft]`, or leave --rival out") from error
    configs = [getattr(one, "in_peft", None) for one in methods.adapters]
    if methods.reducer is not None or len(configs) != 1 or configs[0] is None:
        raise UsageError("the rival hf-peft does the job of a recipe that is a LoRA and nothing else, such as lora")
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(**configs[0]()), module)
    except ValueError as error:
        raise UsageError(f"HF PEFT cannot put its LoRA into this backbone: {error}") from error


RIVALS: dict[str, Callable[[nn.Module, Methods], None]] = {"hf-peft": hf_peft}
LIKE = "lora"  # the recipe whose job a rival does if none of those asked for is one that it can do


@dataclass(frozen=True)
class Contestant:
    """One of those that take turns.

    methods: adapters and reducer; None is timm itself, which trains every tensor
    rival: one of `RIVALS`, which does the job of `methods` in timm's own forward; "" is paretune
    """

    methods: Methods | None = None
    schedule: Schedule = field(default_factory=Schedule)
    rival: str = ""

    @property
    def own(self) -> bool:
        """Whether the forward is timm's."""
        return self.methods is None or bool(self.rival)

    @property
    def settings(self) -> dict | None:
        """The methods as JSON; None if paretune does not run them."""
        return None if self.methods is None or self.rival else self.methods.to_json()


def contestant(recipe: Recipe | None) -> Contestant:
    """A recipe, or timm itself."""
    return Contestant() if recipe is None else Contestant(recipe.methods, recipe.schedule)


def rival(name: str, like: Recipe) -> Contestant:
    """The rival of this name at the job of a recipe. Raises UsageError for a name that is none."""
    if name not in RIVALS:
        raise unknown("rival", name, list(RIVALS))
    return Contestant(like.methods, like.schedule, name)
