"""`paretune train`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, interruptible, say

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_LOADERS = min(4, _CORES // 2)


def train(
    data: options.Data,
    model: options.Model,
    out: Annotated[Path, typer.Option(help="Folder for the result; must not hold a run yet.")],
    recipe: options.Recipe = "sparse-tuning",
    set_: options.Set = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=10**6, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=10**6, help="Images per batch and process.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="AdamW's weight decay.")] = None,
    warmup_epochs: Annotated[
        float | None,
        typer.Option(min=0, help="Epochs of rising learning rate; by default the recipe's share of --epochs."),
    ] = None,
    augment: Annotated[str | None, typer.Option(help="none, flip, or crop (random crop and flip).")] = None,
    task: Annotated[
        str | None, typer.Option(help="multiclass, multilabel or regression; what the data say by default.")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="auto weighs rare classes and labels up; none by default.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=options.MOST_SEED, help="Of initial values, data order, dropout and the split.")
    ] = 0,
    val_share: Annotated[float, typer.Option(help="Share to validate on where the folder has no val/.")] = 0.2,
    workers: options.Workers = _LOADERS,
    mixed_precision: Annotated[
        str | None, typer.Option(help="no, bf16 or fp16; what accelerate says by default.")
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, max=10**6, help="Batches per update.")] = 1,
    device: options.Device = "auto",
    image_size: options.ImageSize = None,
    pretrained: options.Pretrained = True,
    checkpoint: options.Checkpoint = None,
    skip_unreadable: options.SkipUnreadable = False,
    download: Annotated[bool, typer.Option("--download", help="Fetch a named set, such as cifar100:ROOT.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that OUT holds.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a model on a folder of images; keep the epoch that is best on the validation images.

    OUT then holds the trained tensors (adapter_config.json, adapter_model.safetensors), record.json with everything
    that makes the result reproducible, and TensorBoard logs. Interrupted? The same command with --resume goes on.
    """
    from accelerate import PartialState

    from paretune.cli.build import build, chosen_recipe
    from paretune.data.opening import open_splits
    from paretune.data.task import known_task
    from paretune.train.prepare import fit_on

    wanted = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "augment": augment}
    wanted |= {"warmup_epochs": warmup_epochs, "class_weights": class_weights}
    chosen = chosen_recipe(recipe, set_, wanted)
    images = open_splits(
        data, task=task and known_task(task), seed=seed, val_share=val_share, skip_unreadable=skip_unreadable,
        download=download, test=False,
    )  # fmt: skip
    _tell_skipped([*images.train.skipped, *images.val.skipped])
    classes, answers = list(images.train.classes), images.train.task
    adapted = build(model, chosen, classes, image_size, pretrained, checkpoint, seed, answers)
    with interruptible(f"the same command with --resume goes on with the run in {out}"):
        result = fit_on(
            adapted, images.train, images.val, chosen.schedule, out,
            seed=seed, workers=workers, mixed_precision=mixed_precision, accumulate=accumulate, device=device,
            resume=resume, overwrite=overwrite, notes=_notes(chosen, set_),
        )  # fmt: skip
    answer(_summary(result), as_json, lambda: _say(result))
    PartialState().destroy_process_group()  # the processes that accelerate started, if it did


def _notes(recipe, set_: list[str] | None) -> dict:
    return {"recipe": recipe.name, "set": set_ or []}


def _tell_skipped(skipped: list[tuple[str, str]]) -> None:
    if skipped:
        say(f"{len(skipped)} unreadable images are left out:", err=True)
    for path, reason in skipped:
        say(f"  {path}: {reason}", err=True)


def _summary(result) -> dict:
    return {
        "out": str(result.out),
        "best_epoch": result.best_epoch,
        f"val_{result.metric}": result.score,
        "val_loss": result.loss,
        "seconds": result.seconds,
        "history": result.history,
    }


def _say(result) -> None:
    from paretune.train.metrics import told

    say(
        f"best epoch {result.best_epoch} of {len(result.history)}: validation {told(result.metric, result.score)}, "
        f"loss {result.loss:.4f}, after {result.seconds:.1f} s\nsaved in {result.out}"
    )
