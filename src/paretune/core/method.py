"""What a method is: a branch beside sub-layers, or a reducer between them, built for the shape of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from paretune.core.attention import Look
from paretune.core.reduction import Reduction
from paretune.core.tokens import Tokens

Site = Literal["attn", "mlp"]
Divergence = Callable[[Tensor, Tensor], Tensor]  # logits of student and teacher (B, classes) -> scalar


@dataclass(frozen=True)
class Shape:
    """What methods are built for: L blocks of width D, heads of width d, a patch grid, P prefix tokens, and the places
    of a block where a leaf can sit."""

    depth: int
    width: int
    head_width: int
    grid: tuple[int, int]
    prefix: int
    places: tuple[str, ...] = ()

    @property
    def patches(self) -> int:
        """Patch tokens before any reduction."""
        return self.grid[0] * self.grid[1]

    @property
    def quarters(self) -> tuple[int, ...]:
        """The blocks at a quarter, half and three quarters of the depth: 3, 6, 9 of 12."""
        return tuple(self.depth * quarter // 4 for quarter in (1, 2, 3))


@dataclass(frozen=True, eq=False)
class Run:
    """A forward with its evidence: logits (B, classes) or a regression's numbers, the tokens after the last block, and
    their features (B, N, D) after the final norm."""

    logits: Tensor
    tokens: Tokens
    features: Tensor


class Branch(nn.Module, ABC):
    """A trained module beside the attention or the MLP of the blocks; one module serves the whole trunk."""

    site: Site

    @abstractmethod
    def forward(self, block: int, tokens: Tokens, h: Tensor) -> tuple[Tensor, Tokens]:
        """What joins the residual stream at this block, and the tokens, which may have been given a state to carry.

        tokens.x (B, N, D): the residual stream before the sub-layer; h (B, N, D): the same after LayerNorm.
        """


class Reducer(nn.Module, ABC):
    """Decides, block by block, which patches leave or merge.

    proportional: attention weighs tokens by their size; needs_teacher: `losses` wants the teacher's forward
    """

    proportional: bool = False
    needs_teacher: bool = False

    def at_epoch(self, epoch: int) -> None:
        """A training epoch begins, the first is 0; for methods with a schedule. What it changes must follow from the
        number alone, so that a resumed run is the same, and must not touch evaluation, so that the best epoch is the
        best of what is served."""

    def before(self, block: int, tokens: Tokens) -> Reduction | None:
        """The reduction of the patches of `tokens` before this block; None, unless a method says otherwise."""
        return None

    @abstractmethod
    def forward(self, block: int, look: Look, tokens: Tokens) -> Reduction | None:
        """The reduction of the patches of `tokens` between attention and MLP of this block; None = leave them all."""

    def losses(self, run: Run, teacher: Run | None, divergence: Divergence) -> dict[str, Tensor]:
        """What training adds to the task's loss: scalars by name, weights included; none, unless a method says so.

        run: a forward in training mode. teacher: the same images through the same model with all its tokens, in
        evaluation mode and without a gradient, where the method `needs_teacher`; else None.
        divergence: how far logits are from others by the task, whose outputs a method does not know how to read.
        """
        return {}
