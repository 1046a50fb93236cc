"""Mixup and cutmix: a training image and its class become a mixture of two, by timm's own code.

    mixup    x = m x_i + (1 - m) x_j                       m ~ Beta(a, a), one for a batch
    cutmix   x = x_i with a rectangle of x_j, of area 1 - m     y = m y_i + (1 - m) y_j  in both

Sources: arXiv:1710.09412 (mixup), arXiv:1905.04899 (cutmix).
"""

from __future__ import annotations

import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from paretune.catalogue import Schedule


class Mixing:
    """(images (B, 3, H, W), class indices (B,)) -> mixed images, and the share of every class in them (B, classes).

    If the schedule has both, every batch takes one of them, each half of the time. The first image is mixed with the
    last one, the second with the last but one; the one in the middle of an odd batch stays as it is. Random numbers
    come from numpy's global generator, which training seeds at the start of every epoch.
    """

    def __init__(self, schedule: Schedule, classes: int):
        self.classes = classes
        self.mixed = Mixup(schedule.mixup, schedule.cutmix, label_smoothing=0.0, num_classes=classes)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        half = len(labels) // 2
        pairs = torch.tensor([*range(half), *range(len(labels) - half, len(labels))], device=labels.device)
        images, shares = images.clone(), mixup_target(labels, self.classes)
        if half:
            images[pairs], shares[pairs] = self.mixed(images[pairs], labels[pairs])
        return images, shares


def mixing(schedule: Schedule, classes: int) -> Mixing | None:
    """What the schedule asks for; None without mixup and cutmix."""
    return Mixing(schedule, classes) if schedule.mixup or schedule.cutmix else None
