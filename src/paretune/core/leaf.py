"""Leaves: trained modules that re-parametrise one affine layer of the backbone and can be folded into that layer.

        before   blocks.3.attn.qkv = Linear            after   blocks.3.attn.qkv = Leafed(layer=Linear, leaf=...)

    law:  leaf(layer, x) == layer'(x)   where layer' has the weights  leaf.fold(W, b)

The trunk calls `attn.qkv(x)` in both cases. Because of the law, merging is generic and exact. The layer may be any
affine layer: a Linear, a convolution, a norm with a weight.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from paretune.core.method import Foreign, Method


class Leaf(Method, ABC):
    """A trained re-parametrisation of one affine layer (Linear, Conv2d, LayerNorm)."""

    @abstractmethod
    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The output of the layer with this leaf on it."""

    @abstractmethod
    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight and bias of a plain layer that computes the same in evaluation."""


class Leafed(nn.Module):
    """A layer with a leaf on it. The layer may itself be Leafed: the outer leaf then treats it as its layer."""

    def __init__(self, layer: nn.Module, leaf: Leaf):
        super().__init__()
        self.layer, self.leaf = layer, leaf

    def forward(self, x: Tensor) -> Tensor:
        return self.leaf(self.layer, x)


def bare(module: nn.Module) -> Foreign:
    """The layer below all leaves."""
    return bare(module.layer) if isinstance(module, Leafed) else module


class Biased(nn.Module):
    """A layer that has no bias of its own, together with a bias that folding gave it.

    The bias stays outside of the layer, because a backbone may keep the layer's bias elsewhere, as timm's EVA does: it
    reads only the weight of the layer and would ignore a bias in it.
    """

    def __init__(self, layer: nn.Module, bias: nn.Parameter):
        super().__init__()
        self.layer, self.bias = layer, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.bias


@torch.no_grad()
def folded(module: nn.Module) -> nn.Module:
    """The plain layer that computes what `module` computes in evaluation. A layer without a leaf is returned unchanged.

    Folding runs in float64, so that stacked leaves are rounded only once, to the layer's own dtype. If folding gives a
    bias to a layer that has none, a Biased layer is returned.
    """
    if not isinstance(module, Leafed):
        return module
    layer = copy.deepcopy(bare(module))
    weight, bias = (None if t is None else _frozen(t.to(layer.weight.dtype)) for t in _fold(module))
    layer.weight = weight
    if getattr(layer, "bias", None) is not None:
        layer.bias = bias
        return layer
    return layer if bias is None else Biased(layer, bias)


def _fold(module: Foreign) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in float64 of the plain layer that computes what `module` computes."""
    if isinstance(module, Leafed):
        return copy.deepcopy(module.leaf).double().fold(*_fold(module.layer))
    bias = getattr(module, "bias", None)  # an RMSNorm has no bias
    return module.weight.double(), None if bias is None else bias.double()


def fold_all(root: nn.Module) -> None:
    """Replace every Leafed layer below `root` by its folded layer, in place."""
    for name, child in root.named_children():
        if isinstance(child, Leafed):
            setattr(root, name, folded(child))
        else:
            fold_all(child)


def _frozen(t: Tensor) -> nn.Parameter:
    return nn.Parameter(t, requires_grad=False)
