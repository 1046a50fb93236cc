"""A head that answers in the targets' own units, while what trains works on numbers around zero.

    features ── head ──> z  (mean 0, deviation 1)  ── z * deviation + mean ──> years, metres, degrees...

AdamW moves every weight by about the learning rate, whatever the unit: a head that had to grow to prices in thousands,
or to fractions of a millimetre, would train a thousand times too slowly or too wildly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paretune.core.leaf import Leaf


class Units(Leaf):
    """Mean and deviation of C target numbers; 0 and 1 until training measures them. They are saved, but never trained.

    A leaf on the head, so that merging folds it into the head's weight and bias like any other.
    """

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))

    @property
    def measured(self) -> bool:
        """Whether they were set to anything but 0 and 1."""
        return bool((self.mean != 0).any() or (self.deviation != 1).any())

    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Answer in units of this mean and deviation, both (C,)."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x) * self.deviation + self.mean

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        shift = self.mean if bias is None else bias * self.deviation + self.mean
        return weight * self.deviation[:, None], shift


def units_of(model: nn.Module) -> list[Units]:
    """The units of every head of a model: one, two where it has a distillation head, none where it does not regress."""
    return [module for module in model.modules() if isinstance(module, Units)]
