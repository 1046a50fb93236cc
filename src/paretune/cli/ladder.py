"""`paretune bench --artefact` and `paretune bench --deploy`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.cli.output import say
from paretune.errors import UsageError

if TYPE_CHECKING:
    from paretune.data.samples import ImageSet
    from paretune.deploy.ladder import Ladder


def time_artefacts(files: Sequence[Path], batches: Sequence[int], rounds: int) -> Ladder:
    """Artefacts beside timm's own forward."""
    from paretune.deploy.ladder import side_by_side

    return side_by_side(files, batches, rounds)


def deploy_run(
    run: Path,
    out: Path | None,
    to: Sequence[str] | None,
    numbers: Sequence[str] | None,
    data: str | None,
    batches: Sequence[int],
    rounds: int,
) -> Ladder:
    """A run as every artefact. Raises UsageError before anything is written."""
    from paretune.checkpoint import load
    from paretune.deploy.export import DTYPES, check
    from paretune.deploy.ladder import climb, rungs_for
    from paretune.deploy.pictures import pictures_for

    rungs = rungs_for(to or list(DTYPES), numbers or ("fp32", "bf16", "int8"))
    if out is None:
        raise UsageError("--deploy writes artefacts: give it a folder with --out")
    for runtime, dtype in rungs:
        check(runtime, dtype, (1, max(batches)), None)
    model = load(run)
    labelled = None if data is None else _labelled(data, tuple(model.classes or ()), model.task)
    return climb(
        model, pictures_for(model, run), out, rungs=rungs, data=labelled, batches=batches, rounds=rounds,
        tell=lambda line: say(line, err=True),
    )  # fmt: skip


def _labelled(data: str, classes: tuple[str, ...], task: str) -> ImageSet:
    """The validation images of data that are split, all images of others."""
    from paretune.data.opening import available_splits, open_split
    from paretune.data.task import known_task

    split = "val" if "val" in available_splits(data, known_task(task)) else "all"
    return open_split(data, split, classes, task=known_task(task))
