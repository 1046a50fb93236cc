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
from paretune.measure.memory import saved_by


def saved_bytes(model: Adapted, images: int) -> int:
    """Bytes of all tensors, weights apart, that autograd saves on a CPU in one training forward of so many images.

    Equals `memory.saved_bytes`, which needs the numbers too. The model may be on the meta device and is left as it was.
    """
    was_training = model.training
    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            shadows = {name: _shadow(t) for name, t in chain(model.named_parameters(), model.named_buffers())}
            batch = torch.empty(images, *model.preprocessing["input_size"])
            return saved_by(lambda: functional_call(model, shadows, batch), shadows.values())
    finally:
        model.train(was_training)


def _shadow(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device="cpu", requires_grad=t.requires_grad)
