"""Modules that are stored in fewer bits than they are trained in, and how all of a model's are laid out in a file.

    codes    uint8     | down 011010... | up 10110... | down ...      every module begins at a whole byte
    scales   float32   | down mean std  | up mean std | down ...

All packed modules share two tensors, in the order of the modules. A name for each would take more bytes than its
scales.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODES, SCALES = "packed.codes", "packed.scales"


class Packed(nn.Module, ABC):
    """A module that is stored as codes of a few bits and two float32 scales. They determine what it computes."""

    @abstractmethod
    def layout(self) -> dict:
        """The layout of what `pack` writes, {"bits", "shape"}, as JSON values.

        Modules of the same layout can read each other's codes and scales.
        """

    @abstractmethod
    def pack(self) -> tuple[Tensor, Tensor]:
        """Codes (bytes,) uint8 and scales (floats,) float32."""

    @abstractmethod
    def unpack(self, codes: Tensor, scales: Tensor) -> None:
        """Load what `pack` wrote. The outputs are the same bit for bit, and the module can be trained as before."""


def trained(model: nn.Module) -> dict[str, Packed]:
    """The trainable packed modules of a model, by name, in order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Packed) and all(p.requires_grad for p in module.parameters())
    }


def pack_all(modules: dict[str, Packed]) -> dict[str, Tensor]:
    """The modules as two tensors on the CPU; none if there are no modules."""
    parts = [module.pack() for module in modules.values()]
    if not parts:
        return {}
    codes, scales = ([part[i] for part in parts] for i in (0, 1))
    return {CODES: torch.cat(codes).cpu(), SCALES: torch.cat(scales).cpu()}


def lengths(layout: dict) -> tuple[int, int]:
    """The number of code bytes and of scales (floats) of a module of this layout."""
    return -(-math.prod(layout["shape"]) * layout["bits"] // 8), 2


def shapes(modules: dict[str, Packed]) -> dict[str, Tensor]:
    """The result of `pack_all` as tensors on the meta device, with shapes and types but no values. Packs nothing."""
    if not modules:
        return {}
    codes, scales = (sum(n) for n in zip(*(lengths(module.layout()) for module in modules.values()), strict=True))
    return {
        CODES: torch.empty(codes, dtype=torch.uint8, device="meta"),
        SCALES: torch.empty(scales, dtype=torch.float32, device="meta"),
    }


def unpack_all(modules: dict[str, Packed], tensors: dict[str, Tensor]) -> None:
    """Load into the modules what `pack_all` made from modules of the same layouts."""
    code = scale = 0
    for module in modules.values():
        codes, scales = lengths(module.layout())
        module.unpack(tensors[CODES][code : code + codes], tensors[SCALES][scale : scale + scales])
        code, scale = code + codes, scale + scales


def to_bytes(numbers: Tensor, bits: int) -> Tensor:
    """Pack numbers (n,) below 2^bits into bytes, (ceil(n bits / 8),) uint8; bits: 1, 2, 4 or 8.

    The first number is in the lowest bits; the last byte is padded with zeros.
    """
    per_byte = 8 // bits
    rows = F.pad(numbers, (0, -len(numbers) % per_byte)).view(-1, per_byte)
    return (rows << _shifts(bits, numbers.device)).sum(1).to(torch.uint8)


def from_bytes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Unpack what `to_bytes` packed: `count` numbers, (count,) int64."""
    rows = (packed.long()[:, None] >> _shifts(bits, packed.device)) & (2**bits - 1)
    return rows.flatten()[:count]


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, device=device)
