"""Accuracy against arithmetic: recipes as points with intervals, and the front of those that no other one beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import cos, hypot, pi, sin
from pathlib import Path
from typing import Any

from paretune.errors import UsageError
from paretune.ledger.averages import CONFIDENCE
from paretune.ledger.compare import Compared, Comparison
from paretune.show.figure import COLOURS, INK, PALE, STYLE, check_plot, save
from paretune.show.frontier import frontier

DISTANCES, DIRECTIONS = (9, 16, 25, 36, 50, 66), 16  # where a label may stand: points away, and at how many angles
ASTRAY = 12  # pixels covered that a label may save by being a pixel nearer to another point than to its own
LOGARITHMIC = 6  # how many times the cheapest the dearest costs before the axis is logarithmic


def draw(found: Comparison, path: Path) -> None:
    """The flat mean of every recipe, with its interval, over its multiply-accumulates per image.

    path: .png, .svg or .pdf; appears complete or not at all. Recipes without a count of them are not in the picture.
    Raises UsageError as `check_plot` does, and if nothing is left to draw.
    """
    check_plot(path)
    rows = [row for row in found.rows if row.side.macs is not None]
    if not rows:
        raise UsageError("none of these has a number of multiply-accumulates: leave out --plot")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 5.2), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        scale = 1e9 if max(row.side.macs for row in rows) >= 1e9 else 1e6
        spots = [(row.side.macs / scale, 100 * row.means.flat.mean) for row in rows]
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(rows))]
        for row, spot, colour in zip(rows, spots, colours, strict=True):
            _point(axes, row, spot, colour)
        _finish(axes, found, spots, "GMACs" if scale == 1e9 else "MMACs")
        front = _front(axes, spots)
        figure.draw_without_rendering()
        _label(axes, [row.side.name for row in rows], spots, colours, front)
        save(figure, path)


def _front(axes: Any, spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Draw a staircase, what can be had for at most so much, and return its corners."""
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
    signs = ["dashed: the best for at most so much"]
    if any(row.means.flat.half is not None for row in found.rows):
        signs.insert(0, f"bars: {CONFIDENCE:.0%} intervals over seeds")
    if any(row.unlike for row in found.rows):
        signs.append("hollow: another protocol")
    axes.annotate("; ".join(signs), (0, 1.012), xycoords="axes fraction", va="bottom", fontsize=8, color=PALE)


def _label(
    axes: Any, names: Sequence[str], spots: Sequence[tuple], colours: Sequence[str], front: Sequence[tuple]
) -> None:
    """Write every name as near to its point as there is room; a line leads to those that stand away."""
    taken, pixels = _taken(axes, spots, front), axes.transData.transform(spots).tolist()
    for i in sorted(range(len(spots)), key=lambda i: -spots[i][1]):
        style = {"fontsize": 9, "color": _darker(colours[i]), "zorder": 4}
        label = axes.annotate(names[i], spots[i], (0, 0), textcoords="offset points", **style)
        boxes = [(place, _moved(label, *place)) for place in _places()]
        place, _ = min(boxes, key=lambda one: _crowd(one[1], taken, axes) + _astray(one[1], i, pixels))
        taken.append(_moved(label, *place).padded(3))
        if place[0] > DISTANCES[0]:
            _lead(axes, spots[i], place, colours[i])


def _taken(axes: Any, spots: Sequence[tuple], front: Sequence[tuple]) -> list[Any]:
    """The boxes, in pixels, of points, intervals and the front."""
    from matplotlib.transforms import Bbox

    point = axes.figure.dpi / 72
    boxes = [Bbox.from_bounds(x, y, 0, 0).padded(5 * point) for x, y in axes.transData.transform(spots)]
    boxes += [bar.get_window_extent().padded(point) for bars in axes.containers for bar in bars.lines[2]]
    corners = axes.transData.transform(front)
    return boxes + [Bbox([one, other]).padded(point) for one, other in pairwise(corners)]


def _darker(colour: str) -> str:
    """A colour for thin letters on white."""
    return "#" + "".join(f"{int(colour[i : i + 2], 16) * 7 // 10:02x}" for i in (1, 3, 5))


def _places() -> Iterator[tuple[int, float]]:
    """(distance, angle), the nearest first; to the right before elsewhere."""
    for distance in DISTANCES:
        for i in range(DIRECTIONS):
            yield distance, 2 * pi / DIRECTIONS * (i // 2 + 1 if i % 2 else -(i // 2))


def _moved(label: Any, distance: int, angle: float) -> Any:
    """The label's box once it stands there: beside the point on the left and right, centred above and below."""
    x, y = cos(angle), sin(angle)
    label.set_position((distance * x, distance * y))
    label.set_ha("left" if x > 0.3 else "right" if x < -0.3 else "center")
    label.set_va("center" if abs(y) < 0.8 else "bottom" if y > 0 else "top")
    return label.get_window_extent()


def _crowd(box: Any, taken: Sequence[Any], axes: Any) -> float:
    """How much of what is taken a box would cover, in pixels, and how much of it would leave the axes."""
    inside = _shared(box, axes.get_window_extent())
    return sum(_shared(box, other) for other in taken) + 4 * (box.width * box.height - inside)


def _astray(box: Any, own: int, pixels: Sequence[tuple]) -> float:
    """How much nearer a box is to another point than to its own, in pixels, times how much that matters."""
    away = [hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0)) for x, y in pixels]
    return ASTRAY * (away[own] - min(away))


def _shared(one: Any, other: Any) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _lead(axes: Any, spot: tuple[float, float], place: tuple[int, float], colour: str) -> None:
    distance, angle = place
    end = ((distance - 1) * cos(angle), (distance - 1) * sin(angle))
    arrow = {"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 5}
    axes.annotate("", spot, end, textcoords="offset points", arrowprops=arrow, zorder=2)
