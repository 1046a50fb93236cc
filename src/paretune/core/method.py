"""Base classes of methods (branches, reducers; leaves are in `leaf`), and the points of the forward where they act.

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
    """The dimensions of a backbone, from which methods are built.

    depth: blocks L; width: D; head_width: d; grid: patches (rows, columns); prefix: prefix tokens P
    layers: the places that can have a leaf, each with the kind of its layer
    patch: size of a patch (height, width) in pixels
    """

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
        """The blocks at one quarter, one half and three quarters of the depth: 3, 6, 9 of 12."""
        return tuple(self.depth * quarter // 4 for quarter in (1, 2, 3))

    @property
    def linears(self) -> tuple[str, ...]:
        """The places that are linears of a block: q, k, v, proj, fc1, fc2..."""
        return tuple(name for name, kind in self.layers.items() if kind == "linear")

    def per_block(self, blocks: tuple[int, ...] | None, size: int | tuple[int, ...]) -> dict[int, int]:
        """{block: size} for every block in which a method has something, ascending.

        blocks: 0-based, None = all; size: one number for all of them, or one number for each, where 0 means that the
        method has nothing in this block.
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
        """What is wrong with the settings `blocks` and `name`=size of a method; both as in `per_block`.

        most: the largest size that is allowed.
        """
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
    """The results of a forward pass.

    logits: (B, classes), or the numbers of a regression; tokens: the tokens after the last block
    features: (B, N, D), the features of these tokens after the final norm
    """

    logits: Tensor
    tokens: Tokens
    features: Tensor


@dataclass(frozen=True, eq=False)
class Site:
    """A point of the forward pass: before a block, after its attention or its MLP, or after the last block.

    block: 0-based; at "exit" the depth
    x (B, N, D): the residual stream before the sub-layer; at "enter" and "exit" the stream itself
    h (B, N, D): the input of the sub-layer, x after its norm; y (B, N, D): the output that is added to x, after
        LayerScale and DropPath; both None at "enter" and "exit"
    look: the queries and keys of this block; only at "attn"
    """

    block: int
    place: Place
    x: Tensor
    h: Tensor | None = None
    y: Tensor | None = None
    look: Look | None = None


class Watch(Protocol):
    """A callback that is called when a part of the forward has ended, with the current tokens.

    look: the queries and keys of the block; only for the part "attention"
    """

    def __call__(self, part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None: ...


def unwatched(part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None:
    """The default callback, which does nothing."""


def known(kind: type[M], module: nn.Module) -> M:
    """`module`, which is of this kind: nn.ModuleList and nn.ModuleDict do not say what they hold."""
    assert isinstance(module, kind)
    return module


class Method(nn.Module):
    """The base of branches, leaves and reducers: what each of them may add to training.

    needs_teacher: whether `losses` needs the forward pass of a teacher
    """

    needs_teacher: bool = False

    @property
    def changes(self) -> bool:
        """Whether `at_epoch` changes what training computes. Nothing behind such a method is computed only once."""
        return type(self).at_epoch is not Method.at_epoch

    def at_epoch(self, epoch: int) -> None:
        """Called at the start of every training epoch (the first is 0), for methods with a schedule.

        The result must depend only on `epoch`, so that a resumed run is the same. It must not change evaluation, so
        that the best epoch is chosen for the model that is used later.
        """

    def losses(self, run: Run, teacher: Run | None, divergence: Divergence) -> dict[str, Tensor]:
        """The losses that training adds to the task's loss: {name: scalar}, weights included. The default is none.

        run: a forward pass in training mode. teacher: if a method `needs_teacher`, the forward pass of the same images
        through the same model with all its tokens, in evaluation mode and without a gradient; otherwise None.
        divergence: the task's measure of how far one set of logits is from another.
        """
        return {}


class Branch(Method, ABC):
    """A trained module beside the sub-layers of the blocks. One module serves all blocks.

    places: the points of the forward pass at which it is called
    """

    places: tuple[Place, ...]

    @abstractmethod
    def forward(self, at: Site, tokens: Tokens) -> Tokens:
        """Return the changed tokens. A branch may add to the features, prepend prompts, and carry or hold states.

        tokens.x (B, N, D) already contains what the sub-layer and earlier branches have added.
        """

    def around(self, block: int, tokens: Tokens) -> Reduction | None:
        """The patches for which the MLP of this block is computed, as a reduction that is undone after the MLP.

        None, the default, = all patches. Patches that the reduction drops get nothing from the MLP.
        """
        return None


class Reducer(Method, ABC):
    """Decides in every block which patches are dropped or merged.

    proportional: whether attention weights tokens by their size

    The methods return a reduction of the patches of `tokens`, several reductions to apply in turn, or None to keep all
    patches.
    """

    proportional: bool = False

    def settled(self, scores: Tensor, most: float = math.inf) -> Tensor:
        """The scores by which to choose patches, without a gradient.

        In training the scores are unchanged. In evaluation they are rounded to steps of 2^-16, and scores above `most`
        are set to `most`. Equal patches have equal scores except for rounding errors, which differ between kernels and
        runtimes. With the coarser steps they tie, and the first one is chosen everywhere.
        """
        scores = scores.detach()
        return scores if self.training else (scores.clamp(max=most) * 2**16).round()

    def before(self, block: int, tokens: Tokens) -> Answer:
        """How to reduce the patches before this block. The default is not to reduce them."""
        return None

    @abstractmethod
    def forward(self, block: int, look: Look, tokens: Tokens) -> Answer:
        """How to reduce the patches between attention and MLP of this block."""


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
