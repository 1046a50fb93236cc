"""Tune, train and test every recipe on every task under one protocol. Each result is a row of the ledger.

OUT/<task>/<recipe>/lr<lr>/seed<seed>/     one training, see training/trials.py: a finished one is not repeated
OUT/ledger.jsonl                           a row per recipe, task and seed, written when its test is done
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from paretune.errors import refuse
from paretune.ledger.results import Ledger, Result, key
from paretune.methods import completed
from paretune.suite.jobs import work
from paretune.suite.planning import Plan
from paretune.suite.pool import Here, Pool
from paretune.suite.progress import Progress

LEDGER = "ledger.jsonl"


def run_suite(plan: Plan, pool: Pool, ledger: Ledger, tell: Callable[[str], None] = lambda line: None) -> list[str]:
    """Run all jobs without a row in the ledger. Returns a sentence for every job that failed; the others continue.

    Jobs of the first task come first, and the seeds of a recipe and task start when the learning rate is chosen. The
    next call repeats jobs that failed or were interrupted. The pool is closed at the end. Raises UsageError for a
    recipe that does not fit the backbone, before anything is trained.
    """
    plan.check()
    pairs = plan.pairs()
    queue, number, failed = [], count(), []

    def add(order: int, jobs: list) -> None:
        for job in jobs:
            heapq.heappush(queue, (order, next(number), job))

    known = answers(plan, ledger)
    for order, pair in enumerate(pairs):
        add(order, pair.first({seed for seed in plan.seeds if (pair.task, pair.recipe.name, seed) in known}))
    progress = Progress(sum(pair.most() for pair in pairs))
    running: dict[Any, tuple] = {}
    try:
        while queue or running:
            while queue and len(running) < pool.slots:
                order, _, job = heapq.heappop(queue)
                running[pool.start(job)] = (order, job)
            for handle, result in pool.wait(list(running)).items():
                order, job = running.pop(handle)
                try:
                    if isinstance(result, Exception):
                        raise result
                    tell(progress.done(job, result))
                    if job.test:
                        ledger.append(pairs[order].row(result))
                    else:
                        add(order, pairs[order].after(job, result))
                except Exception as problem:
                    failed.append(f"{job}: {problem}")
                    tell(f"FAILED {failed[-1]}")
    except BaseException:
        pool.close(now=True)
        raise
    pool.close()
    return failed


def answers(plan: Plan, ledger: Ledger) -> dict[tuple[str, str, int], Result]:
    """The rows of the ledger that belong to a plan, by task, recipe and seed, in the plan's order."""
    known = {key(_completed(row)): row for row in ledger.rows()}
    planned = {
        (pair.task, pair.recipe.name, seed): key(pair.question(seed)) for pair in plan.pairs() for seed in plan.seeds
    }
    return {names: known[question] for names, question in planned.items() if question in known}


def run_here(
    plan: Plan, ledger: Ledger, tell: Callable[[str], None] = lambda line: None
) -> dict[tuple[str, str, int], Result]:
    """All results of a plan. Those without a row in the ledger are run first, one training after another.

    Raises UsageError for jobs that failed, after all others have ended.
    """
    refuse(run_suite(plan, Here(work), ledger, tell), "some trainings failed")
    return answers(plan, ledger)


def _completed(row: Result) -> dict:
    """A row of the ledger with missing settings filled with this version's defaults."""
    return {**vars(row), "settings": completed(row.settings)}
