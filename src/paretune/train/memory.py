"""Estimate the memory of training before the start, measured on one image."""

from __future__ import annotations

import torch
from torch import nn

from paretune.measure.memory import saved_bytes, tensor_bytes

FLOAT_BYTES = 4
GRADIENT_AND_ADAM = 3  # numbers kept beside each trained one: its gradient and AdamW's two moments


def training_bytes(model: nn.Module, image: torch.Tensor, batch_size: int) -> int:
    """Bytes of weights, gradients, optimiser states and activations for the backward pass; without workspace.

    `image` is one normalised image (3, H, W) on the model's device. The activations are measured in a real forward pass
    of this image, so token reduction and carried states are included.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = GRADIENT_AND_ADAM * FLOAT_BYTES * trained
    return tensor_bytes(model) + kept + batch_size * saved_bytes(model, image[None])


def readable(size: float) -> str:
    """2_500_000_000 -> "2.5 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
