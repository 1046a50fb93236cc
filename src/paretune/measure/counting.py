"""Count the multiply-accumulates and the tensors of every part of a forward pass, without computing it.

        block 3   attention | leaves   reducer   mlp | leaves   branches          + embed, head

Multiply-accumulates are half of what PyTorch's FlopCounterMode counts. The model reports the end of each part, and
everything counted since the previous report belongs to this part. Within a part, a product belongs to the leaves if it
reads a weight of a leaf, or a value computed only from such weights. A tensor belongs to the part that uses it first.
The counting does not depend on the classes of the methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from paretune.core import peft_modules
from paretune.core.attention import Look
from paretune.core.leaf import Leafed
from paretune.core.method import Part, Watch
from paretune.core.model import Adapted, Run
from paretune.core.tokens import Tokens


class Place(NamedTuple):
    """A part of the forward pass: embed and head, which have no block; attention, mlp, leaves (on linears), branches
    (beside the sub-layers) and reducer."""

    block: int | None
    part: str


UNUSED = Place(None, "unused")


@dataclass(frozen=True, eq=False)
class ForwardCount:
    """The counts of one forward pass of one image.

    macs: multiply-accumulates of every part; tensors: names of the parameters of every part, in order of first use
    normed: numbers that a LayerNorm normalised; tokens: (in attention, in the MLP) of every block, prefix included
    """

    macs: Counter[Place] = field(default_factory=Counter)
    tensors: dict[Place, list[str]] = field(default_factory=dict)
    normed: int = 0
    tokens: tuple[tuple[int, int], ...] = ()

    @property
    def total(self) -> int:
        """Multiply-accumulates of the whole forward."""
        return self.macs.total()


def dry_run(model: Adapted, image_size: tuple[int, int], reduced: bool = True, training: bool = False) -> ForwardCount:
    """Run one image (H, W) through the model on the meta device. Nothing is computed, and the model is not changed.

    reduced=False: with all tokens. training=True: in training mode, in which a reducer may return other reductions.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    was_training = model.training
    model.train(training)
    try:
        with torch.set_grad_enabled(training), _Recorder(meta, set(leaf_tensors(model))) as recorder, recorder.counter:
            runner = Runner(model, reduced, recorder.watch)
            images = torch.empty(1, 3, *image_size, device="meta")
            functional_call(runner, {f"model.{name}": t for name, t in meta.items()}, images)
    finally:
        model.train(was_training)
    return recorder.result({name for name, _ in model.named_parameters()})


class Runner(nn.Module):
    """A model's `run` as a forward method, so that `functional_call` can replace its tensors, named "model.*"."""

    def __init__(self, model: Adapted, reduced: bool, watch: Watch):
        super().__init__()
        self.model, self.reduced, self.watch = model, reduced, watch

    def forward(self, images: Tensor) -> Run:
        """Images (B, 3, H, W) -> the run."""
        return self.model.run(images, self.reduced, self.watch)


def leaf_tensors(model: nn.Module) -> Iterator[str]:
    """The names of the tensors of leaves and of HF PEFT modules."""
    for path, module in model.named_modules():
        if isinstance(module, Leafed):
            yield from (f"{path}.leaf.{name}" for name in module.leaf.state_dict(keep_vars=True))
        elif peft_modules.is_peft_module(module) and hasattr(module, "base_layer"):
            names = module.state_dict(keep_vars=True)
            yield from (f"{path}.{name}" for name in names if not name.startswith("base_layer."))


class _Recorder(TorchDispatchMode):
    """Assigns everything that was counted since the last call to the part that has ended."""

    def __init__(self, meta: dict[str, Tensor], leaves: set[str]):
        super().__init__()
        self.counter = FlopCounterMode(display=False)
        self.names = {id(t): name for name, t in meta.items()}
        self.weights = {
            id(t): t for t in meta.values()
        }  # and tensors computed only from weights; keeps their ids valid
        self.of_leaves = {id(t) for name, t in meta.items() if name in leaves}
        self.leaves = leaves
        self.macs: Counter[Place] = Counter()
        self.tensors: dict[Place, list[str]] = {}
        self.seen: list[str] = []
        self.normed, self.booked, self.in_leaf = 0, 0, False
        self.lengths: dict[Part, list[int]] = {"attention": [], "mlp": []}
        self.since: Counter[bool] = (
            Counter()
        )  # multiply-accumulates of the current part, {whether they belong to leaves: count}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count()
        inputs = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        self.seen += [name for t in inputs if (name := self.names.pop(id(t), None)) is not None]
        self.in_leaf = any(id(t) in self.of_leaves for t in inputs)
        if func is torch.ops.aten.native_layer_norm.default:
            self.normed += args[0].numel()
        answer = func(*args, **(kwargs or {}))
        if inputs and all(id(t) in self.weights for t in inputs):
            made = [t for t in tree_iter(answer) if isinstance(t, Tensor)]
            self.weights |= {id(t): t for t in made}
            self.of_leaves |= {id(t) for t in made if self.in_leaf}
        return answer

    def count(self) -> None:
        """Add what the last operation has added to FlopCounterMode's count."""
        counted = self.counter.get_total_flops() // 2
        self.since[self.in_leaf] += counted - self.booked
        self.booked = counted

    def watch(self, part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None:
        """Record the part that has ended."""
        self.count()
        place = Place(None if part in ("embed", "head") else block, part)
        for of_leaf, here in ((False, place), (True, Place(place.block, "leaves"))):
            self.macs[here] += self.since[of_leaf]
            if names := [name for name in self.seen if (name in self.leaves) == of_leaf]:
                self.tensors.setdefault(here, []).extend(names)
        self.since.clear()
        self.seen.clear()
        if part in self.lengths:
            self.lengths[part].append(tokens.x.shape[1])

    def result(self, parameters: set[str]) -> ForwardCount:
        """The counts; parameters that no part used are listed under `unused`."""
        tensors = {place: [n for n in names if n in parameters] for place, names in self.tensors.items()}
        if unused := [name for name in self.names.values() if name in parameters]:
            tensors[UNUSED] = unused
        return ForwardCount(+self.macs, tensors, self.normed, tuple(zip(*self.lengths.values(), strict=True)))
