"""Where labels stand beside their points, for every figure: on no bar, point or other label while there is room.

A place of a label is a distance and a direction from its point. Every label takes the best of its places; then each is
placed anew while the others stand still, until nothing moves. Boxes are (left, low, right, high) in any unit; it does
not matter whether y grows upwards or downwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, pi, sin

Box = tuple[float, float, float, float]
Spot = tuple[float, float]

DISTANCES = (0.8, 1.2, 1.7, 2.4, 3.2, 4.4)  # from the point to the label, in heights of a label
DIRECTIONS = 16
GAP = 0.2  # room between labels, in heights
ROUNDS = 6
LEAD = 12  # places at which the line to a label is looked at
ASTRAY = 4.0  # how much worse a height nearer to another point is than a height farther from the own one
CROSSED = 3.0  # how much worse a label on the line is, in heights of distance


@dataclass(frozen=True)
class Placed:
    """A label in place: its box, its distance from its point in heights, and the end of a line that leads to it."""

    box: Box
    distance: float
    end: Spot

    @property
    def led(self) -> bool:
        """Whether it stands so far away that a line should lead to it."""
        return self.distance > DISTANCES[1]


def placed(
    points: Sequence[Spot], sizes: Sequence[Spot], frame: Box, bars: Sequence[Box] = (), line: Sequence[Spot] = ()
) -> list[Placed]:
    """A place for the label of every point.

    sizes: (width, height) of every label; frame: the box that labels must stay in
    bars: what no label may cover, beside points and labels; line: corners of a line that labels had better not cross
    """
    dots = [_around(x, y, 0.35 * height) for (x, y), (_, height) in zip(points, sizes, strict=True)]
    fixed, soft = [*dots, *bars], _along(line)
    found: list[Placed | None] = [None] * len(points)
    for _ in range(ROUNDS):
        before = list(found)
        for i, size in enumerate(sizes):
            others = [box for j, one in enumerate(found) if one and j != i for box in _taken(one, points[j], size[1])]
            found[i] = min(
                _places(points[i], size),
                key=lambda one, i=i, size=size, others=others: (
                    _covered(one, points[i], [*fixed, *others], frame, size),
                    _far(one, i, points, soft, size[1]),
                ),
            )
        if found == before:
            break
    return found


def _places(point: Spot, size: Spot) -> Iterator[Placed]:
    """The nearest first; to the right before elsewhere."""
    (x, y), (width, height) = point, size
    for distance in DISTANCES:
        for i in range(DIRECTIONS):
            angle = 2 * pi / DIRECTIONS * (i // 2 + 1 if i % 2 else -(i // 2))
            across, up = cos(angle), sin(angle)
            at = x + distance * height * across, y + distance * height * up
            left = at[0] - (0 if across > 0.3 else width if across < -0.3 else width / 2)
            low = at[1] - (height / 2 if abs(up) < 0.8 else 0 if up > 0 else height)
            yield Placed((left, low, left + width, low + height), distance, at)


def _taken(one: Placed, point: Spot, height: float) -> list[Box]:
    """What a label and the line to it cover."""
    left, low, right, high = one.box
    gap = GAP * height
    box = (left - gap, low - gap, right + gap, high + gap)
    return [box, *(_around(x, y, 0.5) for x, y in _along([point, one.end], LEAD))] if one.led else [box]


def _covered(one: Placed, point: Spot, taken: Sequence[Box], frame: Box, size: Spot) -> float:
    """How much a label covers of what it must not, as a share of itself; what leaves the frame counts more."""
    width, height = size
    outside = width * height - _shared(one.box, frame)
    lead = [_around(x, y, 0.5) for x, y in _along([point, one.end], LEAD)[LEAD // 3 :]] if one.led else []
    crossed = sum(_shared(box, other) for box in lead for other in taken)
    return round((sum(_shared(one.box, other) for other in taken) + crossed + 4 * outside) / (width * height), 6)


def _far(one: Placed, own: int, points: Sequence[Spot], line: Sequence[Spot], height: float) -> float:
    """How far a label is from its point, and how easily it is taken for another's, in heights."""
    left, low, right, high = one.box
    away = [hypot(max(left - x, x - right, 0), max(low - y, y - high, 0)) for x, y in points]
    crosses = any(left < x < right and low < y < high for x, y in line)
    return one.distance + ASTRAY * (away[own] - min(away)) / height + CROSSED * crosses


def _along(line: Sequence[Spot], count: int = 48) -> list[Spot]:
    """Spots along a line, evenly spread over each of its pieces."""
    return [
        (a[0] + (b[0] - a[0]) * i / count, a[1] + (b[1] - a[1]) * i / count)
        for a, b in pairwise(line)
        for i in range(count + 1)
    ]


def _around(x: float, y: float, half: float) -> Box:
    return x - half, y - half, x + half, y + half


def _shared(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
