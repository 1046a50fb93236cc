"""What a reader of a comparison must know besides the numbers: what was left out, seeds, machines, tuning."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from paretune.ledger.averages import CONFIDENCE
from paretune.ledger.entries import Side

SOFTWARE = ("python", "torch", "torchvision", "timm", "paretune")


def remarks(sides: Sequence[Side], whole: Sequence[Side], baseline: str) -> list[str]:
    """Sentences. `sides` as they were read, `whole` the same with the tasks and seeds that count."""
    return [*_left_out(sides, whole), *_seeds(whole, baseline), *_machines(sides), *_tuning(sides), *_printed(sides)]


def _left_out(sides: Sequence[Side], whole: Sequence[Side]) -> Iterator[str]:
    kept = whole[0].scores
    for task in dict.fromkeys(task for side in sides for task in side.scores if task not in kept):
        lacking = [side.name for side in sides if task not in side.scores]
        yield f"{task} is left out of all means: {', '.join(lacking)} {_has(lacking)} no result there"
    for side, used in zip(sides, whole, strict=True):
        counted = next(iter(used.scores.values()))
        for seed in sorted({seed for task in kept for seed in side.scores[task]} - counted.keys()):
            missing = [task for task in kept if seed not in side.scores[task]]
            yield f"seed {seed} of {side.name} is left out: it has no result on {', '.join(missing)}"


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def seeds(side: Side) -> list[int]:
    """The seeds of a side whose tasks all have the same; none of a published row."""
    return [seed for seed in next(iter(side.scores.values())) if seed is not None]


def _seeds(whole: Sequence[Side], baseline: str) -> Iterator[str]:
    own = {side.name: seeds(side) for side in whole}
    if len({tuple(sorted(found)) for found in own.values()}) > 1:
        yield "seeds differ: " + "; ".join(f"{name} {_listed(found)}" for name, found in own.items())
    if alone := [name for name, found in own.items() if len(found) < 2]:
        yield f"no interval for {_who(alone, own)}: {CONFIDENCE:.0%} intervals are over seeds and need two"
    (base,) = [side for side in whole if side.name == baseline]
    for side in whole:
        common = next(iter(side.scores.values())).keys() & next(iter(base.scores.values())).keys()
        if not common:
            yield f"{side.name} less {baseline} is a difference of means: they have no seed in common to pair"
        elif len(common) < max(len(seeds(side)), len(seeds(base)), 1):
            yield f"{side.name} less {baseline} is over the seeds that both have: {_listed(sorted(common))}"


def _who(names: Sequence[str], everyone: Collection[object]) -> str:
    return "all" if len(names) == len(everyone) > 1 else ", ".join(names)


def _listed(found: Sequence[int]) -> str:
    return " ".join(map(str, found)) or "not stated"


def _machines(sides: Sequence[Side]) -> Iterator[str]:
    if len(found := machines(sides)) > 1:
        yield f"measured on several machines: {'; '.join(found)}"
    for name in SOFTWARE:
        versions = {str(row.environment.get(name)) for side in sides for row in side.results}
        if len(versions) > 1:
            yield f"several versions of {name}: {', '.join(sorted(versions))}"


def machines(sides: Sequence[Side]) -> list[str]:
    """The classes of machines that results come from, as "NAME (cpu)"."""
    found = (row.environment for side in sides for row in side.results)
    return sorted({f"{one.get('name', 'unnamed machine')} ({one.get('device', 'unknown device')})" for one in found})


def _tuning(sides: Sequence[Side]) -> Iterator[str]:
    tried = {side.name: sorted({len(row.candidates) for row in side.results}) for side in sides if side.results}
    if len({tuple(numbers) for numbers in tried.values()}) > 1:
        each = (f"{name} {' or '.join(map(str, numbers))}" for name, numbers in tried.items())
        yield f"numbers of trainings to choose from, per task, differ: {'; '.join(each)}"


def _printed(sides: Sequence[Side]) -> Iterator[str]:
    if names := [side.name for side in sides if side.printed is not None]:
        yield f"costs are as printed, some with the head, for {_who(names, sides)}"
