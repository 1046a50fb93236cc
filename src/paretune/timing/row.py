"""The measurements of one contestant at one batch size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from paretune.measure.cost import Cost
from paretune.timing.rounds import Times


@dataclass(frozen=True)
class Memory:
    """Bytes, None where not measured.

    saved_bytes: what autograd keeps for the backward pass of a batch, weights apart; saved_ratio: to the baseline's
    peak_rss: by how much one training step (one forward, if nothing was trained) raises the resident memory of a
        process of its own: images, activations, gradients, AdamW, workspace, not weights
    cuda_peak_forward, cuda_peak_step: the allocator's peak as if this contestant had the device alone, weights included
    """

    saved_bytes: int | None = None
    saved_ratio: float | None = None
    peak_rss: int | None = None
    cuda_peak_forward: int | None = None
    cuda_peak_step: int | None = None


@dataclass(frozen=True)
class Row:
    """The measurements of one contestant at one batch size.

    settings: adapters and reducer as JSON, None for timm; macs_ratio: its MACs to the baseline's
    forward, step: times of a batch, None where not measured; wall_per_macs: ratio of the forward / macs_ratio: 1 = all
        that is saved in arithmetic is saved in time, above 1 = less is
    compile_seconds: the first calls, in which torch.compile works; error: what it raised
    """

    recipe: str
    batch: int
    settings: dict | None
    cost: Cost
    macs_ratio: float | None
    forward: Times | None
    wall_per_macs: float | None
    step: Times | None
    memory: Memory
    compile_seconds: float | None
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"cost": self.cost.to_dict()}
