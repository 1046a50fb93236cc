"""Run an ablation: count the cost of every row, and train it if there are images to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

from paretune.catalogue import Schedule
from paretune.drawn.digit_sets import digit_sets
from paretune.machine import environment
from paretune.measure.cost import Cost, cost
from paretune.papers.tables import tables
from paretune.papers.variants import Variant, order
from paretune.plan import adapt
from paretune.train.device import pick_device
from paretune.train.trials import Setting, Split, Trial, read_three, trial

DIGITS = "digits"


def ablation(
    rows: Sequence[Variant],
    model: str,
    data: str | Path | None,
    seeds: Sequence[int],
    schedule: Schedule,
    out: str | Path,
    device: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> dict:
    """The rows as JSON values, table by table: parameters, MACs, and accuracies if there is `data`.

    data: an image folder with train/ and test/, "digits" for the demo's images, or None to train nothing. Rows of
    equal settings are trained once. Raises UsageError if a row does not fit the model, before anything is trained.
    """
    by_key: dict[str, Variant] = {}
    for row in rows:
        by_key.setdefault(row.key, row)
    images = None if data is None else _read(data)
    classes = None if images is None else list(images.train.classes)
    costs = {key: cost(adapt(model, row.methods.adapters, row.methods.reducer, classes)) for key, row in by_key.items()}
    found: dict[str, list[Trial]] = {}
    for i, (key, row) in enumerate(by_key.items()):
        if images is None:
            break
        tell(f"training {row.table}, {row.row} ({i + 1} of {len(by_key)})")
        setting = Setting(row.name, model, row.methods, schedule)
        found[key] = [trial(setting, images, seed, out, device) for seed in seeds]
    return {
        "kind": "ablation",
        "model": model,
        "data": None if images is None else images.test.describe(),
        "seeds": list(seeds),
        "schedule": asdict(schedule),
        "environment": environment(pick_device(device)),
        "tables": {name: _table(name, [row for row in rows if row.table == name], costs, found)
                   for name in dict.fromkeys(row.table for row in rows)},
    }  # fmt: skip


def _read(data: str | Path) -> Split:
    return Split(*digit_sets(seed=0)) if str(data) == DIGITS else read_three(data)


def _table(name: str, rows: list[Variant], costs: dict[str, Cost], found: dict[str, list[Trial]]) -> dict:
    ours = {row.key: _accuracies(found[row.key]) for row in rows if row.key in found}
    compared = [(row.accuracy, ours[row.key]) for row in rows if row.accuracy is not None and row.key in ours]
    agreement = None
    if len(compared) > 1:
        result = order(*zip(*compared, strict=True))
        agreement = {**asdict(result), "text": str(result)}
    described = [_row(row, costs[row.key], found.get(row.key, [])) for row in rows]
    return {"title": tables()[name].title, "rows": described, "order": agreement}


def _accuracies(found: list[Trial]) -> list[float]:
    return [one.accuracy for one in found if one.accuracy is not None]


def _row(row: Variant, counted: Cost, found: list[Trial]) -> dict:
    accuracies = _accuracies(found)
    return {
        "row": row.row,
        "trained": counted.trained_without_head,
        "macs": counted.macs,
        "printed": row.printed,
        "paper_accuracy": row.accuracy,
        "accuracy": fmean(accuracies) if accuracies else None,
        "deviation": stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "trials": [asdict(one) for one in found],
    }
