"""Determine whether a printed mean accuracy is a flat mean or a group mean."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from paretune.papers.tables import PrintedMean, spread

GROUPS = (slice(0, 7), slice(7, 11), slice(11, 19))  # natural, specialised, structured, of the 19 tasks of VTAB-1K


@dataclass(frozen=True)
class Mean:
    """A printed mean accuracy and the means of the numbers beside it: over all, and over the three groups of VTAB (None
    where there are no groups). `which`: flat mean, group mean, both or neither is the printed one."""

    row: str
    label: str
    printed: str
    flat: float | None
    group: float | None
    which: str


def means(mean: PrintedMean) -> Mean:
    """Both means of the printed accuracies, and which of them is the printed one.

    The printed accuracies are rounded, so a mean matches the printed one if the difference can come from rounding.
    """
    if mean.of is None:
        return Mean(mean.row, mean.label, mean.printed, None, None, mean.reason)
    flat = fmean(mean.of)
    group = fmean(fmean(mean.of[part]) for part in GROUPS) if len(mean.of) == GROUPS[-1].stop else None
    low, high = map(float, spread(mean.printed))
    slack = 0.05 if group is not None else 0.005
    named = {"flat mean": flat, "group mean": group}
    fits = [name for name, value in named.items() if value is not None and low - slack <= value <= high + slack]
    return Mean(mean.row, mean.label, mean.printed, flat, group, " and ".join(fits) or "neither")
