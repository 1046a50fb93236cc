"""Calibration: one temperature by which the logits are divided before they become probabilities.

    p = softmax(z / T)     T minimises the cross-entropy of the validation images; the order of the classes stays

Source: arXiv:1706.04599, section 4.2. The expected calibration error is the mean distance between the probability of
the answer and the share of right answers, over 15 bins of that probability.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

LEAST = 100  # validation images: fewer say too little
BOUNDS = (0.05, 20.0)  # of a temperature
MOST = 10**7  # numbers that are kept to fit it
HALVINGS = 50


class Logits:
    """Collects the logits (n, C) and labels (n,) of at most MOST / C images, evenly spread; `add` watches `score`."""

    def __init__(self, images: int, classes: int):
        self.every, self.seen = max(1, math.ceil(images * classes / MOST)), 0
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """The next batch."""
        chosen = slice(-self.seen % self.every, None, self.every)
        self.logits.append(logits[chosen])
        self.labels.append(labels[chosen])
        self.seen += len(labels)

    def temperature(self) -> float:
        """The one that fits them best."""
        return best_temperature(torch.cat(self.logits), torch.cat(self.labels))

    def errors(self, temperature: float) -> tuple[float, float]:
        """The expected calibration error before and after."""
        found = Errors(self.logits[0].shape[1], temperature)
        for logits, labels in zip(self.logits, self.labels, strict=True):
            found.add(logits, labels)
        return found.value()


class Errors:
    """The expected calibration error without and with a temperature; `add` watches `score`."""

    def __init__(self, classes: int, temperature: float):
        self.before, self.after = (MulticlassCalibrationError(classes, n_bins=15) for _ in range(2))
        self.temperature = temperature

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """The next batch: logits (n, C), labels (n,)."""
        if len(labels):
            self.before.update(logits.softmax(-1), labels)
            self.after.update((logits / self.temperature).softmax(-1), labels)

    def value(self) -> tuple[float, float]:
        """Before and after."""
        return self.before.compute().item(), self.after.compute().item()


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the lowest cross-entropy of logits (n, C) and labels (n,), within BOUNDS.

    The cross-entropy is convex in 1 / T, so its slope is zero at most once: halve the interval around it.
    """
    z = logits.double()
    right = z.gather(1, labels[:, None])[:, 0]
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = ((middle * z).softmax(-1) * z).sum(-1) - right
        low, high = (middle, high) if slope.mean() < 0 else (low, middle)
    return 2 / (low + high)


def told(temperature: float, errors: tuple[float, float]) -> str:
    """One line for people."""
    before, after = (f"{100 * error:.1f}" for error in errors)
    return f"temperature {temperature:.2f}: expected calibration error {before} % without it, {after} % with it"
