"""Everything that an adapter may do to a model: put leaves on linears, add branches, unfreeze.

An adapter never sees timm, the reducers, its siblings or the block loop; it sees this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from paretune.core import anatomy
from paretune.core.leaf import Leaf, Leafed, bare
from paretune.core.method import Branch
from paretune.errors import unknown


class Body:
    """The model as an adapter meets it while the model is built."""

    def __init__(self, backbone: nn.Module, branches: nn.ModuleList):
        self._backbone, self._branches = backbone, branches
        self.shape = anatomy.shape(backbone)
        weight = backbone.patch_embed.proj.weight
        self._like = {"device": weight.device, "dtype": weight.dtype}

    def linears(self, at: str) -> Iterator[tuple[nn.Linear, dict[str, tuple[int, int] | None], Callable[[Leaf], None]]]:
        """Every Linear of every block that holds one of the logical parts named in `at`, e.g. "q v".

        Yields (linear, parts, put): the Linear below all leaves; each asked name with its output rows, None for all;
        `put(leaf)` sets a leaf on it. A fused qkv comes once, with several parts. Raises UsageError for an unknown
        name.
        """
        asked = at.split()
        for name in asked:
            if name not in self.shape.places:
                raise unknown("place for leaves", name, list(self.shape.places))
        for block in self._backbone.blocks:
            for spot in anatomy.linears(block):
                if parts := {name: rows for name, rows in spot.parts.items() if name in asked}:
                    yield bare(getattr(spot.owner, spot.attribute)), parts, self._putter(spot)

    def branch(self, branch: Branch) -> None:
        """Add a branch to the trunk."""
        self._branches.append(branch.to(**self._like))

    def unfreeze(self) -> None:
        """Let the whole backbone train."""
        self._backbone.requires_grad_(True)

    def fresh(self, name: str) -> str:
        """A name for carried states that no other branch of this model uses."""
        return f"{name}{len(self._branches)}"

    def _putter(self, spot: anatomy.Linears) -> Callable[[Leaf], None]:
        def put(leaf: Leaf) -> None:
            setattr(spot.owner, spot.attribute, Leafed(getattr(spot.owner, spot.attribute), leaf.to(**self._like)))

        return put
