"""The batch of tokens that goes through the blocks, with everything that belongs to a token.

        x        (B, P + M, D)                residual stream: P prefix tokens (CLS, distillation, registers, prompts),
                                              M patches
        size     (B, P + M) | None            number of input patches in a token; None = all 1, nothing merged yet;
                                              0 = removed by a Mask, but still in the sequence
        rope     (B|1, M, L|1, H|1, d) | None rotary table, a row per patch
        carried  {name: (B, P + M, c)}        states of every token that adapters pass to later blocks
        held     {name: (B, k, c)}            states of an image as a whole; reductions do not change them
        trail    (Step, ...)                  the reductions of the patches so far

Only `shrink` removes or merges tokens, and it applies the reduction to everything per token. Prefix tokens always stay
in front and are never reduced. Prompts are the last of the prefix tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from paretune.core.reduction import Reduction

When = Literal["before", "middle"]


class Step(NamedTuple):
    """One reduction of the patches: before block `block`, or in the middle of it, between attention and MLP."""

    block: int
    reduction: Reduction
    when: When


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of token sequences; for the tensors see the module docstring.

    prefix: number of prefix tokens, prompts included
    readers: how many of the prefix tokens summarise the image (1 = CLS, 2 with a distillation token, 0 = none)
    grid: the patch grid (rows, columns) before any reduction
    prompts: {name: number of prompts}, in the order in which they stand at the end of the prefix
    """

    x: Tensor
    prefix: int
    readers: int
    grid: tuple[int, int]
    size: Tensor | None = None
    rope: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    trail: tuple[Step, ...] = ()

    @property
    def patches(self) -> int:
        """The current number of patch tokens, M."""
        return self.x.shape[1] - self.prefix

    @property
    def own_prefix(self) -> int:
        """Prefix tokens of the backbone itself: all but the prompts."""
        return self.prefix - sum(self.prompts.values())

    @property
    def masked(self) -> bool:
        """Whether removed patches are still in the sequence, with size 0."""
        return any(step.reduction.masks for step in self.trail)

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with other features (B, P + M, D)."""
        return replace(self, x=x)

    def plus(self, delta: Tensor) -> Tokens:
        """The same tokens with `delta` (B, P + M, D) added to their features."""
        return replace(self, x=self.x + delta)

    def carry(self, states: dict[str, Tensor | None]) -> Tokens:
        """Pass states (B, P + M, c) to later blocks; None removes a state."""
        return replace(self, carried=_updated(self.carried, states))

    def hold(self, states: dict[str, Tensor | None]) -> Tokens:
        """Pass states (B, k, c) of the whole image to later blocks; None removes a state."""
        return replace(self, held=_updated(self.held, states))

    def prepend(self, name: str, prompts: Tensor) -> Tokens:
        """Put prompts (p, D) or (B, p, D) in front of the patches; they replace earlier prompts of the same name.

        A prompt has size 1, and 0 for every carried state. It has no position; reductions and pooling leave it out.
        """
        first = self.own_prefix
        for other, count in self.prompts.items():
            if other == name:
                break
            first += count
        after = first + self.prompts.get(name, 0)
        rows = prompts.to(self.x.dtype).expand(self.x.shape[0], -1, -1)

        def insert(t: Tensor, new: Tensor) -> Tensor:
            front, _, back = t.split([first, after - first, t.shape[1] - after], dim=1)
            return torch.cat([front, new, back], dim=1)

        return replace(
            self,
            x=insert(self.x, rows),
            prefix=self.prefix + rows.shape[1] - (after - first),
            size=None if self.size is None else insert(self.size, self.size.new_ones(rows.shape[:2])),
            carried={
                key: insert(state, state.new_zeros(*rows.shape[:2], state.shape[2]))
                for key, state in self.carried.items()
            },
            prompts=self.prompts | {name: rows.shape[1]},
        )

    def without_prompts(self, t: Tensor) -> Tensor:
        """Remove the values of the prompts: (B, P + M, ...) -> (B, own prefix + M, ...)."""
        return torch.cat([t[:, : self.own_prefix], t[:, self.prefix :]], dim=1) if self.prompts else t

    def shrink(self, block: int, answer: Reduction | Sequence[Reduction] | None, when: When = "middle") -> Tokens:
        """Apply what a reducer returned, no reduction, one, or several in turn, to features, sizes, RoPE and carried
        states."""
        tokens = self
        for reduction in () if answer is None else (answer,) if isinstance(answer, Reduction) else answer:
            tokens = tokens._shrunk(Step(block, reduction, when))
        return tokens

    def _shrunk(self, step: Step) -> Tokens:
        reduction, parts = step.reduction, [self.prefix, self.patches]
        size = self.size if self.size is not None else torch.ones(self.x.shape[:2], device=self.x.device)
        patch_size = size[:, self.prefix :]

        def behind_the_prefix(f: Callable[..., Tensor], t: Tensor, *more: Tensor) -> Tensor:
            prefix, patches = t.split(parts, dim=1)  # one split is cheaper in the backward pass than two slices
            return torch.cat([prefix, f(patches, *more)], dim=1)

        return replace(
            self,
            x=behind_the_prefix(reduction.features, self.x, patch_size),
            size=behind_the_prefix(reduction.sum, size),
            rope=None if self.rope is None else reduction.pick(self.rope),
            carried={
                name: behind_the_prefix(reduction.mean, state, patch_size) for name, state in self.carried.items()
            },
            trail=(*self.trail, step),
        )

    def around(self, reduction: Reduction, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A function that computes f on fewer tokens: for the patches reduction.spread(f(reduction.mean(t))).

        f gets the prefix unchanged; dropped patches get 0. The tokens themselves are not reduced.
        """

        def on_fewer(t: Tensor) -> Tensor:  # (B, P + M, c) -> (B, P + M, c)
            size = None if self.size is None else self.size[:, self.prefix :]
            answer = f(torch.cat([t[:, : self.prefix], reduction.mean(t[:, self.prefix :], size)], dim=1))
            return torch.cat([answer[:, : self.prefix], reduction.spread(answer[:, self.prefix :])], dim=1)

        return on_fewer

    def groups(self) -> Tensor:
        """Where every input patch went: (B, rows * columns) int64, an index into axis 1 of `x`, -1 = dropped.

        Example: `tokens.x.gather(1, groups.clamp(min=0)[..., None].expand(-1, -1, D))` un-merges the features.
        """
        device = self.x.device
        groups = torch.arange(self.grid[0] * self.grid[1], device=device).expand(self.x.shape[0], -1)
        for step in self.trail:
            next_groups = step.reduction.groups().expand(groups.shape[0], -1)
            groups = torch.where(groups < 0, groups, next_groups.gather(1, groups.clamp(min=0)))
        return torch.where(groups < 0, groups, groups + self.prefix)

    def unmerge(self, t: Tensor, fill: float = 0.0) -> Tensor:
        """Spread values of the remaining patch tokens to the input grid: (B, M, ...) -> (B, rows * columns, ...)."""
        for step in reversed(self.trail):
            t = step.reduction.spread(t, fill)
        return t


def _updated(states: dict[str, Tensor], new: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: state for name, state in (states | new).items() if state is not None}
