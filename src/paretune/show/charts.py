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
LOGARITHMIC = 6  # from this ratio of the highest to the lowest cost on, the axis is logarithmic
ALIKE = 0.2  # the x axis covers at least this share of its highest value
CAP = 4  # half the width of the ends of a bar


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` between the places `start` and `end`, evenly or by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        low, value, high = (math.log(v) if self.logarithmic else v for v in (self.low, value, self.high))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int, unit: str = "") -> tuple[Tick, ...]:
        """At most about so many round numbers."""
        span = (self.low, self.high)
        numbers = decades(span, most) if self.logarithmic else round_numbers(span, most)
        return tuple(Tick(self.at(value), text + unit) for value, text in numbers)


@dataclass(frozen=True)
class Point:
    """A dot of a scatter chart: `label` beside it, `title` as a tooltip, `series` sets colour and shape.

    sure: the interval of y, if it is known
    """

    label: str
    title: str
    x: float
    y: float
    series: int
    sure: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """A point in place: its centre, its label's baseline and anchor, and whether it is on the front.

    lead: a line to a label that is far away, as an SVG polyline, or ""; bar: its interval as an SVG path, or ""
    """

    point: Point
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    lead: str
    front: bool
    bar: str = ""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and the number beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """A chart of dots. `line`: the steps of the Pareto front, or the diagonal, for an SVG polyline."""

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
    """A chart with cost on the x axis, gain on the y axis, the Pareto front as steps: the best at a cost or below."""
    front = frontier([(point.x, point.y) for point in points])
    x_axis = across([point.x for point in points], low=0)
    y_axis = up([value for point in points for value in (point.y, *(point.sure or ()))])
    line = staircase([(x_axis.at(points[i].x), y_axis.at(points[i].y)) for i in front])
    dots = place(points, x_axis, y_axis, set(front), line)
    names = ", ".join(points[i].label for i in front)
    summary = f"{len(points)} methods; on the Pareto front, from cheap to dear: {names}."
    return Scatter(title, x_name, y_name, x_axis.ticks(5), y_axis.ticks(6, unit), tuple(dots), polyline(line), summary)


def staircase(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The places of a front, from left to right, as steps that go on to the right edge."""
    line = [corners[0]]
    for x, y in corners[1:]:
        line += [(x, line[-1][1]), (x, y)]
    return [*line, (WIDTH - RIGHT, line[-1][1])]


def promise_and_clock(title: str, x_name: str, y_name: str, points: Sequence[Point]) -> Scatter:
    """A chart of two ratios to the same baseline; on the diagonal they are equal."""
    span = padded([value for point in points for value in (point.x, point.y)] + [1.0])
    x_axis, y_axis = Axis(*span, LEFT, WIDTH - RIGHT), Axis(*span, HEIGHT - BOTTOM, TOP)
    line = [(x_axis.at(value), y_axis.at(value)) for value in span]
    dots = place(points, x_axis, y_axis, set(range(len(points))), line)
    slower = ", ".join(point.label for point in points if point.y > point.x) or "none"
    summary = f"{len(points)} methods; above the diagonal, where less time is saved than arithmetic: {slower}."
    return Scatter(title, x_name, y_name, x_axis.ticks(5), y_axis.ticks(6), tuple(dots), polyline(line), summary)


def polyline(line: Sequence[tuple[float, float]]) -> str:
    """Places as an SVG polyline has them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in line)


def padded(values: Sequence[float], low: float = -math.inf) -> tuple[float, float]:
    """The range of an axis: some room on both sides of the values, not below `low`."""
    least, most = min(values), max(values)
    room = 0.14 * (most - least) or 0.1 * abs(most) or 1.0
    return max(least - room, low), most + room


def across(values: Sequence[float], low: float = -math.inf) -> Axis:
    """The x axis of a chart with these values; logarithmic where they are far apart, and never so short that a
    difference below `ALIKE` looks like one."""
    if min(values) > 0 and max(values) > LOGARITHMIC * min(values):
        room = (max(values) / min(values)) ** 0.14
        return Axis(min(values) / room, max(values) * room, LEFT, WIDTH - RIGHT, logarithmic=True)
    least, most = padded(values, low)
    room = max(0.0, ALIKE * abs(most) - (most - least)) / 2
    return Axis(max(least - room, low), most + room, LEFT, WIDTH - RIGHT)


def up(values: Sequence[float]) -> Axis:
    """The y axis of a chart with these values."""
    return Axis(*padded(values), HEIGHT - BOTTOM, TOP)


def round_numbers(span: tuple[float, float], most: int) -> list[tuple[float, str]]:
    """Ticks in a range, at most about this many: multiples of 1, 2 or 5 times a power of ten, with their labels."""
    rough = (span[1] - span[0]) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(span[0] / step - 1e-9), math.floor(span[1] / step + 1e-9)
    return [(n * step, f"{n * step:,.{places}f}") for n in range(first, last + 1)]


def decades(span: tuple[float, float], most: int) -> list[tuple[float, str]]:
    """Ticks in a range for its logarithms, at most about this many: powers of ten, with their halves and fifths where
    there is room."""
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5)):
        powers = range(math.floor(math.log10(span[0])), math.ceil(math.log10(span[1])) + 1)
        values = [step * 10.0**power for power in powers for step in steps]
        inside = [value for value in values if span[0] <= value <= span[1]]
        if found and len(inside) > most:
            break
        found = inside
    return [(value, f"{value:,.{max(0, -math.floor(math.log10(value)))}f}") for value in found]


def place(
    points: Sequence[Point], x_axis: Axis, y_axis: Axis, front: set[int], line: Sequence[tuple[float, float]]
) -> list[Dot]:
    """The dots with their labels beside them."""
    at = [(x_axis.at(p.x), y_axis.at(p.y)) for p in points]
    ends = [None if p.sure is None else (y_axis.at(p.sure[1]), y_axis.at(p.sure[0])) for p in points]
    sizes = [(LETTER * len(point.label), LINE) for point in points]
    frame = (LEFT, TOP, WIDTH, HEIGHT - BOTTOM)
    bars = [(x - CAP, top, x + CAP, low) for (x, _), end in zip(at, ends, strict=True) if end for top, low in [end]]
    return [
        Dot(
            point, *spot, *_text(spot, found), polyline([spot, found.end]) if found.led else "", i in front,
            "" if end is None else f"M{spot[0]:.1f} {end[0]:.1f}V{end[1]:.1f}"
            + "".join(f"M{spot[0] - CAP:.1f} {y:.1f}h{2 * CAP}" for y in end),
        )
        for i, (point, spot, end, found) in enumerate(
            zip(points, at, ends, placed(at, sizes, frame, bars, line), strict=True)
        )
    ]  # fmt: skip


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
