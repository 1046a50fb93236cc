"""What a training forward keeps, counted on tensors that have a shape and no numbers: exact, for any model and batch.

PyTorch's fake tensors take the kernels of the device that they pretend to be on, so that a fused attention keeps here
what it keeps there.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from paretune.core.model import Adapted


def saved_bytes(model: Adapted, images: int) -> int:
    """Bytes of all tensors, weights apart, that autograd saves on a CPU in one training forward of so many images.

    Equals `memory.saved_bytes`, which tells tensors apart by their addresses; those here have none. The model may be on
    the meta device and is left as it was.
    """
    kept, was_training = {}, model.training

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            shadows = {name: _shadow(t) for name, t in chain(model.named_parameters(), model.named_buffers())}
            weights = {t.untyped_storage()._cdata for t in shadows.values()}
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                functional_call(model, shadows, torch.empty(images, *model.preprocessing["input_size"]))
    finally:
        model.train(was_training)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


def _shadow(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device="cpu", requires_grad=t.requires_grad)
