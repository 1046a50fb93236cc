"""The four known traps of comparing accuracies on VTAB-1K and its like; each is one sentence with its evidence.

    lossy data      pictures stored anew as JPEG: CIFAR-100 loses about ten points so
    normalisation   inputs that are not what the backbone was pretrained with
    average         flat mean and group mean under one name
    selection       epoch or settings chosen by the test images

They are told also where all rows share them, because what they share may still not be what the reader believes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from paretune.ledger.entries import Side

EITHER = "flat mean and group mean"  # of a printed mean that fits both
FED, OWN = "protocol.preprocessing", "backbone.normalisation"  # where means and deviations stand
KINDS = {EITHER: "what both means round to", "neither": "neither mean"}


def traps(sides: Sequence[Side]) -> list[str]:
    """A sentence for every trap that these sides are in."""
    return [sentence for find in (_lossy, _normalisation, _average, _selection) if (sentence := find(sides))]


def _lossy(sides: Sequence[Side]) -> str:
    stored = {"lossy": "lossy pictures", "mixed": "partly lossy pictures", "unknown": "pictures of unknown storage"}
    found = [_whose(sides, lambda side, value=value: value in _lossiness(side), what) for value, what in stored.items()]
    return _told("lossy data", found, "; pictures stored anew as JPEG score lower")


def _lossiness(side: Side) -> set[str]:
    return {json.loads(v) for path, values in side.terms.items() if path.startswith("data.lossy ") for v in values}


def _normalisation(sides: Sequence[Side]) -> str:
    found = []
    by_statistics = _by(sides, lambda side: tuple(_statistics(side, path) for path in (FED, OWN)))
    for (fed, own), some in by_statistics.items():
        names = _names(side.name for side in some)
        if not fed:
            found.append(f"not stated for {names}")
        elif not own:
            found.append(f"{fed} for {names}; whether the backbone was pretrained so is not stated")
        elif fed != own:
            found.append(f"{fed} for {names}, but the backbone was pretrained with {own}")
    if not found and len(by_statistics) > 1:
        found = [f"{fed} for {_names(side.name for side in some)}" for (fed, _), some in by_statistics.items()]
    return _told("normalisation", found)


def _statistics(side: Side, path: str) -> str:
    """ "mean 0.5 0.5 0.5, std 0.5 0.5 0.5", or nothing where that is not stated."""
    values = {name: side.terms.get(f"{path}.{name}") for name in ("mean", "std")}
    if None in values.values():
        return ""
    return ", ".join(
        f"{name} {' or '.join(' '.join(f'{x:g}' for x in json.loads(value)) for value in sorted(found))}"
        for name, found in values.items()
    )


def _average(sides: Sequence[Side]) -> str:
    printed = [side for side in sides if side.printed is not None]
    kinds = {side.printed[1] for side in printed} - {EITHER}
    if not printed or (len(kinds) == 1 and len(printed) == len(sides)):
        return ""
    found = []
    for kind, some in _by(printed, lambda side: side.printed[1]).items():
        numbers = _names(f"{side.name} ({side.printed[0]})" for side in some)
        found.append(f"{KINDS.get(kind, f'the {kind}')} is printed for {numbers}")
    return _told("average", found, "; here both means are computed from the accuracies of the tasks")


def _selection(sides: Sequence[Side]) -> str:
    used = _whose(sides, lambda side: any(use != '"once"' for use in _uses(side)), "the test helped to choose")
    silent = _whose(sides, lambda side: not _uses(side), "it is not stated what chose")
    return _told("selection", [used, silent], "; a test that chooses flatters" * bool(used))


def _uses(side: Side) -> frozenset[str]:
    return side.terms.get("protocol.test_used", frozenset())


def _whose(sides: Sequence[Side], applies: Callable[[Side], bool], what: str) -> str:
    names = [side.name for side in sides if applies(side)]
    return f"{what} for {_names(names)}" if names else ""


def _names(names: Iterable[str]) -> str:
    """All of them: "lora, full and fpet-lora"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _told(trap: str, found: Iterable[str], moral: str = "") -> str:
    """The sentence, or nothing if nothing was found."""
    evidence = "; ".join(one for one in found if one)
    return f"{trap}: {evidence}{moral}" if evidence else ""


def _by(sides: Sequence[Side], key: Callable[[Side], object]) -> dict:
    """The sides by a key, in order of appearance."""
    found: dict = {}
    for side in sides:
        found.setdefault(key(side), []).append(side)
    return found
