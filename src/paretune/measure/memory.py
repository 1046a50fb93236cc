"""The memory of a forward pass or a training step, measured with autograd's hooks and with CUDA's allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn


def saved_bytes(model: nn.Module, *batch: torch.Tensor) -> int:
    """Bytes of all tensors except weights that autograd saves in one training forward pass, `model(*batch)`: images
    (B, 3, H, W), and labels if the model takes them."""
    model.train()
    return saved_by(lambda: model(*batch), chain(model.parameters(), model.buffers()))


def saved_by(run: Callable[[], Any], weights: Iterable[torch.Tensor]) -> int:
    """Bytes of all storages except those of `weights` that autograd saves while `run` runs."""
    with Saved(weights) as saved:
        run()
    return saved.bytes()


class Saved:
    """The storages except those of `weights` that autograd saves inside of the `with`."""

    def __init__(self, weights: Iterable[torch.Tensor]):
        self.own = {t.untyped_storage()._cdata for t in weights}
        # Storages are told apart by themselves, as fake tensors have no addresses.
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own:
            self.storages[storage._cdata] = storage
        return tensor.detach()  # an output that is kept as it is would keep its own graph alive, and the model with it

    def __enter__(self) -> Saved:
        self.hooks.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self.hooks.__exit__(*failure)

    def bytes(self) -> int:
        """Bytes of what has been saved so far."""
        return sum(storage.nbytes() for storage in self.storages.values())


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.nbytes for t in chain(model.parameters(), model.buffers()))


def cuda_peak(run: Callable[[], Any], device: torch.device) -> int | None:
    """The peak growth of CUDA's allocator in bytes while `run` runs; None on other devices."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
