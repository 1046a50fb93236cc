"""The entries of a comparison: recipes of ledgers and rows of published tables, in the same form.

runs/ledger.jsonl              all recipes of a ledger
runs/ledger.jsonl:lora         one recipe
published:fpet-2               all rows of a published table of VTAB-1K, see papers/vtab_rows.py
published:fpet-2:FPET-LoRA     one row; the table may be left out if only one table has the row
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from paretune.errors import UsageError, plain, unknown
from paretune.ledger.averages import Scores
from paretune.ledger.results import Ledger, Result, weights

PUBLISHED = "published:"
Terms = dict[str, frozenset[str]]  # {path: the values, as JSON, that the rows of an entry have there}


@dataclass(frozen=True)
class Entry:
    """A recipe and its scores.

    name: its name in the table; recipe, origin: its name in its source, and that source (file or published table)
    scores {task: {seed: share}}; groups {task: group}
    terms: everything that must be equal for scores to be comparable; a missing path means that it is not stated
    trained: parameters without the head; macs per image and tokens in the last block; None if not stated
    results: the rows of the ledger; printed: the mean as printed in a paper, and which kind of mean it is
    """

    name: str
    recipe: str
    origin: str
    scores: Scores
    groups: dict[str, str]
    terms: Terms
    trained: int | None
    macs: int | None
    tokens: int | None
    results: tuple[Result, ...] = ()
    printed: tuple[str, str] | None = None


def read_entries(arguments: Sequence[str], published: Callable[[str], list[Entry]]) -> list[Entry]:
    """The entries that the arguments name, in their order, with distinct names.

    published: gives the entries of "TABLE", "TABLE:ROW" or "ROW" of the papers: `papers.vtab_rows.published_entries`
    Raises UsageError for a file, recipe or published row that does not exist, and for an entry that is given twice.
    """
    entries = [entry for argument in arguments for entry in _read(argument, published)]
    places = [(entry.origin, entry.recipe) for entry in entries]
    if twice := [place for i, place in enumerate(places) if place in places[:i]]:
        raise UsageError(f"{twice[0][1]} of {twice[0][0]} is given twice: give every recipe once")
    recipes = [entry.recipe for entry in entries]
    return [
        replace(entry, name=f"{entry.recipe} ({entry.origin})") if recipes.count(entry.recipe) > 1 else entry
        for entry in entries
    ]


def _read(argument: str, published: Callable[[str], list[Entry]]) -> list[Entry]:
    if argument.startswith(PUBLISHED):
        return published(argument.removeprefix(PUBLISHED))
    if Path(argument).is_file():
        return ledger_entries(argument)
    if Path(argument).is_dir():
        raise UsageError(
            f"'{plain(argument)}' is a folder, but compare reads ledgers: give the ledger.jsonl of a suite, or compare "
            "runs with `paretune report RUN RUN`"
        )
    file, _, recipe = argument.rpartition(":")
    if not Path(file).is_file():
        raise UsageError(
            f"there is no ledger '{argument}': give FILE or FILE:RECIPE, where FILE is a ledger.jsonl that "
            f"`paretune suite` wrote, or {PUBLISHED}TABLE:ROW"
        )
    entries = {entry.recipe: entry for entry in ledger_entries(file)}
    if recipe not in entries:
        raise unknown(f"recipe of {file}", recipe, list(entries))
    return [entries[recipe]]


def ledger_entries(path: str | Path) -> list[Entry]:
    """All recipes of a ledger in order of appearance. Raises UsageError if there is none."""
    rows = Ledger(path).rows()
    if not rows:
        raise UsageError(f"{path} has no results: run `paretune suite` first")
    recipes = dict.fromkeys(row.recipe for row in rows)
    return [_entry(str(path), recipe, [row for row in rows if row.recipe == recipe]) for recipe in recipes]


def _entry(path: str, recipe: str, rows: list[Result]) -> Entry:
    scores: dict[str, dict[int | None, float]] = {}
    places: dict[tuple[str, int], Result] = {}
    for row in rows:
        if (first := places.setdefault((row.task, row.seed), row)) is not row:
            raise UsageError(_two_answers(path, first, row))
        scores.setdefault(row.task, {})[row.seed] = row.test
    return Entry(
        name=recipe,
        recipe=recipe,
        origin=path,
        scores=scores,
        groups={row.task: row.group for row in rows},
        terms=gathered(pair for row in rows for pair in _terms(row)),
        trained=_mean(row.cost["trained_without_head"] for row in rows),
        macs=_mean(row.cost["macs"] for row in rows),
        tokens=_mean(row.cost["tokens_last"] for row in rows),
        results=tuple(rows),
    )


def _two_answers(path: str, first: Result, second: Result) -> str:
    one, other = ({**dict(_terms(row)), **dict(_settings(row))} for row in (first, second))
    apart = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return (
        f"{path}: lines {first.line} and {second.line} are both {first.recipe} on {first.task} with seed {first.seed}, "
        f"but differ in {', '.join(apart)}: put them into two ledgers, or give the recipes different names"
    )


def _mean(values: Iterable[int]) -> int:
    """The mean over the tasks, because their heads have different sizes."""
    return round(fmean(values))


def _terms(row: Result) -> Iterator[tuple[str, Any]]:
    """Every path and value of a row that comparable rows must share; data and metric are listed for each task.

    The grid is one value, even if it contains a grid for each recipe: two rows agree if their protocols have the same
    grid. The values that tuning chose may differ.
    """
    yield "suite", row.suite
    yield f"metric of {row.task}", row.metric
    for name in ("train", "val", "test", "lossy"):
        yield f"data.{name} of {row.task}", row.data[name]
    yield from flat("backbone", weights(row.backbone))
    yield from flat("protocol", {key: value for key, value in row.protocol.items() if key != "grid"})
    yield "protocol.grid", row.protocol["grid"]


def _settings(row: Result) -> Iterator[tuple[str, Any]]:
    yield from flat("settings.adapters", dict(enumerate(row.settings["adapters"])))
    yield "settings.reducer", row.settings["reducer"]


def flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The paths and values of nested objects. A list is one value; an empty object has none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{path}.{key}", inner)
    else:
        yield path, value


def gathered(pairs: Iterable[tuple[str, Any]]) -> Terms:
    """All values of every path."""
    found: dict[str, set[str]] = {}
    for path, value in pairs:
        found.setdefault(path, set()).add(json.dumps(value, sort_keys=True))
    return {path: frozenset(values) for path, values in found.items()}
