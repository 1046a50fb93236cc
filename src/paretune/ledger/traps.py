"""The four known traps of comparing accuracies on VTAB-1K and similar suites, each reported in one sentence.

    lossy data      images stored again as JPEG: CIFAR-100 loses about ten points
    normalisation   inputs with another normalisation than in the backbone's pretraining
    average         flat mean and group mean under one name
    selection       epoch or settings chosen on the test images

A trap is also reported if all rows share it, because the reader may not expect it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from paretune.ledger.entries import Entry

EITHER = "flat mean and group mean"  # a printed mean that can be both
FED, OWN = "protocol.preprocessing", "backbone.normalisation"  # paths of means and deviations
KINDS = {EITHER: "a value that fits both means", "neither": "a value that fits neither mean"}


def traps(entries: Sequence[Entry]) -> list[str]:
    """A sentence for every trap that applies to these entries."""
    return [sentence for find in (_lossy, _normalisation, _average, _selection) if (sentence := find(entries))]


def _lossy(entries: Sequence[Entry]) -> str:
    stored = {"lossy": "lossy pictures", "mixed": "partly lossy pictures", "unknown": "pictures of unknown storage"}
    found = [
        _whose(entries, lambda entry, value=value: value in _lossiness(entry), what) for value, what in stored.items()
    ]
    return _told("lossy data", found, "; pictures that were stored again as JPEG give lower scores")


def _lossiness(entry: Entry) -> set[str]:
    return {json.loads(v) for path, values in entry.terms.items() if path.startswith("data.lossy ") for v in values}


def _normalisation(entries: Sequence[Entry]) -> str:
    found = []
    by_statistics = _by(entries, lambda entry: tuple(_statistics(entry, path) for path in (FED, OWN)))
    for (fed, own), some in by_statistics.items():
        names = _names(entry.name for entry in some)
        if not fed:
            found.append(f"not stated for {names}")
        elif not own:
            found.append(f"{fed} for {names}; it is not stated whether the backbone was pretrained with it")
        elif fed != own:
            found.append(f"{fed} for {names}, but the backbone was pretrained with {own}")
    if not found and len(by_statistics) > 1:
        found = [f"{fed} for {_names(entry.name for entry in some)}" for (fed, _), some in by_statistics.items()]
    return _told("normalisation", found)


def _statistics(entry: Entry, path: str) -> str:
    """ "mean 0.5 0.5 0.5, std 0.5 0.5 0.5", or "" if it is not stated."""
    values = {name: said for name in ("mean", "std") if (said := entry.terms.get(f"{path}.{name}")) is not None}
    if len(values) < 2:
        return ""
    return ", ".join(
        f"{name} {' or '.join(' '.join(f'{x:g}' for x in json.loads(value)) for value in sorted(found))}"
        for name, found in values.items()
    )


def _average(entries: Sequence[Entry]) -> str:
    printed = [entry for entry in entries if entry.printed is not None]
    kinds = {_kind(entry) for entry in printed} - {EITHER}
    if not printed or (len(kinds) == 1 and len(printed) == len(entries)):
        return ""
    found = []
    for kind, some in _by(printed, _kind).items():
        numbers = _names(f"{entry.name} ({entry.printed[0]})" for entry in some if entry.printed is not None)
        found.append(f"{KINDS.get(kind, f'the {kind}')} is printed for {numbers}")
    return _told("average", found, "; here both means are computed from the accuracies of the tasks")


def _kind(entry: Entry) -> str:
    return "" if entry.printed is None else entry.printed[1]


def _selection(entries: Sequence[Entry]) -> str:
    used = _whose(
        entries, lambda entry: any(use != '"once"' for use in _uses(entry)), "the test images were used to choose"
    )
    silent = _whose(entries, lambda entry: not _uses(entry), "it is not stated which images were used to choose")
    return _told("selection", [used, silent], "; this makes results look better than they are" * bool(used))


def _uses(entry: Entry) -> frozenset[str]:
    return entry.terms.get("protocol.test_used", frozenset())


def _whose(entries: Sequence[Entry], applies: Callable[[Entry], bool], what: str) -> str:
    names = [entry.name for entry in entries if applies(entry)]
    return f"{what} for {_names(names)}" if names else ""


def _names(names: Iterable[str]) -> str:
    """All of them: "lora, full and fpet-lora"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _told(trap: str, found: Iterable[str], moral: str = "") -> str:
    """The sentence, or "" if nothing was found."""
    evidence = "; ".join(one for one in found if one)
    return f"{trap}: {evidence}{moral}" if evidence else ""


def _by(entries: Sequence[Entry], key: Callable[[Entry], object]) -> dict:
    """The entries by a key, in order of appearance."""
    found: dict = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return found
