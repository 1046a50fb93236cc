"""Run an ablation: count the cost of every row, and train it if there are images to train on.

The rows are recipes of a suite of one task, the data. Their results are in a ledger, OUT/ledger.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

from paretune.catalogue import Recipe, Schedule
from paretune.data.samples import ImageSet
from paretune.drawn.digit_sets import digit_sets
from paretune.ledger.results import Ledger
from paretune.measure.cost import Cost, cost
from paretune.papers.tables import tables
from paretune.papers.variants import Variant, order
from paretune.plan import adapt
from paretune.suite.planning import Plan, described
from paretune.suite.protocols import Protocol
from paretune.suite.run import LEDGER, run_here
from paretune.suite.suites import Source, Suite
from paretune.training.trials import Split, read_three

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
    equal settings are trained once. Raises UsageError, before any training, if a row does not fit the model.
    """
    by_key: dict[str, Variant] = {}
    for row in rows:
        by_key.setdefault(row.key, row)
    classes, found = None, {}
    if data is not None:
        plan = planned(list(by_key.values()), model, data, seeds, schedule, Path(out), device)
        (task,) = plan.suite.groups
        classes = described(plan.suite, task)["test"]["classes"]
        results = run_here(plan, Ledger(plan.out / LEDGER), tell)
        found = {key: [results[task, row.name, seed].test for seed in seeds] for key, row in by_key.items()}
    costs = {key: cost(adapt(model, row.methods.adapters, row.methods.reducer, classes)) for key, row in by_key.items()}
    return {
        "model": model,
        "data": None if data is None else str(data),
        "seeds": list(seeds),
        "schedule": asdict(schedule),
        "tables": {name: _table(name, [row for row in rows if row.table == name], costs, found)
                   for name in dict.fromkeys(row.table for row in rows)},
    }  # fmt: skip


def planned(
    rows: Sequence[Variant],
    model: str,
    data: str | Path,
    seeds: Sequence[int],
    schedule: Schedule,
    out: Path,
    device: str = "auto",
) -> Plan:
    """The rows as recipes of a suite with one task. Nothing is tuned, so the protocol's name has the learning rate."""
    task = re.sub(r"[^A-Za-z0-9]+", "-", Path(data).name).strip("-") or "data"
    protocol = Protocol(
        f"ablation, lr {schedule.lr:g}",
        "one schedule for all rows; the epoch is chosen on validation images; the test is used once",
        schedule,
        train="train",
        validate="val",
    )
    recipes = [
        Recipe(row.name, f"{row.table}, {row.row}: {row.methods}", row.methods.adapters, row.methods.reducer, schedule)
        for row in rows
    ]
    suite = Suite("ablation", {task: "all"}, Source(read_parts, (str(data),)))
    return Plan(suite, tuple(recipes), protocol, tuple(seeds), model, out, device)


def read_parts(data: str, task: str) -> dict[str, ImageSet]:
    """The parts of the task: train, val and test of `data`."""
    found = Split(*digit_sets(seed=0)) if data == DIGITS else read_three(data)
    return {"train": found.train, "val": found.validate, "test": found.test}


def _table(name: str, rows: list[Variant], costs: dict[str, Cost], found: dict[str, list[float]]) -> dict:
    compared = [(row.accuracy, found[row.key]) for row in rows if row.accuracy is not None and row.key in found]
    agreement = None
    if len(compared) > 1:
        result = order(*zip(*compared, strict=True))
        agreement = {**asdict(result), "text": str(result)}
    told = [_row(row, costs[row.key], found.get(row.key, [])) for row in rows]
    return {"title": tables()[name].title, "rows": told, "order": agreement}


def _row(row: Variant, counted: Cost, accuracies: list[float]) -> dict:
    return {
        "row": row.row,
        "trained": counted.trained_without_head,
        "macs": counted.macs,
        "printed": row.printed,
        "paper_accuracy": row.accuracy,
        "accuracy": fmean(accuracies) if accuracies else None,
        "deviation": stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "accuracies": accuracies,
    }
