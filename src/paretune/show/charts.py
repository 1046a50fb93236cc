"""The layout of the charts of a report, in the units of the SVG view box; the page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paretune.show.frontier import frontier
from paretune.show.labels import Placed, placed

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 46  # margins around the plot
LETTER, LINE, DESCENT = 7.2, 16, 4  # of a label: the width of a letter, its height, the part of it below the baseline
STEP_WIDTH, STEP_HEIGHT = 220, 96


@dataclass(frozen=True)
class Point:
    """A dot of a scatter chart: `label` beside it, `title` as a tooltip, `series` sets colour and shape."""

    label: str
    title: str
    x: float
    y: float
    series: int


@dataclass(frozen=True)
class Dot:
    """A point in place: its centre, its label's baseline and anchor, and whether it is on the front.

    lead: a line to a label that is far away, as an SVG polyline, or "".
    """

    point: Point
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    lead: str
    front: bool


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and the number beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """A chart of dots. `line`: the points of the Pareto front, or of the diagonal, for an SVG polyline."""

    title: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    line: str
    summary: str


@dataclass(frozen=True)
class Steps:
    """Tokens per block as a line of steps: `line` and the `area` below it as SVG paths; `series` sets the colour."""

    label: str
    line: str
    area: str
    ticks: tuple[Tick, ...]
    first: int
    last: int
    last_y: float
    series: int
    summary: str


def cost_and_gain(title: str, x_name: str, y_name: str, points: Sequence[Point], unit: str = " %") -> Scatter:
    """A chart with cost on the x axis, gain on the y axis and the Pareto front as a line."""
    front = frontier([(point.x, point.y) for point in points])
    x_range, y_range = padded([p.x for p in points], low=0), padded([p.y for p in points])
    line = [(across(points[i].x, x_range), up(points[i].y, y_range)) for i in front]
    dots = place(points, x_range, y_range, set(front), line)
    names = ", ".join(points[i].label for i in front)
    summary = f"{len(points)} methods; on the Pareto front, from cheap to dear: {names}."
    return Scatter(title, x_name, y_name, *axes(x_range, y_range, unit), tuple(dots), polyline(line), summary)


def promise_and_clock(title: str, x_name: str, y_name: str, points: Sequence[Point]) -> Scatter:
    """A chart of two ratios to the same baseline; on the diagonal they are equal."""
    span = padded([value for point in points for value in (point.x, point.y)] + [1.0])
    line = [(across(value, span), up(value, span)) for value in span]
    dots = place(points, span, span, set(range(len(points))), line)
    slower = ", ".join(point.label for point in points if point.y > point.x) or "none"
    summary = f"{len(points)} methods; above the diagonal, where less time is saved than arithmetic: {slower}."
    return Scatter(title, x_name, y_name, *axes(span, span, ""), tuple(dots), polyline(line), summary)


def polyline(line: Sequence[tuple[float, float]]) -> str:
    """Places as an SVG polyline has them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in line)


def padded(values: Sequence[float], low: float = -math.inf) -> tuple[float, float]:
    """The range of an axis: some room on both sides of the values, not below `low`."""
    least, most = min(values), max(values)
    room = 0.14 * (most - least) or 0.1 * abs(most) or 1.0
    return max(least - room, low), most + room


def across(value: float, span: tuple[float, float]) -> float:
    """A value on the x axis -> its place."""
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def up(value: float, span: tuple[float, float]) -> float:
    """A value on the y axis -> its place."""
    return HEIGHT - BOTTOM - (value - span[0]) / (span[1] - span[0]) * (HEIGHT - TOP - BOTTOM)


def axes(
    x_range: tuple[float, float], y_range: tuple[float, float], unit: str
) -> tuple[tuple[Tick, ...], tuple[Tick, ...]]:
    """The ticks of both axes."""
    return (
        tuple(Tick(across(v, x_range), text) for v, text in round_numbers(x_range, 5)),
        tuple(Tick(up(v, y_range), text + unit) for v, text in round_numbers(y_range, 6)),
    )


def round_numbers(span: tuple[float, float], most: int) -> list[tuple[float, str]]:
    """Ticks in a range, at most about this many: multiples of 1, 2 or 5 times a power of ten, with their labels."""
    rough = (span[1] - span[0]) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(span[0] / step - 1e-9), math.floor(span[1] / step + 1e-9)
    return [(n * step, f"{n * step:,.{places}f}") for n in range(first, last + 1)]


def place(
    points: Sequence[Point],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    front: set[int],
    line: Sequence[tuple[float, float]],
) -> list[Dot]:
    """The dots with their labels beside them."""
    at = [(across(p.x, x_range), up(p.y, y_range)) for p in points]
    sizes = [(LETTER * len(point.label), LINE) for point in points]
    frame = (LEFT, TOP, WIDTH, HEIGHT - BOTTOM)
    return [
        Dot(point, *spot, *_text(spot, found), polyline([spot, found.end]) if found.led else "", i in front)
        for i, (point, spot, found) in enumerate(zip(points, at, placed(at, sizes, frame, line=line), strict=True))
    ]


def _text(spot: tuple[float, float], found: Placed) -> tuple[float, float, str]:
    """The x, the baseline and the anchor of a label; it keeps the side that is next to its point."""
    left, _, right, bottom = found.box
    if left >= spot[0]:
        return left, bottom - DESCENT, "start"
    return (right, bottom - DESCENT, "end") if right <= spot[0] else ((left + right) / 2, bottom - DESCENT, "middle")


def steps(label: str, tokens: Sequence[tuple[int, int]], most: int, series: int) -> Steps:
    """Tokens in attention and MLP of every block; `most` is the top of the axis."""
    half = STEP_WIDTH / (2 * len(tokens))
    heights = [STEP_HEIGHT - (STEP_HEIGHT - 8) * count / most for pair in tokens for count in pair]
    line = f"M0 {heights[0]:.1f}" + "".join(f"V{y:.1f}H{(i + 1) * half:.1f}" for i, y in enumerate(heights))
    last = len(tokens) - 1
    marks = sorted({0, last // 2, last})
    return Steps(
        label=label,
        line=line,
        area=f"{line}V{STEP_HEIGHT}H0Z",
        ticks=tuple(Tick((2 * block + 1) * half, str(block)) for block in marks),
        first=tokens[0][0],
        last=tokens[-1][1],
        last_y=heights[-1],
        series=series,
        summary=f"{label}: tokens in attention and MLP, block by block: "
        + ", ".join(f"{a}" if a == m else f"{a} then {m}" for a, m in tokens),
    )
