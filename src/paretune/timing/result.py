"""The result of a benchmark: as values, as JSON, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions

from paretune.errors import UsageError
from paretune.measure import benchtable
from paretune.measure.cost import Cost
from paretune.measure.timing import Times

VERSION = 1
AIRY = 100  # columns of a terminal that has room for more than one space between two numbers


def check_version(path: Path, content: dict[str, Any]) -> None:
    """Raise UsageError unless the JSON of a bench file is what this paretune writes."""
    if content.get("version") != VERSION:
        raise UsageError(f"{path} is a bench of version {content.get('version')}, this paretune reads {VERSION}")


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
    """What was measured of one contestant at one batch size.

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


@dataclass(frozen=True)
class Bench:
    """A benchmark: under what terms, and a row for every contestant and batch size.

    machine: device, name, threads, versions; baseline: whom ratios refer to; complete: whether nothing interrupted it
    compile, train, merged: whether models were compiled, steps timed, leaves folded before the forward
    """

    date: str
    machine: dict[str, Any]
    model: str
    image_size: tuple[int, int]
    dtype: str
    compile: bool
    train: bool
    merged: bool
    rounds: int
    warmup: int
    baseline: str
    complete: bool
    rows: tuple[Row, ...]

    @property
    def errors(self) -> list[str]:
        """A sentence for everyone who failed."""
        return [f"{row.recipe}, batch {row.batch}: {row.error}" for row in self.rows if row.error]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        own = {name: value for name, value in vars(self).items() if name != "rows"}
        rows = [row.to_dict() for row in self.rows]
        return {"kind": "bench", "version": VERSION, **own, "image_size": list(self.image_size), "rows": rows}

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        yield from benchtable.parts(self, airy=options.max_width >= AIRY)
