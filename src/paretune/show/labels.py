"""Place labels beside their points, for every figure, without covering bars, points or other labels if possible.

A label has several candidate places: distances and directions from its point. Every label first takes its best place.
Then the labels are placed again, one at a time, until no label moves. Boxes are (left, low, right, high) in any unit;
y may grow upwards or downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Spot = tuple[float, float]

DISTANCES = (0.8, 1.2, 1.7, 2.4, 3.2, 4.4)  # from the point to the label, in heights of a label
LED = 1.2  # from farther away, a line leads to the label
DIRECTIONS = 16
DOT = 0.35  # half the width of a point, in heights
GAP = 0.2  # room between labels, in heights
ROUNDS = 6
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
        return self.distance > LED


def placed(
    points: Sequence[Spot], sizes: Sequence[Spot], frame: Box, bars: Sequence[Box] = (), line: Sequence[Spot] = ()
) -> list[Placed]:
    """A place for the label of every point.

    sizes: (width, height) of every label; frame: the box that labels must stay in
    bars: boxes that no label may cover, beside points and labels; line: corners of a line that labels should not cross
    """
    halves = [DOT * height for _, height in sizes]
    dots = [(x - half, y - half, x + half, y + half) for (x, y), half in zip(points, halves, strict=True)]
    fixed, corners = np.array([*dots, *bars], float).reshape(-1, 4), _along(line)
    labels = [_Label(point, size) for point, size in zip(points, sizes, strict=True)]
    for label in labels:
        label.look_at(frame, fixed, np.array(points), corners)
    chosen: list[int | None] = [None] * len(labels)
    for _ in range(ROUNDS):
        before = list(chosen)
        for i, label in enumerate(labels):
            others = [labels[j].taken(k) for j, k in enumerate(chosen) if k is not None and j != i]
            chosen[i] = label.best(np.concatenate(others) if others else np.zeros((0, 4)))
        if chosen == before:
            break
    return [label.places[k] for label, k in zip(labels, chosen, strict=True) if k is not None]


class _Label:
    """The places of a label, the nearest first, and what is known of each before other labels stand."""

    def __init__(self, point: Spot, size: Spot):
        self.point, self.size, self.places = point, size, _places(point, size)
        self.boxes = np.array([one.box for one in self.places])
        shares = np.linspace(0.4, 1, 8)[:, None]  # of the way to a label; the beginning belongs to the point
        self.leads = np.array([(1 - shares) * point + shares * one.end for one in self.places])  # (places, 8, 2)
        self.led = np.array([one.led for one in self.places])

    def look_at(self, frame: Box, fixed: NDArray, points: NDArray, line: NDArray) -> None:
        """Compute for each place how much it covers of boxes (n, 4) or lies outside of the frame, and its readability.

        Readability, in heights: the distance from its point, how much nearer another of the points (n, 2) is, and
        whether spots (m, 2) of the line are under it.
        """
        width, height = self.size
        outside = 1 - _shared(self.boxes, np.array([frame]))[:, 0] / (width * height)
        self.covered = self.clash(fixed) + 4 * outside
        astray = self.away(np.array([self.point]))[:, 0] - self.away(points).min(axis=1)
        under = (line > self.boxes[:, None, :2]) & (line < self.boxes[:, None, 2:])
        crosses = under.all(axis=-1).any(axis=-1)
        self.far = np.array([one.distance for one in self.places]) + ASTRAY * astray / height + CROSSED * crosses

    def away(self, points: NDArray) -> NDArray:
        """The distances of all places from points (n, 2): (places, n)."""
        beyond = np.maximum(self.boxes[:, None, :2] - points, points - self.boxes[:, None, 2:])
        return np.hypot(*np.moveaxis(np.maximum(beyond, 0), -1, 0))

    def clash(self, taken: NDArray) -> NDArray:
        """How much each place covers of boxes (n, 4), as a share of itself; what its line crosses counts too."""
        within = [(self.leads >= taken[i, :2]) & (self.leads <= taken[i, 2:]) for i in range(len(taken))]
        crossed = sum((one.all(axis=-1).sum(axis=-1) for one in within), np.zeros(len(self.places)))
        return _shared(self.boxes, taken).sum(axis=1) / (self.size[0] * self.size[1]) + 0.1 * self.led * crossed

    def best(self, others: NDArray) -> int:
        """The number of the place that covers least, and of these the one that is easiest to read."""
        covered = np.round(self.covered + self.clash(others), 6)
        return min(range(len(self.places)), key=lambda k: (covered[k], self.far[k]))

    def taken(self, k: int) -> NDArray:
        """The boxes that a place covers: with some room around the label, and the line to it."""
        gap = GAP * self.size[1]
        boxes = [self.boxes[k] + (-gap, -gap, gap, gap)]
        if self.led[k]:
            boxes += [np.array([x - 0.5, y - 0.5, x + 0.5, y + 0.5]) for x, y in self.leads[k]]
        return np.array(boxes)


def _places(point: Spot, size: Spot) -> list[Placed]:
    """The nearest first; to the right before elsewhere."""
    (x, y), (width, height), found = point, size, []
    for distance in DISTANCES:
        for i in range(DIRECTIONS):
            angle = 2 * pi / DIRECTIONS * (i // 2 + 1 if i % 2 else -(i // 2))
            across, up = cos(angle), sin(angle)
            end = x + distance * height * across, y + distance * height * up
            left = end[0] - (0 if across > 0.3 else width if across < -0.3 else width / 2)
            low = end[1] - (height / 2 if abs(up) < 0.8 else 0 if up > 0 else height)
            found.append(Placed((left, low, left + width, low + height), distance, end))
    return found


def _along(line: Sequence[Spot], count: int = 48) -> NDArray:
    """Spots (n, 2) along a line, evenly spread over each of its pieces."""
    shares = np.linspace(0, 1, count)[:, None]
    pieces = [(1 - shares) * np.array(a) + shares * np.array(b) for a, b in pairwise(line)]
    return np.concatenate([np.zeros((0, 2)), *pieces])


def _shared(boxes: NDArray, others: NDArray) -> NDArray:
    """The area that boxes (n, 4) and others (m, 4) have in common, (n, m)."""
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    return np.maximum(high - low, 0).prod(axis=-1)
