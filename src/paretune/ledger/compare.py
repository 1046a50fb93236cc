"""Compare recipes by their results: check first what must be equal, then compute means, intervals and differences.

Rows can be compared if they have the same suite, metric, backbone (by fingerprint), data (by content hash) and
protocol: images for training and for choosing, grid, epoch, use of the test, schedule, preprocessing. The methods,
their settings and their tuned values may differ, because they are compared. Seeds, machines and versions may differ
too; a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from paretune.errors import UsageError, refuse, unknown
from paretune.ledger.averages import Difference, Means, complete, difference, means
from paretune.ledger.entries import Entry
from paretune.ledger.remarks import remarks
from paretune.ledger.traps import traps

SHORT = 12  # values up to this many characters are shown for each task


@dataclass(frozen=True)
class Compared:
    """An entry with its means over the common tasks, and its difference to the baseline (None for the baseline itself).

    unlike: whether its protocol differs from the baseline's
    """

    entry: Entry
    means: Means
    difference: Difference | None
    unlike: bool


@dataclass(frozen=True)
class Comparison:
    """The compared rows, on the tasks that all of them have.

    groups {task: group}, in the order of the table
    differences: sentences about different protocols; traps, notes: sentences with other information for the reader
    """

    rows: tuple[Compared, ...]
    baseline: str
    groups: dict[str, str]
    differences: tuple[str, ...]
    traps: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict:
        """JSON values; scores are shares of 0 to 1."""
        return {
            "baseline": self.baseline,
            "tasks": self.groups,
            "rows": [_to_dict(row) for row in self.rows],
            "differences": list(self.differences),
            "traps": list(self.traps),
            "notes": list(self.notes),
        }


def _to_dict(row: Compared) -> dict:
    entry, apart = row.entry, row.difference
    return {
        "name": entry.name,
        "recipe": entry.recipe,
        "origin": entry.origin,
        "trained": entry.trained,
        "macs": entry.macs,
        "tokens": entry.tokens,
        "seeds": [seed for seed in next(iter(entry.scores.values())) if seed is not None],
        "means": asdict(row.means),
        "to_baseline": None if apart is None else {**asdict(apart), "record": apart.record},
        "protocol_differs": row.unlike,
        "printed": entry.printed and {"mean": entry.printed[0], "which": entry.printed[1]},
    }


def compare(entries: Sequence[Entry], baseline: str | None = None, force: bool = False) -> Comparison:
    """Compare the entries with the one with the name `baseline`, by default the first one.

    Raises UsageError if the protocols differ and `force` is not set (it lists every difference), if the baseline is
    unknown, if there is no common task, or if an entry has no seed with all tasks.
    """
    by_name = {entry.name: entry for entry in entries}
    if baseline is not None and baseline not in by_name:
        raise unknown("baseline", baseline, list(by_name))
    groups = common_tasks(entries)
    apart = differences(entries, groups)
    if not force:
        refuse(apart, "these results cannot be compared (--force compares them anyway, with a warning)")
    whole = {entry.name: _complete(entry, groups) for entry in entries}
    base = by_name[baseline] if baseline else entries[0]
    rows = [
        Compared(
            whole[entry.name],
            means(whole[entry.name].scores, groups),
            None if entry is base else difference(whole[entry.name].scores, whole[base.name].scores, groups),
            unlike=bool(differences([base, entry], groups)),
        )
        for entry in entries
    ]
    notes = remarks(entries, list(whole.values()), base.name)
    return Comparison(tuple(rows), base.name, groups, tuple(apart), tuple(traps(entries)), tuple(notes))


def common_tasks(entries: Sequence[Entry]) -> dict[str, str]:
    """{task: group} of the tasks that all entries have, sorted by group.

    Raises UsageError if there is none.
    """
    shared = [task for task in entries[0].scores if all(task in entry.scores for entry in entries)]
    if not shared:
        having = "; ".join(f"{entry.name}: {', '.join(entry.scores)}" for entry in entries)
        raise UsageError(f"no task has results of all recipes: {having}; run the missing ones")
    order = list(dict.fromkeys(entries[0].groups[task] for task in shared))
    return {
        task: entries[0].groups[task] for task in sorted(shared, key=lambda task: order.index(entries[0].groups[task]))
    }


def _complete(entry: Entry, groups: dict[str, str]) -> Entry:
    """The entry with only the tasks of `groups` and the seeds that have all of them."""
    scores = complete(entry.scores, list(groups))
    if not next(iter(scores.values())):
        seeds = "; ".join(f"{task}: {', '.join(map(str, entry.scores[task]))}" for task in groups)
        raise UsageError(f"{entry.name} of {entry.origin} has no seed with all tasks ({seeds}): run the missing tasks")
    return replace(entry, scores=scores)


def differences(entries: Sequence[Entry], groups: dict[str, str]) -> list[str]:
    """A sentence for every path whose value differs between rows. The same path of several tasks gives one sentence.

    One more sentence for each entry lists all values that other entries state, but this one does not.
    """
    paths = dict.fromkeys(path for entry in entries for path in entry.terms if _task(path) in ("", *groups))
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        values, task = _values(path, entries), _task(path)
        if len(values) > 1:
            said = _said(values, entries, brief=bool(task))
            found.setdefault((path.removesuffix(f" of {task}"), said), []).append(task)
    told = [f"{stem}{_of(tasks, groups)} {said}" for (stem, said), tasks in found.items()]
    return told + _unstated(entries, list(paths))


def _task(path: str) -> str:
    """The task of a path: digits for "data.train of digits", "" for a path that is not about one task."""
    return path.partition(" of ")[2]


def _of(tasks: Sequence[str], groups: dict[str, str]) -> str:
    """ " of digits, shapes", or "" if a path is not about one task."""
    if not tasks[0]:
        return ""
    return " of all tasks" if len(tasks) == len(groups) else f" of {', '.join(tasks)}"


def _values(path: str, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """{value: the entries that state it}."""
    stating: dict[str, list[Entry]] = {}
    for entry in entries:
        for value in sorted(entry.terms.get(path, ())):
            stating.setdefault(value, []).append(entry)
    return stating


def _said(values: dict[str, list[Entry]], entries: Sequence[Entry], brief: bool) -> str:
    """The second half of the sentence. brief: leave out long values, which are hashes."""
    if brief and max(map(len, values)) > SHORT:
        return f"differs between {' and '.join(_places(some, entries) for some in values.values())}"
    return "is " + ", ".join(f"{value} in {_places(some, entries)}" for value, some in values.items())


def _unstated(entries: Sequence[Entry], paths: Sequence[str]) -> list[str]:
    silent: dict[str, list[Entry]] = {}
    for entry in entries:
        if lacking := dict.fromkeys(path.partition(" of ")[0] for path in paths if path not in entry.terms):
            silent.setdefault(", ".join(lacking), []).append(entry)
    do = {lacking: "does" if len(some) == 1 else "do" for lacking, some in silent.items()}
    return [f"{_places(some, entries)} {do[lacking]} not state {lacking}" for lacking, some in silent.items()]


def _places(some: Sequence[Entry], entries: Sequence[Entry]) -> str:
    """ "a.jsonl lora, full; b.jsonl lora", or only the names if all `entries` are from one file."""
    by_origin: dict[str, list[str]] = {}
    for entry in some:
        by_origin.setdefault(entry.origin, []).append(entry.recipe)
    if len({entry.origin for entry in entries}) == 1:
        return ", ".join(*by_origin.values())
    return "; ".join(f"{origin} {', '.join(recipes)}" for origin, recipes in by_origin.items())
