"""Remarks on a comparison besides the numbers: what was left out, seeds, machines, tuning."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from paretune.ledger.averages import CONFIDENCE
from paretune.ledger.entries import Entry

SOFTWARE = ("python", "torch", "torchvision", "timm", "paretune")


def remarks(entries: Sequence[Entry], whole: Sequence[Entry], baseline: str) -> list[str]:
    """The remarks as sentences. `entries`: as they were read; `whole`: the same with only the tasks and seeds used."""
    return [
        *_left_out(entries, whole),
        *_seeds(whole, baseline),
        *_machines(entries),
        *_tuning(entries),
        *_printed(entries),
    ]


def _left_out(entries: Sequence[Entry], whole: Sequence[Entry]) -> Iterator[str]:
    kept = whole[0].scores
    for task in dict.fromkeys(task for entry in entries for task in entry.scores if task not in kept):
        lacking = [entry.name for entry in entries if task not in entry.scores]
        yield f"{task} is left out of all means, because {', '.join(lacking)} {_has(lacking)} no result for it"
    for entry, used in zip(entries, whole, strict=True):
        counted = next(iter(used.scores.values()))
        for seed in sorted({seed for task in kept for seed in entry.scores[task] if seed is not None} - counted.keys()):
            missing = [task for task in kept if seed not in entry.scores[task]]
            yield f"seed {seed} of {entry.name} is left out, because it has no result for {', '.join(missing)}"


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def seeds(entry: Entry) -> list[int]:
    """The seeds of an entry, which are the same for all of its tasks; [] for a published row."""
    return [seed for seed in next(iter(entry.scores.values())) if seed is not None]


def _seeds(whole: Sequence[Entry], baseline: str) -> Iterator[str]:
    own = {entry.name: seeds(entry) for entry in whole}
    if len({tuple(sorted(found)) for found in own.values()}) > 1:
        yield "seeds differ: " + "; ".join(f"{name} {_listed(found)}" for name, found in own.items())
    if alone := [name for name, found in own.items() if len(found) < 2]:
        yield f"no interval for {_who(alone, own)}: {CONFIDENCE:.0%} intervals are over seeds and need two seeds"
    (base,) = [entry for entry in whole if entry.name == baseline]
    for entry in whole:
        common = next(iter(entry.scores.values())).keys() & next(iter(base.scores.values())).keys()
        if not common:
            yield f"{entry.name} minus {baseline} is a difference of means, because they have no seed in common"
        elif len(common) < max(len(seeds(entry)), len(seeds(base)), 1):
            stated = sorted(seed for seed in common if seed is not None)
            yield f"{entry.name} minus {baseline} uses the seeds that both have: {_listed(stated)}"


def _who(names: Sequence[str], everyone: Collection[object]) -> str:
    return "all" if len(names) == len(everyone) > 1 else ", ".join(names)


def _listed(found: Sequence[int]) -> str:
    return " ".join(map(str, found)) or "not stated"


def _machines(entries: Sequence[Entry]) -> Iterator[str]:
    if len(found := machines(entries)) > 1:
        yield f"measured on several machines: {'; '.join(found)}"
    for name in SOFTWARE:
        versions = {str(row.environment.get(name)) for entry in entries for row in entry.results}
        if len(versions) > 1:
            yield f"several versions of {name}: {', '.join(sorted(versions))}"


def machines(entries: Sequence[Entry]) -> list[str]:
    """The classes of machines that results come from, as "NAME (cpu)"."""
    found = (row.environment for entry in entries for row in entry.results)
    return sorted({f"{one.get('name', 'unnamed machine')} ({one.get('device', 'unknown device')})" for one in found})


def _tuning(entries: Sequence[Entry]) -> Iterator[str]:
    tried = {entry.name: sorted({len(row.candidates) for row in entry.results}) for entry in entries if entry.results}
    if len({tuple(numbers) for numbers in tried.values()}) > 1:
        each = (f"{name} {' or '.join(map(str, numbers))}" for name, numbers in tried.items())
        yield f"different numbers of trainings to choose from, per task: {'; '.join(each)}"


def _printed(entries: Sequence[Entry]) -> Iterator[str]:
    if names := [entry.name for entry in entries if entry.printed is not None]:
        yield f"the costs of {_who(names, entries)} are those printed in the papers; some include the head"
