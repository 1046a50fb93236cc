"""The tensors that nothing trains: told apart from the others, and known by their content."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from paretune.core.target_units import units_of


def split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two dicts {name: tensor}: the tensors that training sets, and all others.

    The tensors are detached but still the model's own: they show what is loaded into it later. A tensor with several
    names is listed under the first one.
    """
    tensors = model.state_dict(keep_vars=True)
    measured = {id(tensor) for units in units_of(model) for tensor in units.buffers()}
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    trained, frozen = {}, {}
    for name, tensor in tensors.items():
        if first[id(tensor)] == name:
            part = trained if tensor.requires_grad or id(tensor) in measured else frozen
            part[name] = tensor.detach()
    return trained, frozen


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are written to a file: on the CPU and contiguous."""
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def fingerprint(frozen: dict[str, Tensor]) -> str:
    """SHA-256 of the types, shapes and values of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(frozen.items()):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        # A copy, because numpy could write into what it is given, which would end the sharing.
        digest.update(tensor.cpu().clone().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
