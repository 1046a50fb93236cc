"""A Linear whose weights are a few bits each (Jie et al. 2023, arXiv:2307.16867; FPET uses it at 1 bit).

    w~ = (w - mean) / (std + 1e-5)         over the whole matrix, std unbiased
    weight = std * code(w~) + mean         code = the nearest of 2^bits fixed values

Gradients pass `code` unchanged (straight-through) and flow through mean and std.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = (1, 2, 4)


class QuantisedLinear(nn.Module):
    """y = x weight', no bias; the stored float weights (out, in) are seen only through their codes."""

    def __init__(self, inputs: int, outputs: int, bits: int = 1):
        super().__init__()
        self.register_buffer("codes", torch.tensor(codebook(bits)), persistent=False)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return F.linear(x, quantise(self.weight.to(x.dtype), self.codes.to(x.dtype)))


def quantise(weight: Tensor, codes: Tensor) -> Tensor:
    """The weights that a matrix stands for when every entry is one of `codes`, ascending; straight-through gradient."""
    mean, std = weight.mean(), weight.std()
    normal = (weight - mean) / (std + 1e-5)
    nearest = codes[torch.bucketize(normal.detach(), (codes[1:] + codes[:-1]) / 2)]
    return std * (normal + (nearest - normal).detach()) + mean


@lru_cache
def codebook(bits: int) -> tuple[float, ...]:
    """The 2^bits values that lose least of a standard normal in L1, ascending.

    A value is the median of its cell, a cell ends halfway between neighbours; found by repeating the two rules.
    """
    codes = torch.linspace(-1.5, 1.5, 2**bits, dtype=torch.float64)
    for _ in range(2000):
        cell_ends = torch.special.ndtr(F.pad((codes[1:] + codes[:-1]) / 2, (1, 1), value=torch.inf))
        cell_ends[0] = 0.0
        codes = torch.special.ndtri((cell_ends[1:] + cell_ends[:-1]) / 2)
    return tuple(codes.tolist())
