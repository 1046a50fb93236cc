"""A Linear whose weights have a few bits each (Jie et al. 2023, arXiv:2307.16867; FPET uses 1 bit).

    w~ = (w - mean) / (std + 1e-5)         over the whole matrix, std unbiased
    weight = std * code(w~) + mean         code = the nearest of 2^bits fixed values

Gradients pass `code` unchanged (straight-through) and flow through mean and std. A file stores the index of every code,
mean and std: (out in bits) / 8 + 8 bytes. They determine what the layer computes, but not w. After loading, training
continues from another w that gives the same codes, mean and std.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.packed import Packed, from_bytes, to_bytes

BITS = (1, 2, 4, 8)
EPSILON = 1e-5
WITHOUT_FLOAT64 = ("mps",)


class QuantisedLinear(Packed):
    """y = x weight', no bias. The float weights w (out, in) are trained; the layer computes with their codes."""

    def __init__(self, inputs: int, outputs: int, bits: int = 1):
        super().__init__()
        self.bits = bits
        self.register_buffer("codes", torch.tensor(codebook(bits)), persistent=False)
        # The rounding error between mean and std of w and the stored ones, as the sum of two rows; 0 until `unpack`.
        self.register_buffer("remainder", torch.zeros(2, 2), persistent=False)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return F.linear(x, self.quantised().to(x.dtype))

    def quantised(self) -> Tensor:
        """The weights that the layer computes with, (out, in), in float32 or wider."""
        return quantise(self.weight, self.codes, self.remainder)

    def layout(self) -> dict:
        return {"bits": self.bits, "shape": list(self.weight.shape)}

    @torch.no_grad()
    def pack(self) -> tuple[Tensor, Tensor]:
        mean_std = moments(self.weight, self.remainder).float()
        return to_bytes(nearest(self.weight, self.codes, mean_std).flatten(), self.bits), mean_std

    @torch.no_grad()
    def unpack(self, codes: Tensor, scales: Tensor) -> None:
        numbers = from_bytes(codes, self.bits, self.weight.numel()).view(self.weight.shape)
        mean, std = scales.double()
        normal = within_cells(numbers, torch.tensor(codebook(self.bits)).double(), std / (std + EPSILON))
        self.weight.copy_((mean + (std + EPSILON) * normal).to(self.weight.dtype))
        remainder = scales.double() - moments(self.weight.cpu())
        self.remainder.copy_(torch.stack([remainder.float(), (remainder - remainder.float()).float()]))


def quantise(weight: Tensor, codes: Tensor, remainder: Tensor | None = None) -> Tensor:
    """The quantised weights: every entry of `weight` is replaced by one of `codes` (ascending), with a
    straight-through gradient.

    `remainder` is added to mean and std. The value depends only on the chosen codes, mean and std, to the last bit.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    mean_std = moments(weight, remainder).to(weight.dtype)
    chosen = codes.to(weight.dtype)[nearest(weight, codes, mean_std)]
    mean, std = mean_std
    normal = (weight - mean) / (std + EPSILON)
    return std * (chosen + (normal - normal.detach())) + mean


def moments(weight: Tensor, remainder: Tensor | None = None) -> Tensor:
    """Mean and unbiased standard deviation (2,), plus the rows of a remainder (n, 2).

    Computed in float64 if the device has it, so that the order of summation, which depends on threads, does not change
    the result in float32.
    """
    wide = weight.float() if weight.device.type in WITHOUT_FLOAT64 else weight.double()
    found = torch.stack([wide.mean(), wide.std()])
    return found if remainder is None else found + remainder.to(found.dtype).sum(0)


@torch.no_grad()
def nearest(weight: Tensor, codes: Tensor, mean_std: Tensor) -> Tensor:
    """The index of the code nearest to every normalised weight.

    Always computed in float32, so that a wider copy of the weights, as in folding, has the same codes.
    """
    codes, (mean, std) = codes.float(), mean_std.float()
    return torch.bucketize((weight.float() - mean) / (std + EPSILON), (codes[1:] + codes[:-1]) / 2)


def within_cells(numbers: Tensor, codes: Tensor, std: Tensor) -> Tensor:
    """Normalised weights that round to the codes with these indices and have, as nearly as possible, mean 0 and `std`.

    The codes themselves have another mean and std. So the values are shifted and scaled, and then moved back into the
    inner half of their cells, several times.
    """
    quarter = F.pad(codes.diff() / 4, (1, 1), value=torch.inf)
    low, high = (codes - quarter[:-1])[numbers], (codes + quarter[1:])[numbers]
    normal = codes[numbers]
    for _ in range(20):
        normal = (normal - normal.mean()) / normal.std().clamp(min=1e-9) * std
        normal = normal.clamp(low, high)
    return normal


@lru_cache
def codebook(bits: int) -> tuple[float, ...]:
    """The 2^bits values with the smallest L1 quantisation error for a standard normal, ascending.

    Each value is the median of its cell, and cells end halfway between neighbouring values. Newton's method solves for
    the values below zero. It starts from values with the density of the square root of the normal density, the right
    limit for many values.
    """
    half = 2 ** (bits - 1)
    ranks = torch.arange(half, dtype=torch.float64, device="cpu") + 0.5
    codes = 2**0.5 * torch.special.ndtri(ranks / (2 * half))
    for _ in range(8):
        ends = (codes[1:] + codes[:-1]) / 2
        mass = F.pad(F.pad(torch.special.ndtr(ends), (1, 0)), (0, 1), value=0.5)
        medians = torch.special.ndtri((mass[1:] + mass[:-1]) / 2)
        pull = F.pad(_density(ends), (1, 1)) / 4  # of a neighbour, through the end between them
        slope = torch.diag(pull[1:] + pull[:-1]) + torch.diag(pull[1:-1], 1) + torch.diag(pull[1:-1], -1)
        slope /= _density(medians)[:, None]
        codes = codes - torch.linalg.solve(torch.eye(half, dtype=torch.float64, device="cpu") - slope, codes - medians)
    return (*codes.tolist(), *(-codes.flip(0)).tolist())


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5


def linear(inputs: int, outputs: int, bits: int, bias: bool = False) -> nn.Linear | QuantisedLinear:
    """A projection with `bits` bits per weight; 0 = float weights. Only float weights can have a bias."""
    return QuantisedLinear(inputs, outputs, bits) if bits else nn.Linear(inputs, outputs, bias=bias)


def weight_of(projection: nn.Linear | QuantisedLinear) -> Tensor:
    """The weights that a projection computes with, (out, in)."""
    return projection.quantised() if isinstance(projection, QuantisedLinear) else projection.weight


def fold_all(root: nn.Module) -> None:
    """Replace every QuantisedLinear below `root` by a ConstantLinear with the same weights, in place."""
    for name, child in root.named_children():
        if isinstance(child, QuantisedLinear):
            setattr(root, name, ConstantLinear(child.quantised().detach()))
        else:
            fold_all(child)


class ConstantLinear(nn.Module):
    """y = x weight', with fixed weights (out, in) of any type."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def start_(projection: nn.Linear | QuantisedLinear) -> None:
    """Initialise a projection with zeros, or near zero if it is quantised: the quantiser divides by the std."""
    if isinstance(projection, QuantisedLinear):
        nn.init.trunc_normal_(projection.weight, std=1e-3, a=-2e-3, b=2e-3)
    else:
        nn.init.zeros_(projection.weight)
