"""Which scatter charts the rows of a report give: score against each cost, and time against arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from paretune.counts import mac_unit
from paretune.show.charts import Point, Scatter, cost_and_gain, promise_and_clock
from paretune.show.columns import COLUMNS, SCORES, Column, percent, significant, times
from paretune.show.curves import between
from paretune.show.rows import Row

Axis = tuple[str, float, str]  # figure, its unit, the name of the axis


def scatters(rows: Sequence[Row], series: dict[str, int]) -> list[Scatter]:
    """All charts with at least two methods; `series` numbers the names of the rows.

    Scores are put side by side only where they are of a kind and were measured on the same images, and times only where
    they come from the same benchmark and batch size.
    """
    charts = []
    for score in (column for column in COLUMNS if column.key in SCORES):
        for scored, group in grouped([row for row in rows if score.key in row.figures], lambda row: row.scored):
            charts += [_gain(score, scored, axis, some, series) for axis, some in _costs(group)]
    both = [row for row in rows if {"macs_ratio", "wall_ratio"} <= row.figures.keys()]
    charts += [_ratios(f"Time and arithmetic, {what}", some, series) for what, some in by_benchmark(both)]
    return [chart for chart in charts if len(chart.dots) > 1]


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    """The rows by their key, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def by_benchmark(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by batch size, and by the file that timed them where that is not one for all."""
    several = len({row.origin[-1] for row in rows}) > 1
    return grouped(rows, lambda row: f"batch {row.batch}" + f" ({Path(row.origin[-1]).name})" * several)


def _costs(group: Sequence[Row]) -> Iterator[tuple[Axis, list[Row]]]:
    """Every cost that these rows know, and the rows; MACs are the same at every batch size."""
    counted = _once(group, "macs")
    if counted:
        unit = mac_unit(row.figures["macs"] for row in counted)
        yield ("macs", unit.size, f"{unit.name} per image"), counted
    if trained := _once(group, "trained"):
        yield ("trained", 1e3, "trained parameters, in thousands"), trained
    for _, some in grouped(_once(group, "seconds"), lambda row: row.machine):
        yield ("seconds", 1, "seconds of training"), some
    for what, some in by_benchmark([row for row in group if "ms_per_image" in row.figures]):
        yield ("ms_per_image", 1, f"ms per image, {what}"), some


def _once(group: Sequence[Row], figure: str) -> list[Row]:
    """The rows that know a figure which is the same at every batch size, the first of each name."""
    return list({row.name: row for row in reversed(group) if figure in row.figures}.values())[::-1]


def _gain(score: Column, scored: str, axis: Axis, group: Sequence[Row], series: dict[str, int]) -> Scatter:
    figure, unit, name = axis
    share = score.write is percent
    scale = 100 if share else 1
    points = []
    for row in group:
        x, gain = row.figures[figure] / unit, row.figures[score.key]
        sure = row.intervals.get(score.key)
        sure = sure and (scale * sure[0], scale * sure[1])
        title = f"{row.name}: {score.write(gain)}{between(row, score.key)} at {significant(x)} {name}"
        points.append(Point(row.name, title, x, scale * gain, series[row.name], sure))
    what = score.head[0].upper() + score.head[1:]
    return cost_and_gain(f"{what} and {name}", name, f"{score.head} on {scored}", points, " %" if share else "")


def _ratios(title: str, group: Sequence[Row], series: dict[str, int]) -> Scatter:
    points = []
    for row in group:
        x, y = row.figures["macs_ratio"], row.figures["wall_ratio"]
        about = f"{row.name}: {times(x)} of the arithmetic, {times(y)} of the time"
        points.append(Point(row.name, about, x, y, series[row.name]))
    return promise_and_clock(title, "MAC ratio", "wall ratio", points)
