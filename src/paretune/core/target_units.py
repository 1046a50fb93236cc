"""A regression head that is trained on standardised numbers and returns numbers in the units of the targets.

    features ── head ──> z  (mean 0, deviation 1)  ── z * deviation + mean ──> years, metres, degrees...

AdamW changes every weight by about the learning rate, whatever the unit of the targets. Without this scaling, a head
for prices in thousands would train far too slowly, and one for fractions of a millimetre with far too large steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paretune.core.leaf import Leaf


class Units(Leaf):
    """Mean and deviation of C target numbers: 0 and 1 until training measures them. They are saved, but not trained.

    This is a leaf on the head, so merging folds it into the head's weight and bias like any other leaf.
    """

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))

    @property
    def measured(self) -> bool:
        """Whether mean and deviation were set, to anything but 0 and 1."""
        return bool((self.mean != 0).any() or (self.deviation != 1).any())

    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and deviation, both (C,)."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x) * self.deviation + self.mean

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        shift = self.mean if bias is None else bias * self.deviation + self.mean
        return weight * self.deviation[:, None], shift


def units_of(model: nn.Module) -> list[Units]:
    """The Units of a model's heads: one per head (two with a distillation head), none if the task is no regression."""
    return [module for module in model.modules() if isinstance(module, Units)]
