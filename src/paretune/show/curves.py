"""The training curves of a report: loss and score of every run, epoch by epoch, in the units of the SVG view box.

loss      training and validation, all runs on one axis
score     on the validation images, with what so few images cannot rule out; a ring around the epoch that was kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretune.show.charts import LOGARITHMIC, Axis, Tick, padded, polyline
from paretune.show.columns import COLUMNS, SCORES, percent
from paretune.show.rows import Row, Source
from paretune.training.log import duration
from paretune.training.metrics import interval

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 28, 26  # margins around the plot
LARGEST = 1e9  # value that is drawn
MOST = 300  # places of a line

Pairs = list[tuple[float, float]]  # (epoch, value)


@dataclass(frozen=True)
class Line:
    """A line of a plot: whose (`train` or `val`), and its places for an SVG polyline."""

    of: str
    points: str


@dataclass(frozen=True)
class Plot:
    """One plot. `band`: an interval around the line, as an SVG polygon; `kept`: the place of the kept epoch, if any."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    band: str
    kept: tuple[float, float] | None
    summary: str


@dataclass(frozen=True)
class Curves:
    """A run: its name and number in the report, one line on it, and its plots."""

    name: str
    series: int
    about: str
    plots: tuple[Plot, ...]


def curves(sources: Sequence[Source], series: dict[str, int]) -> list[Curves]:
    """The curves of all runs that recorded their epochs; losses on one axis, and scores of a kind on one axis."""
    runs = [source for source in sources if source.kind == "run" and source.history]
    losses = vertical([v for run in runs for key in ("train_loss", "val_loss") for _, v in pairs(run, key)], wide=True)
    scores = {kind: vertical(_scores(runs, kind)) for kind in {kind_of(run) for run in runs}}
    return [
        Curves(
            run.rows[0].name, series[run.rows[0].name], about(run),
            tuple(_plots(run, losses, scores[kind_of(run)])),
        )
        for run in runs
    ]  # fmt: skip


def kind_of(run: Source) -> str:
    """What a run was scored by, of `SCORES`; "" if none of its epochs was."""
    return next((kind for kind in SCORES if any(f"val_{kind}" in row for row in run.history)), "")


def pairs(run: Source, key: str) -> Pairs:
    """(epoch, value) of an entry of the history, where it is a number that can be drawn."""
    return [(row["epoch"], row[key]) for row in run.history if row.get(key) is not None and abs(row[key]) < LARGEST]


def about(run: Source) -> str:
    """What is to be known of a training: the kept epoch, its score, how long it took."""
    (row,) = run.rows
    said = [f"epoch {run.kept} of {len(run.history)} kept"] if run.kept else [f"{len(run.history)} epochs"]
    if (kind := kind_of(run)) in row.figures:
        column = next(column for column in COLUMNS if column.key == kind)
        said.append(f"{column.head} {column.write(row.figures[kind])}" + between(row, kind))
    if "seconds" in row.figures:
        said.append(duration(row.figures["seconds"]))
    return ", ".join(said)


def between(row: Row, kind: str) -> str:
    """The interval of a score in brackets, if it is known."""
    if kind not in row.intervals:
        return ""
    low, high = row.intervals[kind]
    return f" ({100 * low:.1f} to {100 * high:.1f})"


def vertical(values: Sequence[float], wide: bool = False) -> Axis | None:
    """The y axis for these values; `wide`: logarithmic where they are far apart. None without values."""
    if not values:
        return None
    if wide and min(values) > 0 and max(values) > LOGARITHMIC * min(values):
        return Axis(min(values) / 1.15, max(values) * 1.15, HEIGHT - BOTTOM, TOP, logarithmic=True)
    return Axis(*padded(values), HEIGHT - BOTTOM, TOP)


def _scores(runs: Sequence[Source], kind: str) -> list[float]:
    """All scores of a kind and the ends of their intervals, shares in per cent."""
    return [value for run in runs if kind_of(run) == kind for _, low, high in _sure(run, kind) for value in (low, high)]


def _sure(run: Source, kind: str) -> list[tuple[float, float, float]]:
    """(epoch, low, high) of the score of every epoch; both are the score where it has no interval."""
    found = pairs(run, f"val_{kind}")
    images = run.rows[0].tested
    spans = [interval(min(max(value, 0), 1), images) if images else (value, value) for _, value in found]
    return [(at, low * unit(kind), high * unit(kind)) for (at, _), (low, high) in zip(found, spans, strict=True)]


def unit(kind: str) -> float:
    """What a score is drawn in: 100 for shares, which are drawn in per cent."""
    return 100.0 if next(column for column in COLUMNS if column.key == kind).write is percent else 1.0


def _plots(run: Source, losses: Axis | None, scores: Axis | None):
    x_axis = Axis(min(1, len(run.history) - 1), len(run.history), LEFT, WIDTH - RIGHT)
    if losses is not None:
        lines = {"train": pairs(run, "train_loss"), "val": pairs(run, "val_loss")}
        yield _plot("loss", x_axis, losses, lines, [], run.kept)
    if scores is not None and (kind := kind_of(run)):
        head = next(column.head for column in COLUMNS if column.key == kind)
        found = [(at, value * unit(kind)) for at, value in pairs(run, f"val_{kind}")]
        title = f"{head} on validation" + ", %" * (unit(kind) == 100)
        yield _plot(title, x_axis, scores, {"val": found}, _sure(run, kind), run.kept)


def _plot(title: str, x_axis: Axis, y_axis: Axis, lines: dict[str, Pairs], sure: list, kept: int) -> Plot:
    drawn = tuple(
        Line(of, polyline([(x_axis.at(x), y_axis.at(y)) for x, y in thinned(found)])) for of, found in lines.items()
    )
    few = thinned(sure)
    edge = [(x_axis.at(at), y_axis.at(high)) for at, _, high in few]
    edge += [(x_axis.at(at), y_axis.at(low)) for at, low, _ in reversed(few)]
    values = dict(lines["val"])
    words = "; ".join(f"{_NAMES[of]} {_told(found)}" for of, found in lines.items() if found)
    return Plot(
        title=title,
        x_ticks=tuple(tick for tick in x_axis.ticks(6) if float(tick.text.replace(",", "")).is_integer()),
        y_ticks=y_axis.ticks(5),
        lines=drawn,
        band=polyline(edge) if any(low < high for _, low, high in few) else "",
        kept=(x_axis.at(kept), y_axis.at(values[kept])) if kept in values else None,
        summary=f"{title} by epoch: {words}" + (f"; epoch {kept} was kept" if kept in values else ""),
    )


_NAMES = {"train": "training", "val": "validation"}


def _told(found: Pairs) -> str:
    (first, start), (last, end) = found[0], found[-1]
    return f"from {start:.4g} in epoch {first} to {end:.4g} in epoch {last}"


def thinned(found: list, most: int = MOST) -> list:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(found) <= most:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]
