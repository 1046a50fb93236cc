"""The rows of the papers' ablations: the counts that paretune computes for them, and accuracies on your own images.

The rows are those of the published tables (`tables.py`), so the number of the paper is known for each of our numbers.
On other data and another backbone, accuracies cannot be compared as numbers, but the order of the rows can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

from paretune.errors import UsageError, unknown
from paretune.methods import Methods
from paretune.papers.tables import tables

PAPERS = {
    "sparse-tuning": ("V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"),
    "fpet": ("3", "figure-3"),
}


@dataclass(frozen=True)
class Variant:
    """A row of an ablation. printed: the paper's cells by quantity; accuracy: its mean over data sets in percent, or
    the difference to its first row, None where the paper prints none; key: equal for rows of equal settings."""

    table: str
    row: str
    key: str
    methods: Methods
    printed: dict[str, str]
    accuracy: float | None

    @property
    def name(self) -> str:
        """A name that is valid for a folder."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.table} {self.row}".lower()).strip("-")


def variants(paper: str, only: Sequence[str] = ()) -> list[Variant]:
    """The rows of a paper's ablations, or of the tables `only`. Raises UsageError for an unknown paper or table."""
    if paper not in PAPERS:
        raise unknown("paper", paper, list(PAPERS))
    names = {name.lower(): name for name in PAPERS[paper]}
    for name in only:
        if name.lower() not in names:
            raise unknown(f"ablation of {paper}", name, list(PAPERS[paper]))
    chosen = [names[name.lower()] for name in only] or PAPERS[paper]
    return [one for name in chosen for one in _rows(f"{paper}-{name}")]


def _rows(key: str) -> list[Variant]:
    table = tables()[key]
    printed: dict[str, dict[str, str]] = {row: {} for row in table.settings}
    for number in table.numbers:
        if number.row in printed:
            printed[number.row].setdefault(number.quantity, number.value or f"{number.change} %")
    means = {row: fmean(accuracies) for row, accuracies in table.accuracies.items()}
    return [
        Variant(key, row, setting.key(), setting.methods, printed[row], means.get(row))
        for row, setting in table.settings.items()
    ]


@dataclass(frozen=True)
class Order:
    """The number of pairs of rows whose accuracies have the paper's order, or the opposite order; `clear`: the pairs
    among these whose difference here is more than two standard errors, paired by seed."""

    agree: int
    against: int
    clear_agree: int
    clear_against: int

    def __str__(self) -> str:
        return (
            f"{self.agree} of {self.agree + self.against} pairs of rows have the paper's order; of those that differ "
            f"by more than two standard errors, paired by seed, {self.clear_agree} have it, {self.clear_against} do not"
        )


def order(published: Sequence[float], found: Sequence[Sequence[float]]) -> Order:
    """Compare the order of rows: `published` accuracies, and ours, one per seed in the same order of seeds.

    Pairs that are equal on either side count for neither. Raises UsageError for unequal numbers of seeds.
    """
    if len({len(seeds) for seeds in found}) > 1:
        raise UsageError("the rows have different numbers of seeds: run all of them with the same seeds")
    counts = {(agree, clear): 0 for agree in (True, False) for clear in (True, False)}
    for a, b in combinations(range(len(found)), 2):
        theirs, ours = published[a] - published[b], [x - y for x, y in zip(found[a], found[b], strict=True)]
        if theirs and fmean(ours):
            counts[theirs * fmean(ours) > 0, _clear(ours)] += 1
    yes, no = counts[True, True], counts[False, True]
    return Order(yes + counts[True, False], no + counts[False, False], yes, no)


def _clear(differences: Iterable[float]) -> bool:
    differences = list(differences)
    if len(differences) < 2:
        return False
    return abs(fmean(differences)) > 2 * stdev(differences) / len(differences) ** 0.5
