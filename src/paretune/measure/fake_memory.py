"""The memory that a training forward pass keeps, counted exactly on tensors without values, for any model and batch.

PyTorch's fake tensors use the kernels of the device that they stand for, so a fused attention saves the same tensors as
on the real device.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from paretune.core.attention import Look
from paretune.core.method import Part
from paretune.core.model import Adapted
from paretune.core.tokens import Tokens
from paretune.measure.counting import Place, Runner
from paretune.measure.memory import Saved


def saved_bytes(model: Adapted, images: int) -> int:
    """Bytes of all tensors except weights that autograd saves on a CPU in one training forward pass of a batch.

    The result equals `memory.saved_bytes`, which really computes. The model may be on the meta device; it is not
    changed.
    """
    return saved_parts(model, images).total()


def saved_parts(model: Adapted, images: int) -> Counter[Place]:
    """`saved_bytes` by the part of the forward that saves them; a tensor that several parts save belongs to the
    first."""
    parts: Counter[Place] = Counter()

    def watch(part: Part, block: int, tokens: Tokens, look: Look | None = None) -> None:
        parts[Place(None if part in ("embed", "head") else block, part)] += saved.bytes() - parts.total()

    was_training = model.training
    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            shadows = {name: _shadow(t) for name, t in chain(model.named_parameters(), model.named_buffers())}
            batch = torch.empty(images, *model.preprocessing["input_size"])
            with Saved(shadows.values()) as saved:
                functional_call(Runner(model, True, watch), {f"model.{name}": t for name, t in shadows.items()}, batch)
    finally:
        model.train(was_training)
    return +parts


def _shadow(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device="cpu", requires_grad=t.requires_grad)
