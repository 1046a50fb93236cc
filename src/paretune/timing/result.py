"""The result of a benchmark: as values, as JSON, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.text import Text

from paretune.errors import UsageError
from paretune.timing.contestants import RIVALS
from paretune.timing.payoff import unpaid
from paretune.timing.row import Row
from paretune.timing.table import forward_columns, step_columns, table

VERSION = 1
AIRY = 100  # columns of a terminal that has room for more than one space between two numbers


def check_version(path: Path, content: dict[str, Any]) -> None:
    """Raise UsageError unless the JSON of a bench file has the format of this version of paretune."""
    if content.get("version") != VERSION:
        raise UsageError(f"{path} is a bench of version {content.get('version')}, this paretune reads {VERSION}")


@dataclass(frozen=True)
class Bench:
    """A benchmark: its settings, and a row for every contestant and batch size.

    machine: device, name, threads, versions; baseline: reference of the ratios; complete: False after an interruption
    compile, train, merged: whether models were compiled, steps timed, leaves folded before the forward
    memory: what training steps keep for the backward pass, see `core.memory`
    """

    date: str
    machine: dict[str, Any]
    model: str
    image_size: tuple[int, int]
    dtype: str
    compile: bool
    train: bool
    merged: bool
    memory: str
    rounds: int
    warmup: int
    baseline: str
    complete: bool
    rows: tuple[Row, ...]

    @property
    def errors(self) -> list[str]:
        """A sentence for every contestant that failed."""
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
        yield from parts(self, airy=options.max_width >= AIRY)


def parts(bench: Bench, airy: bool) -> Iterator[Any]:
    """What rich prints, from top to bottom; `airy`: there is room."""
    yield Text("\n".join(header(bench)))
    yield Text()
    yield table("forward", forward_columns(bench.rows, bench.compile), bench.rows, airy)
    if bench.train or any(row.memory.peak_rss is not None for row in bench.rows):
        title = "training step" if bench.train else "memory of the forward"
        yield table(title, step_columns(bench.rows, bench.train), bench.rows, airy)
    yield Text("\n".join(legend(bench)))


def header(bench: Bench) -> list[str]:
    """The settings under which everything was measured."""
    at, on = bench.machine, "x".join(map(str, bench.image_size))
    how = ["compiled" if bench.compile else "eager", "leaves folded" if bench.merged else "leaves not folded"]
    versions = ", ".join(f"{name} {at.get(name)}" for name in ("python", "torch", "timm", "paretune"))
    lines = [
        f"{bench.model} at {on}, {bench.dtype}, {', '.join(how)}, fused attention, head of 100 classes",
        f"{at['name']}, device {at['device']}, {at['threads']} of {at['cores']} threads; {versions}",
        f"{bench.rounds} rounds, in each everyone in shuffled order, after {bench.warmup} to warm up; {bench.date}",
    ]
    return lines if bench.complete else [*lines, "interrupted: only what was measured until then"]


def legend(bench: Bench) -> list[str]:
    """What the columns mean, and what went wrong."""
    lines = [
        "timm: the backbone's own forward, all tokens" + (", every tensor trained" if bench.train else ""),
        f"ratio: to {bench.baseline}, median of the ratios of each round, so that a slow moment slows down both",
        "wall/MACs: 1 = what is saved in arithmetic is saved in time; above 1 = less is",
        "times: medians over the rounds; spread: half the distance of the quartiles, relative to it; "
        "trained: parameters without the head",
        "weights are random unless they are embedded: time does not depend on them",
    ]
    if any(row.recipe in RIVALS for row in bench.rows):
        lines.append("hf-peft: the job of the LoRA here, by HF PEFT in timm's own forward")
    if bench.train:
        lines.append(
            "step: forward, losses, backward, AdamW; saved: kept for the backward pass, weights apart"
            + (f"; memory {bench.memory}" if bench.memory != "full" else "")
            + (", by the models before compiling" if bench.compile else "")
        )
    if any(row.memory.peak_rss is not None for row in bench.rows):
        one = "step" if bench.train else "forward"
        lines.append(f"peak RSS: what one {one} adds to the resident memory of a process of its own, weights apart")
    return lines + unpaid(bench.rows, bench.baseline) + [f"failed: {sentence}" for sentence in bench.errors]
