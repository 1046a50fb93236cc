"""A forward without arithmetic, and a book in which every product and every tensor stands at its place.

        block 3   attention | leaves   reducer   mlp | leaves   branches          + embed, head

Multiply-accumulates are half of what PyTorch's FlopCounterMode counts. Its own count per module cannot tell places
apart here, because the trunk calls the parts of a block and never the block, and attention is no module at all; so the
seams of the trunk - the step of a block, the reducer, branches, leaves, the MLP - say when one place ends and the next
begins. A tensor stands where it is first used. No method is known by name.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from paretune.core import anatomy, guests
from paretune.core.leaf import Leafed
from paretune.core.method import Reducer
from paretune.core.model import Adapted, Run
from paretune.core.tokens import Tokens


class Place(NamedTuple):
    """A part of the forward: embed and head have no block; the others are attention, mlp, leaves (what sits on a
    linear), branches (what joins beside it) and reducer."""

    block: int | None
    part: str


HEAD, UNUSED = Place(None, "head"), Place(None, "unused")


@dataclass(frozen=True, eq=False)
class Tally:
    """What one forward of one image did.

    macs: multiply-accumulates of every place; tensors: names of the parameters of every place, in order of first use
    normed: numbers that went through a LayerNorm; run: the forward itself, on the meta device
    """

    macs: Counter[Place] = field(default_factory=Counter)
    tensors: dict[Place, list[str]] = field(default_factory=dict)
    normed: int = 0
    run: Run | None = None

    @property
    def total(self) -> int:
        """Multiply-accumulates of the whole forward."""
        return self.macs.total()


def dry_run(model: Adapted, image_size: tuple[int, int], reduced: bool = True, training: bool = False) -> Tally:
    """One image (H, W) through the model on the meta device: shapes only, nothing is computed or changed.

    reduced=False: with all tokens. training=True: as the model runs in training, where a reducer may answer otherwise.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    was_training = model.training
    model.train(training)
    try:
        with torch.set_grad_enabled(training), _Ledger(meta) as ledger, ledger.counter:
            runner = _Runner(model, ledger, reduced)
            images = torch.empty(1, 3, *image_size, device="meta")
            run = functional_call(runner, {f"model.{name}": t for name, t in meta.items()}, images)
            ledger.turn(HEAD)
    finally:
        model.train(was_training)
    return ledger.tally({name for name, _ in model.named_parameters()}, run)


class _Ledger(TorchDispatchMode):
    """Books what happens to the place that is open."""

    def __init__(self, meta: dict[str, Tensor]):
        super().__init__()
        self.counter = FlopCounterMode(display=False)
        self.names = {id(t): name for name, t in meta.items()}
        self.macs: Counter[Place] = Counter()
        self.tensors: dict[Place, list[str]] = {}
        self.normed, self.booked = 0, 0
        self.block, self.site, self.over = None, "embed", []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in tree_iter((args, kwargs)):
            if isinstance(t, Tensor) and (name := self.names.pop(id(t), None)) is not None:
                self.tensors.setdefault(self.place, []).append(name)
        if func is torch.ops.aten.native_layer_norm.default:
            self.normed += args[0].numel()
        return func(*args, **(kwargs or {}))

    @property
    def place(self) -> Place:
        return Place(self.block, self.over[-1] if self.over else self.site)

    def book(self) -> None:
        """Book all that was counted since the last time."""
        counted = self.counter.get_total_flops() // 2
        self.macs[self.place] += counted - self.booked
        self.booked = counted

    def turn(self, place: Place) -> None:
        """What follows belongs to `place`."""
        self.book()
        self.block, self.site = place

    def open(self, part: str | None) -> None:
        """What follows belongs to `part` of this block, until it is closed; None: to the sub-layer around it."""
        self.book()
        self.over.append(part or self.site)

    def close(self) -> None:
        """Back to what was open before."""
        self.book()
        self.over.pop()

    def tally(self, parameters: set[str], run: Run) -> Tally:
        """The book, closed: parameters that no place used stand under `unused`."""
        tensors = {place: [n for n in names if n in parameters] for place, names in self.tensors.items()}
        if unused := [name for name in self.names.values() if name in parameters]:
            tensors[UNUSED] = unused
        return Tally(+self.macs, tensors, self.normed, run)


class _Runner(nn.Module):
    """The model with its seams watched, for one forward."""

    def __init__(self, model: Adapted, ledger: _Ledger, reduced: bool):
        super().__init__()
        self.model, self.ledger, self.reduced = copy.copy(model), ledger, reduced
        self.model.step = self.step  # of the copy; what both share is left as it was

    def forward(self, images: Tensor) -> Run:
        with ExitStack() as marks:
            for module, enter, leave in self.seams():
                marks.callback(module.register_forward_pre_hook(lambda *_, enter=enter: enter()).remove)
                if leave is not None:
                    marks.callback(module.register_forward_hook(lambda *_, leave=leave: leave()).remove)
            return self.model.run(images, reduced=self.reduced)

    def step(self, i: int, tokens: Tokens, reducer: Reducer | None) -> Tokens:
        self.ledger.turn(Place(i, "attention"))
        watched = None if reducer is None else _Watched(reducer, self.ledger)
        tokens = type(self.model).step(self.model, i, tokens, watched)
        self.ledger.turn(HEAD)
        return tokens

    def seams(self) -> Iterator[tuple]:
        """Modules, what to do before they are called, and after (None: what they open stays open)."""
        ledger, blocks = self.ledger, self.model.backbone.blocks
        for block in blocks:
            view = anatomy.read(block)
            for part in (view.pre1, *view.attn.children()):
                yield from self.door(part, "attention")
            for part in (view.pre2, view.mlp):
                yield from self.door(part, "mlp")
        for branch in self.model.branches:
            yield branch, lambda: ledger.open("branches"), ledger.close
        for module in blocks.modules():
            if isinstance(module, Leafed):
                yield module.leaf, lambda: ledger.open("leaves"), ledger.close
                yield module.layer, lambda: ledger.open(None), ledger.close
            elif guests.is_guest(module) and hasattr(module, "base_layer"):
                yield module, lambda: ledger.open("leaves"), ledger.close
                yield module.base_layer, lambda: ledger.open(None), ledger.close

    def door(self, part: Any, site: str) -> Iterator[tuple]:
        """The sub-layer `site` begins where `part` is called, if it is a module."""
        if isinstance(part, nn.Module):
            yield part, lambda: self.ledger.turn(Place(self.ledger.block, site)), None


class _Watched:
    """A reducer whose work is booked as a reducer's, up to the sub-layer that follows."""

    def __init__(self, reducer: Reducer, ledger: _Ledger):
        self.reducer, self.ledger = reducer, ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reducer, name)

    def before(self, block: int, tokens: Any) -> Any:
        self.ledger.open("reducer")
        reduction = self.reducer.before(block, tokens)
        self.ledger.close()
        return reduction

    def __call__(self, block: int, look: Any, tokens: Any) -> Any:
        self.ledger.turn(Place(block, "reducer"))
        return self.reducer(block, look, tokens)
