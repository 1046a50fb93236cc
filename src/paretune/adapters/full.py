"""Full fine-tuning: the baseline that every table of both papers starts with.

            every tensor of the backbone trains, position embeddings and norms included

ViT-B/16: 85,798,656 parameters without the head (Sparse-Tuning, arXiv:2405.14700, Table I).
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.body import Body
from paretune.core.method import Shape


@dataclass(frozen=True)
class Full:
    """The whole backbone trains."""

    def problems(self, shape: Shape) -> list[str]:
        """Nothing can be wrong."""
        return []

    def attach(self, body: Body) -> None:
        """Unfreeze the backbone."""
        body.unfreeze()
