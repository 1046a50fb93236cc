"""The Pareto front: the points that no other point beats in both cost and gain."""

from __future__ import annotations

from collections.abc import Sequence


def frontier(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """The indices of the points (cost, gain) that no other point dominates, by increasing cost.

    A point dominates another if its cost is at most as high and its gain at least as high, one of the two strictly. So
    equal points are either all on the front or none of them. A point without a value is never on it and dominates none.
    """
    known = {i: (cost, gain) for i, (cost, gain) in enumerate(points) if cost is not None and gain is not None}
    front = [i for i, own in known.items() if not any(_dominates(other, own) for other in known.values())]
    return sorted(front, key=lambda i: known[i])


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]
