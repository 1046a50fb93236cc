"""Modules that are stored in fewer bits than they train in, and how those of a whole model are laid out.

    codes    uint8     | down 011010... | up 10110... | down ...      every module begins at a whole byte
    scales   float32   | down mean std  | up mean std | down ...

All of them share two tensors, in the order of the modules: a name for each would weigh more than its scales.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODES, SCALES = "packed.codes", "packed.scales"


class Packed(nn.Module, ABC):
    """A module that is stored as codes of a few bits and two float32 scales, which hold all that it computes with."""

    @abstractmethod
    def layout(self) -> dict:
        """What `pack` writes, {"bits", "shape"}, as JSON values; two modules of one layout can read each other's."""

    @abstractmethod
    def pack(self) -> tuple[Tensor, Tensor]:
        """Codes (bytes,) uint8 and scales (floats,) float32."""

    @abstractmethod
    def unpack(self, codes: Tensor, scales: Tensor) -> None:
        """Take over what `pack` wrote: the same outputs bit for bit, and trainable as before."""


def trained(model: nn.Module) -> dict[str, Packed]:
    """The packed modules of a model that train, by name, in order."""
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
    """How many codes (bytes) and scales (floats) a module of this layout is stored as."""
    return -(-math.prod(layout["shape"]) * layout["bits"] // 8), 2


def shapes(modules: dict[str, Packed]) -> dict[str, Tensor]:
    """What `pack_all` would answer, without numbers: tensors on the meta device. Nothing is packed to learn it."""
    if not modules:
        return {}
    codes, scales = (sum(n) for n in zip(*(lengths(module.layout()) for module in modules.values()), strict=True))
    return {
        CODES: torch.empty(codes, dtype=torch.uint8, device="meta"),
        SCALES: torch.empty(scales, dtype=torch.float32, device="meta"),
    }


def unpack_all(modules: dict[str, Packed], tensors: dict[str, Tensor]) -> None:
    """Fill the modules with what `pack_all` made of modules of the same layouts."""
    code = scale = 0
    for module in modules.values():
        codes, scales = lengths(module.layout())
        module.unpack(tensors[CODES][code : code + codes], tensors[SCALES][scale : scale + scales])
        code, scale = code + codes, scale + scales


def to_bytes(numbers: Tensor, bits: int) -> Tensor:
    """Numbers below 2^bits, (n,), `bits` being 1, 2, 4 or 8 -> (ceil(n bits / 8),) uint8; the first in the lowest bits,
    the last byte filled up with zeros."""
    per_byte = 8 // bits
    rows = F.pad(numbers, (0, -len(numbers) % per_byte)).view(-1, per_byte)
    return (rows << _shifts(bits, numbers.device)).sum(1).to(torch.uint8)


def from_bytes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` numbers, (count,) int64, that `to_bytes` packed."""
    rows = (packed.long()[:, None] >> _shifts(bits, packed.device)) & (2**bits - 1)
    return rows.flatten()[:count]


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, device=device)
