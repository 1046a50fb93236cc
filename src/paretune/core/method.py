"""What a method is: leaves, branches and reducers, built for the shape of a backbone, and the moments they speak at.

block i   before ── enter ── [ attention ] ── attn ── middle ── [ MLP ] ── mlp        ...  exit
          reducer   branch                    branch  reducer              branch          branch
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from torch import Tensor, nn

from paretune.core.attention import Look
from paretune.core.reduction import Reduction
from paretune.core.tokens import Tokens

Place = Literal["enter", "attn", "mlp", "exit"]
Kind = Literal["linear", "norm", "conv"]
Part = Literal["embed", "reducer", "attention", "mlp", "branches", "head"]
Divergence = Callable[[Tensor, Tensor], Tensor]  # logits of student and teacher (B, classes) -> scalar
Answer = Reduction | Sequence[Reduction] | None
Foreign = Any  # a module of timm or of HF PEFT: an nn.Module whose attributes no type tells
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Shape:
    """What methods are built for: L blocks of width D, heads of width d, a patch grid, P prefix tokens, and the places
    where a leaf can sit, each with the kind of its layer. `patch` is the side of a patch (height, width) in pixels."""

    depth: int
    width: int
    head_width: int
    grid: tuple[int, int]
    prefix: int
    layers: dict[str, Kind] = field(default_factory=dict)
    patch: tuple[int, int] = (16, 16)

    @property
    def patches(self) -> int:
        """Patch tokens before any reduction."""
        return self.grid[0] * self.grid[1]

    @property
    def quarters(self) -> tuple[int, ...]:
        """The blocks at a quarter, half and three quarters of the depth: 3, 6, 9 of 12."""
        return tuple(self.depth * quarter // 4 for quarter in (1, 2, 3))

    @property
    def linears(self) -> tuple[str, ...]:
        """The places that are linears of a block: q, k, v, proj, fc1, fc2..."""
        return tuple(name for name, kind in self.layers.items() if kind == "linear")

    def per_block(self, blocks: tuple[int, ...] | None, size: int | tuple[int, ...]) -> dict[int, int]:
        """{block: size} of the blocks that a method has something in, ascending.

        blocks: 0-based, None = all; size: one number for all of them, or one each, where 0 means nothing in this block.
        """
        chosen = range(self.depth) if blocks is None else blocks
        sizes = size if isinstance(size, tuple) else (size,) * len(chosen)
        return {block: one for block, one in sorted(zip(chosen, sizes, strict=True)) if one}

    def block_problems(
        self,
        method: str,
        blocks: tuple[int, ...] | None,
        name: str = "size",
        size: int | tuple[int, ...] = 1,
        most: float = math.inf,
    ) -> list[str]:
        """What is wrong with the settings `blocks` and `name`=size of a method, as `per_block` takes them."""
        count, problems = self.depth if blocks is None else len(blocks), []

        def fits(least: int) -> str:
            return f"must be {least} to {most}" if most < math.inf else f"must be at least {least}"

        if blocks == ():
            problems.append(f"{method} blocks=(): needs at least one block")
        if blocks and (len(set(blocks)) < count or not all(0 <= block < self.depth for block in blocks)):
            problems.append(f"{method} blocks={blocks}: the backbone has blocks 0 to {self.depth - 1}, each once")
        if not isinstance(size, tuple):
            return problems + ([] if 1 <= size <= most else [f"{method} {name}={size}: {fits(1)}"])
        if len(size) != count:
            problems.append(f"{method} {name} has {len(size)} entries for {count} blocks")
        if not all(0 <= one <= most for one in size) or not any(size):
            problems.append(f"{method} {name}={size}: {fits(0)} in every block, and not 0 in all")
        return problems


@dataclass(frozen=True, eq=False)
class Run:
    """A forward with its evidence: logits (B, classes) or a regression's numbers, the tokens after the last block, and
    their features (B, N, D) after the final norm."""

    logits: Tensor
    tokens: Tokens
    features: Tensor


@dataclass(frozen=True, eq=False)
class Site:
    """A moment of the trunk: the door of a block, the end of its attention or MLP, or the exit of the trunk.

    block: 0-based; at "exit" the depth
    x (B, N, D): the residual stream before the sub-layer; at "enter" and "exit" the stream itself
    h (B, N, D): what the sub-layer read, x after its norm; y (B, N, D): what it adds to x, after LayerScale and
        DropPath; both None at "enter" and "exit"
    look: the queries and keys of this block, at "attn"
    """

    block: int
    place: Place
    x: Tensor
    h: Tensor | None = None
    y: Tensor | None = None
    look: Look | None = None


class Watch(Protocol):
    """Who is told when a part of the forward has ended. `tokens` are those of now; `look` comes with "attention"."""

    def __call__(self, part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None: ...


def unwatched(part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None:
    """Nobody watches."""


def known(kind: type[M], module: nn.Module) -> M:
    """`module`, which is of this kind: nn.ModuleList and nn.ModuleDict do not say what they hold."""
    assert isinstance(module, kind)
    return module


class Method(nn.Module):
    """What a branch, a leaf or a reducer may add to a training.

    needs_teacher: `losses` wants the teacher's forward
    """

    needs_teacher: bool = False

    @property
    def changes(self) -> bool:
        """Whether `at_epoch` changes what training computes. Nothing behind such a method is computed only once."""
        return type(self).at_epoch is not Method.at_epoch

    def at_epoch(self, epoch: int) -> None:
        """A training epoch begins, the first is 0; for methods with a schedule. What it changes must follow from the
        number alone, so that a resumed run is the same, and must not touch evaluation, so that the best epoch is the
        best of what is served."""

    def losses(self, run: Run, teacher: Run | None, divergence: Divergence) -> dict[str, Tensor]:
        """What training adds to the task's loss: scalars by name, weights included; none, unless a method says so.

        run: a forward in training mode. teacher: the same images through the same model with all its tokens, in
        evaluation mode and without a gradient, where a method `needs_teacher`; else None.
        divergence: how far logits are from others by the task, whose outputs a method does not know how to read.
        """
        return {}


class Branch(Method, ABC):
    """A trained module beside the sub-layers of the blocks; one module serves the whole trunk.

    places: the moments at which it is asked
    """

    places: tuple[Place, ...]

    @abstractmethod
    def forward(self, at: Site, tokens: Tokens) -> Tokens:
        """The tokens as this branch leaves them; it may add to them, prepend prompts, carry or hold states.

        tokens.x (B, N, D) holds what the sub-layer and earlier branches have added already.
        """

    def around(self, block: int, tokens: Tokens) -> Reduction | None:
        """The patches that the MLP of this block is computed for, as a reduction that is undone after it; None = all,
        unless a method says otherwise. Patches that it drops get nothing from the MLP."""
        return None


class Reducer(Method, ABC):
    """Decides, block by block, which patches leave or merge.

    proportional: attention weighs tokens by their size

    An answer is a reduction of the patches of `tokens`, several to be made in turn, or None: leave them all.
    """

    proportional: bool = False

    def settled(self, scores: Tensor, most: float = math.inf) -> Tensor:
        """Scores to choose by, without a gradient: as they are in training, in evaluation in steps of 2^-16, and all
        above `most` equal.

        Patches that show the same have equal scores but for rounding, which differs from one kernel or runtime to the
        next. In such steps they tie, and of equals the first one wins everywhere.
        """
        scores = scores.detach()
        return scores if self.training else (scores.clamp(max=most) * 2**16).round()

    def before(self, block: int, tokens: Tokens) -> Answer:
        """What happens to the patches before this block; nothing, unless a method says otherwise."""
        return None

    @abstractmethod
    def forward(self, block: int, look: Look, tokens: Tokens) -> Answer:
        """What happens to the patches between attention and MLP of this block."""


class Settings(Protocol):
    """The settings of a method: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        ...


class ReducerSettings(Settings, Protocol):
    """The settings of a token reducer."""

    def build(self, shape: Shape) -> Reducer:
        """The reducer for a backbone of this shape."""
        ...
