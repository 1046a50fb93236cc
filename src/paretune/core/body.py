"""Everything that an adapter may do to a model: put leaves on layers, add branches, unfreeze parameters.

An adapter works only through this interface. It does not use timm, the reducers, other adapters or the block loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from paretune.core import anatomy
from paretune.core.layers import Layer, layers
from paretune.core.leaf import Leaf, Leafed
from paretune.core.method import Branch, Foreign, Kind, Settings
from paretune.errors import unknown


@dataclass(frozen=True)
class Spot:
    """A layer that an adapter asked for, and how to put a leaf on it.

    block: 0-based, None outside of the blocks; kind: the kind of the layer; layer: the module below all leaves
    parts: each requested name with its output rows, None = all rows; a fused qkv is one Spot with several parts
    put: puts a leaf on the layer
    """

    block: int | None
    kind: Kind
    layer: Foreign
    parts: dict[str, tuple[int, int] | None]
    put: Callable[[Leaf], None]


class Body:
    """The model as adapters see it while the model is built."""

    def __init__(self, backbone: Foreign, branches: nn.ModuleList):
        self._backbone, self._branches = backbone, branches
        self.shape = anatomy.shape(backbone)
        weight = layers(backbone)[0].module.weight
        self._like = {"device": weight.device, "dtype": weight.dtype}

    def layers(self, at: str, blocks: Collection[int] | None = None) -> Iterator[Spot]:
        """Every layer that has one of the places named in `at`, e.g. "q v norm1", in the order of the forward pass.

        blocks: 0-based blocks, None = all; layers outside of the blocks are included if `at` names them. Raises
        UsageError for an unknown name.
        """
        asked = at.split()
        for name in asked:
            if name not in self.shape.layers:
                raise unknown("place for leaves", name, list(self.shape.layers))
        for layer in layers(self._backbone):
            parts = {name: rows for name, rows in layer.parts.items() if name in asked}
            if parts and (blocks is None or layer.block is None or layer.block in blocks):
                yield Spot(layer.block, layer.kind, layer.module, parts, self._putter(layer))

    def branch(self, branch: Branch) -> None:
        """Add a branch to the trunk."""
        self._branches.append(branch.to(**self._like))

    def unfreeze(self, blocks: Collection[int] | None = None) -> None:
        """Make the whole backbone trainable, or some of its blocks."""
        for module in [self._backbone] if blocks is None else [self._backbone.blocks[block] for block in blocks]:
            module.requires_grad_(True)

    def fresh(self, name: str) -> str:
        """A name for carried states or prompts that no other branch of this model uses."""
        return f"{name}{len(self._branches)}"

    def _putter(self, layer: Layer) -> Callable[[Leaf], None]:
        def put(leaf: Leaf) -> None:
            setattr(layer.owner, layer.attribute, Leafed(getattr(layer.owner, layer.attribute), leaf.to(**self._like)))

        return put


class AdapterSettings(Settings, Protocol):
    """The settings of an adapter."""

    def attach(self, body: Body) -> None:
        """Put leaves on layers of the model, add branches, unfreeze."""
        ...
