"""`paretune.train`: what `paretune train` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from paretune.errors import UsageError, printable

if TYPE_CHECKING:
    from paretune.catalogue import Recipe
    from paretune.core.model import Adapted
    from paretune.data.splitting import Splits
    from paretune.training.automatic import Build, Choice
    from paretune.training.fit import Result
    from paretune.training.minutes import Planner

Say = Callable[[str], None]

AUTO = "auto"
DEFAULT_MODEL, DEFAULT_SIZE = "vit_small_patch14_dinov2.lvd142m", 224
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LOADERS = min(4, _CORES // 2)


def _on_stderr(line: str) -> None:
    print(printable(line, keep="\n"), file=sys.stderr)


def train(
    data: str | Path,
    out: str | Path,
    model: str = DEFAULT_MODEL,
    recipe: str | Recipe = AUTO,
    *,
    set_: Sequence[str] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
    augment: str | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    crop: str | None = None,
    task: str | None = None,
    class_weights: str | None = None,
    seed: int = 0,
    val_share: float = 0.2,
    workers: int = LOADERS,
    mixed_precision: str | None = None,
    accumulate: int = 1,
    device: str = "auto",
    image_size: int | None = None,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    embed_backbone: bool = False,
    skip_unreadable: bool = False,
    download: bool = False,
    patience: int | None = None,
    choose_epoch: str = "careful",
    minutes: float | None = None,
    memory: str = "full",
    resume: bool = False,
    overwrite: bool = False,
    command: list[str] | None = None,
    tell: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Result:
    """Train a model on labelled images, and keep the epoch that is best on the validation images.

    The arguments are the options of `paretune train`, with the same names and defaults; `paretune train --help` says
    what each does. The folder `out` then holds what the command would have written.

    Args:
        data: a folder with a folder of images per class, FILE.csv, shards... (docs/data.md)
        recipe: a name, "auto" for a short search, or a `Recipe`
        set_: changes of single settings, such as ["adapter.rank=4"]
        image_size: side of the square input in pixels
        command: words of a command line that stand for this call when `--resume --out OUT` is asked for later
        tell: gets lines on what was left out or chosen; by default they go to stderr
        quiet: no progress and no such lines

    Returns:
        The result: `score`, `loss`, `best_epoch`, `history`...; `to_dict()` is what `--json` prints. The model of the
        best epoch is `paretune.load(out)`.

    Raises:
        UsageError: data that cannot be read, unknown names, impossible settings, an `out` that is in use.
    """
    started = perf_counter()
    from paretune.data.opening import open_splits
    from paretune.data.task import known_task
    from paretune.training.minutes import Planner
    from paretune.training.prepare import fit_on
    from paretune.verbs.recipes import build, chosen_recipe, lost, with_schedule

    say = (lambda line: None) if quiet else tell or _on_stderr
    out, file = Path(out), None if checkpoint is None else Path(checkpoint)
    wanted = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "augment": augment}
    wanted |= {"warmup_epochs": warmup_epochs, "class_weights": class_weights, "mixup": mixup, "cutmix": cutmix}
    changes = list(set_ or ())
    known = None if recipe == AUTO else chosen_recipe(recipe, changes, wanted)
    if known is None and changes:
        raise UsageError("--set changes a recipe: name one with --recipe, `paretune list recipes` shows them")
    if model == DEFAULT_MODEL and image_size is None:
        image_size = DEFAULT_SIZE
    images = open_splits(
        data, task=None if task is None else known_task(task), seed=seed, val_share=val_share,
        skip_unreadable=skip_unreadable, download=download, test=False,
    )  # fmt: skip
    _tell_skipped([*images.train.skipped, *images.val.skipped], say)
    classes, answers = list(images.train.classes), images.train.task
    settings: dict[str, Any] = {"seed": seed, "workers": workers, "mixed_precision": mixed_precision, "device": device}
    settings |= {"crop": crop}

    def make(what: Recipe) -> Adapted:
        return build(model, what, classes, image_size, pretrained, file, seed, answers)

    begun = _begun(out, resume, overwrite) if known is None or minutes is not None else {}
    planner = None if minutes is None else Planner(make, images, minutes, settings, started, say)
    if known is None:
        choice = _search(make, images, settings, begun, planner, say)
        chosen, notes = with_schedule(choice.recipe, wanted), {"chosen": choice.to_json()}
    else:
        choice, chosen, notes = None, known, {}
    if planner is not None:
        chosen, planned = _planned(planner, chosen, begun, say)
        notes |= {"plan": planned}
    adapted = make(chosen)
    if uncovered := lost(adapted):
        say(uncovered)
    return fit_on(
        adapted, images.train, images.val, chosen.schedule, out,
        **settings, accumulate=accumulate, resume=resume, overwrite=overwrite, choose=choose_epoch, memory=memory,
        embed_backbone=embed_backbone,
        patience=patience or (choice and choice.patience), seconds=planner and planner.left(),
        notes={"recipe": chosen.name, "set": changes} | notes, command=command, quiet=quiet,
    )  # fmt: skip


def _begun(out: Path, resume: bool, overwrite: bool) -> dict[str, Any]:
    """The settings of the interrupted run; none of a new one. A folder in use is refused before anything is timed."""
    from paretune.training.runfolder import RunFolder

    folder = RunFolder(out, {})
    if resume and not overwrite:
        return folder.asked()
    folder.check(resume, overwrite)
    return {}


def _search(
    make: Build, images: Splits, settings: dict[str, Any], begun: dict[str, Any], planner: Planner | None, say: Say
) -> Choice:
    """What to train: the choice of an interrupted run, or of a new search if there is time for one."""
    from paretune.training.automatic import Choice, choose, unsearched

    if "chosen" in begun:
        return Choice.from_json(begun["chosen"])
    if settings["mixed_precision"] == AUTO:  # is measured for what was chosen
        settings = settings | {"mixed_precision": None}
    if planner is not None and not planner.searches():
        choice = unsearched()
    else:
        choice = choose(make, images.train, images.val, tell=say, **settings)
    say(f"chosen: {choice.recipe.name} at learning rate {choice.recipe.schedule.lr:g}: {choice.why}")
    return choice


def _planned(planner: Planner, chosen: Recipe, begun: dict[str, Any], say: Say) -> tuple[Recipe, dict[str, Any]]:
    """The recipe as it fits into the time, and the plan; that of an interrupted run if there is one."""
    from paretune.training.minutes import Plan

    if "plan" in begun:
        plan = Plan(**begun["plan"])
    else:
        plan = planner.plan(chosen)
        say(f"planned for {plan.minutes:g} minutes: {plan.why}")
    return plan.applied(chosen), plan.to_json()


def _tell_skipped(skipped: list[tuple[str, str]], say: Say) -> None:
    if skipped:
        say(f"{len(skipped)} unreadable images are left out:")
    for path, reason in skipped:
        say(f"  {path}: {reason}")
