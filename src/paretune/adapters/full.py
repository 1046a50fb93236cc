"""Full fine-tuning: the first baseline in every table of both papers.

            every tensor of the backbone is trained, including position embeddings and norms

ViT-B/16: 85,798,656 parameters without the head (Sparse-Tuning, arXiv:2405.14700, Table I).
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.body import Body
from paretune.core.method import Shape


@dataclass(frozen=True)
class Full:
    """Trains the whole backbone, or some of its blocks."""

    blocks: tuple[int, ...] | None = None
    """0-based blocks to train, without anything outside of them; None = the whole backbone"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return shape.block_problems("Full", self.blocks)

    def attach(self, body: Body) -> None:
        """Unfreeze the backbone, or its blocks."""
        body.unfreeze(self.blocks)
