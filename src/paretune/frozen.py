"""The tensors that nothing trains: told apart from the others, known by their content, held once in memory.

    load(run 1)   own memory     <-+
    load(run 2)   a lazy clone    -+   equal content, one memory; whoever writes into it gets a copy of its own first
    load(run 3)   a lazy clone    -+

A lazy clone of torch copies on write. So optimizers, `load_state_dict` and any other change in place leave the other
models as they are, and `.to`, `.half` and `merge` make new tensors anyway.
"""

from __future__ import annotations

import hashlib
import weakref

import torch
from torch import Tensor, nn

from paretune.core.target_units import units_of

_LOADED: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()  # the fingerprint of loaded models


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


@torch.no_grad()
def share(model: nn.Module, frozen: dict[str, Tensor], digest: str) -> None:
    """Let the model use the memory of models that were loaded before, for all frozen tensors of equal content.

    frozen: the second part of the model's `split`; digest: its fingerprint. Only models that still exist count, and
    only tensors that still are what they were when they were loaded.
    """
    if not hasattr(torch, "_lazy_clone") or torch.is_inference_mode_enabled():
        return
    missing = sorted(frozen)
    for other in [one for one, known in list(_LOADED.items()) if known == digest and one is not model]:
        theirs = split(other)[1]
        if len(theirs) != len(frozen):
            continue  # somebody trains more of it now
        pairs = dict(zip(sorted(frozen), (tensor for _, tensor in sorted(theirs.items())), strict=True))
        for name in [name for name in missing if _same(pairs[name], frozen[name])]:
            owner, _, own = name.rpartition(".")
            getattr(model.get_submodule(owner), own).data = torch._lazy_clone(pairs[name])
            missing.remove(name)
    _LOADED[model] = digest


def _same(theirs: Tensor, own: Tensor) -> bool:
    """Whether two tensors in main memory are equal bit for bit."""
    alike = theirs.device.type == own.device.type == "cpu" and not theirs.is_inference()
    if not alike or (theirs.dtype, theirs.shape) != (own.dtype, own.shape) or not theirs.is_contiguous():
        return False
    return torch.equal(theirs.reshape(-1).view(torch.uint8), own.reshape(-1).view(torch.uint8))
