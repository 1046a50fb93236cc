"""The tables of a benchmark: one of the forward, one of the training step and of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from paretune.counts import mac_unit
from paretune.timing.rounds import Times
from paretune.timing.row import Row

Column = tuple[str, Callable[[Row], str]]
NONE = "-"


def table(title: str, columns: list[Column], rows: Sequence[Row], airy: bool) -> Table:
    """One line a row, a section for every batch size."""
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, int(airy), 0, 0), pad_edge=False)
    grid.add_column("recipe", overflow="fold")
    for name, _ in columns:
        grid.add_column(name, justify="right", no_wrap=True)
    batch = None
    for row in sorted(rows, key=lambda row: row.batch):
        if row.batch != batch:
            batch = row.batch
            grid.add_row(Text(f"batch {batch}", style="bold"))
        grid.add_row(Text(row.recipe), *(Text(cell(row)) for _, cell in columns))
    return grid


def forward_columns(rows: Sequence[Row], compiled: bool) -> list[Column]:
    """Headers and cells of the table of the forward."""
    unit = mac_unit(row.cost.macs for row in rows)
    columns: list[Column] = [
        ("trained", lambda row: count(row.cost.trained_without_head)),
        (unit.name, lambda row: unit.write(row.cost.macs)),
        ("MACs\nratio", lambda row: ratio(row.macs_ratio)),
        ("ms/\nimage", lambda row: of(row.forward, lambda t: digits(t.ms_per_image))),
        ("images\n/s", lambda row: of(row.forward, lambda t: digits(t.images_per_second))),
        ("spread", lambda row: of(row.forward, spread)),
        ("wall\nratio", lambda row: of(row.forward, lambda t: ratio(t.ratio))),
        ("quartiles", lambda row: of(row.forward, quartiles)),
        ("wall/\nMACs", lambda row: ratio(row.wall_per_macs)),
    ]
    if any(row.memory.cuda_peak_forward is not None for row in rows):
        columns.append(("peak\nMB", lambda row: mega(row.memory.cuda_peak_forward)))
    if compiled:
        columns.append(("compile\ns", lambda row: of(row.compile_seconds, digits)))
    return columns


def step_columns(rows: Sequence[Row], trained: bool) -> list[Column]:
    """Headers and cells of the table of the training step and its memory."""
    columns: list[Column] = []
    if trained:
        columns += [
            ("step\nms", lambda row: of(row.step, lambda t: digits(1000 * t.median))),
            ("spread", lambda row: of(row.step, spread)),
            ("step\nratio", lambda row: of(row.step, lambda t: ratio(t.ratio))),
            ("quartiles", lambda row: of(row.step, quartiles)),
            ("saved\nMB", lambda row: mega(row.memory.saved_bytes)),
            ("saved\nratio", lambda row: ratio(row.memory.saved_ratio)),
        ]
    if any(row.memory.peak_rss is not None for row in rows):
        columns.append(("peak RSS\nMB", lambda row: mega(row.memory.peak_rss)))
    if any(row.memory.cuda_peak_step is not None for row in rows):
        columns.append(("peak\nMB", lambda row: mega(row.memory.cuda_peak_step)))
    return columns


def of(value: Any, written: Callable[[Any], str]) -> str:
    """`written(value)`, or a dash for what was not measured."""
    return NONE if value is None else written(value)


def spread(times: Times) -> str:
    """Half the distance of the quartiles as a share of the median: "±3%"."""
    low, high = times.quartiles
    return f"±{50 * (high - low) / times.median:.0f}%"


def quartiles(times: Times) -> str:
    """The quartiles of the ratio: "0.65-0.68"."""
    return of(times.ratio_quartiles, lambda pair: f"{pair[0]:.2f}-{pair[1]:.2f}")


def ratio(value: float | None) -> str:
    """Two decimals."""
    return of(value, lambda known: f"{known:.2f}")


def mega(size: int | None) -> str:
    """Bytes in millions."""
    return of(size, lambda known: digits(known / 1e6))


def digits(value: float) -> str:
    """Three to four significant digits: 0.1234 -> "0.123", 12.345 -> "12.3", 1234.5 -> "1,234" """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def count(number: int) -> str:
    """Parameters in thousands or millions: 294,912 -> "294.9k"."""
    if number >= 1_000_000:
        return f"{number / 1e6:.2f}M"
    return f"{number / 1e3:.1f}k" if number >= 1000 else str(number)
