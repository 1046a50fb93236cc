"""The Pareto front: what no other beats in both cost and gain."""

from __future__ import annotations

from collections.abc import Sequence


def frontier(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """The numbers of the points (cost, gain) that no other point dominates, from the cheapest to the dearest.

    A point dominates another if it costs at most as much and gains at least as much, one of the two strictly; so equal
    points are on the front together or not at all. A point that lacks a value is never on it and dominates nobody.
    """
    known = {i: (cost, gain) for i, (cost, gain) in enumerate(points) if cost is not None and gain is not None}
    front = [i for i, own in known.items() if not any(_dominates(other, own) for other in known.values())]
    return sorted(front, key=lambda i: known[i])


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]
