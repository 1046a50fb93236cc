"""Plot accuracy against multiply-accumulates: recipes as points with intervals, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.counts import mac_unit
from paretune.errors import UsageError
from paretune.ledger.averages import CONFIDENCE
from paretune.ledger.compare import Compared, Comparison
from paretune.show.figure import COLOURS, INK, PALE, STYLE, check_plot, save
from paretune.show.frontier import frontier
from paretune.show.labels import Box, Spot, placed

LOGARITHMIC = 6  # from this ratio of the highest to the lowest cost on, the axis is logarithmic


def draw(found: Comparison, path: Path) -> None:
    """The flat mean of every recipe, with its interval, over its multiply-accumulates per image.

    path: .png, .svg or .pdf; appears complete or not at all. Recipes without a count of them are not in the picture.
    Raises UsageError as `check_plot` does, and if nothing is left to draw.
    """
    check_plot(path)
    rows = [row for row in found.rows if row.entry.macs is not None]
    if not rows:
        raise UsageError("none of these has a number of multiply-accumulates: leave out --plot")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 5.2), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        unit = mac_unit(row.entry.macs for row in rows)
        spots = [(row.entry.macs / unit.size, 100 * row.means.flat.mean) for row in rows if row.entry.macs is not None]
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(rows))]
        for row, spot, colour in zip(rows, spots, colours, strict=True):
            _point(axes, row, spot, colour)
        _finish(axes, found, spots, unit.name)
        front = _front(axes, spots)
        figure.draw_without_rendering()
        _label(axes, rows, spots, colours, front)
        save(figure, path)


def _front(axes: Any, spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Draw the Pareto front as a staircase, the best accuracy at each cost or below, and return its corners."""
    best = [spots[i] for i in frontier(spots)]
    right = axes.get_xlim()[1]
    corners = [best[0]]
    for x, y in best[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    corners.append((right, best[-1][1]))
    axes.plot(*zip(*corners, strict=True), color=PALE, lw=1.2, ls=(0, (4, 3)), zorder=1)
    axes.set_xlim(right=right)
    return corners


def _point(axes: Any, row: Compared, spot: tuple[float, float], colour: str) -> None:
    half = row.means.flat.half
    error = None if half is None else 100 * half
    filled = "white" if row.unlike else colour
    axes.errorbar(
        *spot, yerr=error, fmt="o", ms=7, color=colour, mfc=filled, mew=1.6, elinewidth=1.3, capsize=3, zorder=3
    )


def _finish(axes: Any, found: Comparison, spots: Sequence[tuple[float, float]], unit: str) -> None:
    macs = [x for x, _ in spots]
    if max(macs) > LOGARITHMIC * min(macs):
        axes.set_xscale("log")
    what = "one task" if len(found.groups) == 1 else f"flat mean of {len(found.groups)} tasks"
    axes.set_title(f"{what}, in %", loc="left", pad=20, fontsize=10.5, color=INK)
    axes.set_xlabel(f"{unit} per image")
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(0.14)
    signs = ["dashed: the best at this cost or below"]
    if any(row.means.flat.half is not None for row in found.rows):
        signs.insert(0, f"bars: {CONFIDENCE:.0%} intervals over seeds")
    if any(row.unlike for row in found.rows):
        signs.append("hollow: another protocol")
    axes.annotate("; ".join(signs), (0, 1.012), xycoords="axes fraction", va="bottom", fontsize=8, color=PALE)


def _label(
    axes: Any, rows: Sequence[Compared], spots: Sequence[Spot], colours: Sequence[str], front: Sequence[Spot]
) -> None:
    """Write every name as near to its point as there is room; a line leads to those that stand away."""
    point = axes.figure.dpi / 72  # pixels
    dots, corners = (axes.transData.transform(some).tolist() for some in (spots, front))
    style = [{"fontsize": 9, "color": _darker(colour), "zorder": 4, "ha": "left", "va": "bottom"} for colour in colours]
    texts = [
        axes.annotate(row.entry.name, spot, (0, 0), textcoords="offset points", **how)
        for row, spot, how in zip(rows, spots, style, strict=True)
    ]
    extents = [text.get_window_extent() for text in texts]
    sizes = [(extent.width, extent.height) for extent in extents]
    frame = axes.get_window_extent().extents
    places = placed(dots, sizes, frame, _bars(axes, rows, spots, point), corners)
    for text, dot, place, spot, colour in zip(texts, dots, places, spots, colours, strict=True):
        text.set_position(((place.box[0] - dot[0]) / point, (place.box[1] - dot[1]) / point))
        if place.led:
            end = ((place.end[0] - dot[0]) / point, (place.end[1] - dot[1]) / point)
            arrow = {"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 1, "shrinkB": 5}
            axes.annotate("", spot, end, textcoords="offset points", arrowprops=arrow, zorder=2)


def _bars(axes: Any, rows: Sequence[Compared], spots: Sequence[Spot], point: float) -> list[Box]:
    """The boxes of the intervals with their ends, in pixels."""
    boxes = []
    for row, (x, y) in zip(rows, spots, strict=True):
        if row.means.flat.half is not None:
            half = 100 * row.means.flat.half
            (across, low), (_, high) = axes.transData.transform([(x, y - half), (x, y + half)])
            boxes.append((across - 2 * point, low - point, across + 2 * point, high + point))
            boxes += [(across - 4 * point, end - point, across + 4 * point, end + point) for end in (low, high)]
    return boxes


def _darker(colour: str) -> str:
    """A colour for thin letters on white."""
    return "#" + "".join(f"{int(colour[i : i + 2], 16) * 7 // 10:02x}" for i in (1, 3, 5))
