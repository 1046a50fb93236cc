"""What a forward or a training step needs: bytes counted with autograd's own hooks, and CUDA's allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn


def saved_bytes(model: nn.Module, *batch: torch.Tensor) -> int:
    """Bytes of all tensors, weights apart, that autograd saves in one training forward: `model(*batch)`, images (B, 3,
    H, W), and labels if the model takes them."""
    model.train()
    return saved_by(lambda: model(*batch), chain(model.parameters(), model.buffers()))


def saved_by(run: Callable[[], Any], weights: Iterable[torch.Tensor]) -> int:
    """Bytes of all storages, those of `weights` apart, that autograd saves while `run` runs."""
    saved: dict[int, torch.UntypedStorage] = {}  # told apart by themselves, as fake tensors have no addresses

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor.detach()  # an output that is kept as it is would keep its own graph alive, and the model with it

    own = {t.untyped_storage()._cdata for t in weights}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for key, storage in saved.items() if key not in own)


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.nbytes for t in chain(model.parameters(), model.buffers()))


def cuda_peak(run: Callable[[], Any], device: torch.device) -> int | None:
    """By how many bytes CUDA's allocator rises at most while `run` runs; None on other devices."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
