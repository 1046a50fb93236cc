"""What a training forward pass keeps for its backward pass.

        full    everything that autograd saves
        exact   without norm2, fc1 and GELU: the backward pass computes them again. The gradients are the same
        low     the derivative of the GELU in 8 bits in place of its input, which takes 32. MLPs without a plain GELU
                (SwiGLU) are computed again, as in exact

With frozen linears a block keeps 10, 6 and 7 times the width for each token. fc2 is not computed again: its weight
needs no gradient, so nobody reads its input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from paretune.errors import unknown

Memory = Literal["full", "exact", "low"]
STEPS, ZERO = 200, 27  # a derivative d is kept as round(200 d) + 27: -0.135 to 1.14, with 0 and 1 exact


def known(name: str) -> Memory:
    """The Memory of this name. Raises UsageError if there is none."""
    for memory in get_args(Memory):
        if memory == name:
            return memory
    raise unknown("memory", name, list(get_args(Memory)))


def computed_again(run: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """`run`, which keeps only its input. The backward pass runs it again, with the same random numbers, until it has
    what it needs."""
    return partial(checkpoint, run, use_reentrant=False)


def in_eight_bits(act: nn.Module) -> Callable[[Tensor], Tensor]:
    """A GELU of any kind, with the same output. It keeps one byte for each number; derivatives are within 0.0025."""
    return lambda x: _EightBits.apply(x, act)


class _EightBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, act: nn.Module) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_code(x, act))
        return act(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        (code,), (gradient,) = ctx.saved_tensors, gradients
        return code.to(gradient.dtype).sub_(ZERO).div_(STEPS).mul_(gradient), None


def _code(x: Tensor, act: nn.Module) -> Tensor:
    """The derivatives of `act` at x, as uint8."""
    # Hooks of its own, so that what is kept for a moment is not counted as kept for the backward pass.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
        at = x.detach().float().requires_grad_()
        (derivative,) = torch.autograd.grad(act(at), at, torch.ones_like(at))
    return derivative.mul_(STEPS).add_(ZERO).round_().clamp_(0, 255).to(torch.uint8)


def _same(tensor: Tensor) -> Tensor:
    return tensor
