"""Means over tasks with their uncertainty: flat and group mean, intervals over seeds, paired differences.

    flat mean    of all tasks                              what Sparse-Tuning prints
    group mean   of the means of the groups of tasks       what FPET prints, and most tables of VTAB-1K

Both papers just say "mean". On VTAB-1K the means differ by two to three points, because two of the groups are small.

An interval is over seeds. Every seed gives one mean over tasks; the result is the mean of these, plus or minus
Student's t times their standard error. So the interval says how much another seed would change the result, but nothing
about other tasks or other images: the tasks are those of the suite, not a sample of tasks. Bootstrapping three or five
seeds would give intervals that are far too short. Student's t allows for the small number of seeds; it assumes that the
means of seeds are normally distributed, which is nearly true for sums over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
Scores = Mapping[str, Mapping[int | None, float]]  # {task: {seed: score}}; the seed is None if there is only one number


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` seeds, and half of the width of its confidence interval, or None for fewer than two seeds."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Means:
    """The means of one recipe: flat mean, group mean, the mean of every group and of every task."""

    flat: Estimate
    group: Estimate
    groups: dict[str, Estimate]
    tasks: dict[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """The difference of two recipes, on the seeds and tasks that both have.

    flat, group: differences of the means over tasks; tasks: differences of every task
    paired: whether the difference is taken seed by seed. Otherwise the two have no seed in common; the means are
    subtracted, and there is no interval
    """

    flat: Estimate
    group: Estimate
    tasks: dict[str, Estimate]
    paired: bool

    @property
    def record(self) -> tuple[int, int, int]:
        """The number of tasks on which the first recipe is better, equal, worse in the mean over seeds."""
        signs = [0 if abs(one.mean) < 1e-9 else math.copysign(1, one.mean) for one in self.tasks.values()]
        return signs.count(1), signs.count(0), signs.count(-1)


def means(scores: Scores, groups: Mapping[str, str]) -> Means:
    """The means of scores that have the same seeds in every task.

    groups: {task: group} for all tasks of `scores`.
    """
    seeds = list(next(iter(scores.values())))
    flat = [fmean(task[seed] for task in scores.values()) for seed in seeds]
    by_group = {
        group: [fmean(scores[task][seed] for task in scores if groups[task] == group) for seed in seeds]
        for group in dict.fromkeys(groups[task] for task in scores)
    }
    return Means(
        flat=estimate(flat),
        group=estimate([fmean(values) for values in zip(*by_group.values(), strict=True)]),
        groups={group: estimate(values) for group, values in by_group.items()},
        tasks={task: estimate(list(own.values())) for task, own in scores.items()},
    )


def difference(one: Scores, other: Scores, groups: Mapping[str, str]) -> Difference:
    """`one` minus `other`. Both have the same tasks, and each has the same seeds in every task."""
    common = [seed for seed in next(iter(one.values())) if seed in next(iter(other.values()))]
    apart: dict[str, dict[int | None, float]]
    if common:
        apart = {task: {seed: one[task][seed] - other[task][seed] for seed in common} for task in one}
    else:
        apart = {task: {None: fmean(one[task].values()) - fmean(other[task].values())} for task in one}
    found = means(apart, groups)
    return Difference(found.flat, found.group, found.tasks, paired=bool(common))


def complete(scores: Scores, tasks: Sequence[str]) -> dict[str, dict[int | None, float]]:
    """The scores on `tasks` of the seeds that have all of these tasks; the result may have no seed."""
    seeds = [seed for seed in scores[tasks[0]] if all(seed in scores[task] for task in tasks)]
    return {task: {seed: scores[task][seed] for seed in seeds} for task in tasks}


def estimate(values: Sequence[float]) -> Estimate:
    """Their mean and its 95 % confidence interval by Student's t."""
    n = len(values)
    half = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else None
    return Estimate(fmean(values), half, n)


def t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t distribution with this many degrees of freedom, 0.5 <= p < 1.

    Bisection on the angle of `_within`; exact to the last digits of a float.
    """
    low, high = 0.0, math.pi / 2
    while (angle := (low + high) / 2) not in (low, high):
        low, high = (angle, high) if _within(angle, degrees) < 2 * p - 1 else (low, angle)
    return math.sqrt(degrees) * math.tan(angle)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle)): for whole degrees a finite sum (Abramowitz and Stegun 1964, 26.7.3-4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
