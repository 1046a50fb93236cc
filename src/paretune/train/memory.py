"""How much memory will training take? Measured on one image, before the start."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

FLOAT_BYTES = 4
GRADIENT_AND_ADAM = 3  # numbers kept beside each trained one: its gradient and AdamW's two moments


def training_bytes(model: nn.Module, image: torch.Tensor, batch_size: int) -> int:
    """Weights + gradients and optimiser + what the backward pass of a batch keeps; workspace is not included.

    `image` is one normalised image (3, H, W) on the model's device. The activations are counted on a real forward of
    that one image, so fewer tokens and carried states count as what they are.
    """
    weights = sum(t.nbytes for t in chain(model.parameters(), model.buffers()))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return weights + GRADIENT_AND_ADAM * FLOAT_BYTES * trained + batch_size * saved_bytes(model, image[None])


def saved_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """Bytes of all tensors, weights apart, that autograd saves in one training forward of `images` (B, 3, H, W)."""
    weights = {t.untyped_storage().data_ptr() for t in chain(model.parameters(), model.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(images)  # holds the graph, and so every saved tensor's address, until the sum is taken
    total = sum(size for address, size in saved.items() if address not in weights)
    del logits
    return total


def readable(size: float) -> str:
    """2_500_000_000 -> "2.5 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
