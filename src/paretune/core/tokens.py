"""The bundle that travels through the trunk: tokens and everything that belongs to a token.

        x        (B, P + M, D)                residual stream: P prefix tokens (CLS, distillation, registers), M patches
        size     (B, P + M) | None            input patches that a token stands for; None = all 1, nothing merged yet;
                                              0 = let go, but still here (Mask)
        rope     (B|1, M, L|1, H|1, d) | None rotary table, a row per patch
        carried  {name: (B, P + M, c)}        states that adapters hand to later blocks
        trail    (Step, ...)                  what has been done to the patches so far

`shrink` is the only place where tokens leave, and everything above leaves alike. Prefix tokens stay in front, always:
no reduction ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from paretune.core.reduction import Mask, Reduction

Place = Literal["before", "middle"]


class Step(NamedTuple):
    """One reduction of the patches: before block `block`, or in its middle, between attention and MLP."""

    block: int
    reduction: Reduction
    place: Place


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of token sequences, see above. `grid` is the patch grid (rows, columns) before any reduction;
    `readers` of the `prefix` tokens summarise the image (1 = CLS, 2 with a distillation token, 0 = none)."""

    x: Tensor
    prefix: int
    readers: int
    grid: tuple[int, int]
    size: Tensor | None = None
    rope: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)
    trail: tuple[Step, ...] = ()

    @property
    def patches(self) -> int:
        """Patch tokens now, M."""
        return self.x.shape[1] - self.prefix

    @property
    def masked(self) -> bool:
        """Whether patches that were let go are still here, with size 0."""
        return any(isinstance(step.reduction, Mask) for step in self.trail)

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with other features (B, P + M, D)."""
        return replace(self, x=x)

    def carry(self, states: dict[str, Tensor | None]) -> Tokens:
        """Hand states (B, P + M, c) to later blocks; None takes a state back."""
        carried = {name: state for name, state in (self.carried | states).items() if state is not None}
        return replace(self, carried=carried)

    def shrink(self, block: int, reduction: Reduction, place: Place = "middle") -> Tokens:
        """Let patches leave or merge as `reduction` says: features, sizes, RoPE and carried states, all alike."""
        size = self.size if self.size is not None else torch.ones(self.x.shape[:2], device=self.x.device)
        prefix_size, patch_size = size.split([self.prefix, self.patches], dim=1)

        def mean(t: Tensor) -> Tensor:
            prefix, patches = t.split([self.prefix, self.patches], dim=1)
            return torch.cat([prefix, reduction.mean(patches, patch_size)], dim=1)

        return replace(
            self,
            x=mean(self.x),
            size=torch.cat([prefix_size, reduction.sum(patch_size)], dim=1),
            rope=None if self.rope is None else reduction.pick(self.rope),
            carried={name: mean(state) for name, state in self.carried.items()},
            trail=(*self.trail, Step(block, reduction, place)),
        )

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
        """Values of the patch tokens left, back on the input grid: (B, M, ...) -> (B, rows * columns, ...)."""
        for step in reversed(self.trail):
            t = step.reduction.spread(t, fill)
        return t
