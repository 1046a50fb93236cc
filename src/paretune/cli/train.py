"""`paretune train`"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from paretune.cli import options
from paretune.cli.output import answer, interruptible, say
from paretune.verbs.training import AUTO, DEFAULT_MODEL, LOADERS

WORDS = "paretune.words"


class Resumable(TyperCommand):
    """A command whose `--resume --out OUT` stands for the words that began the run in OUT."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Read the words of the command line, with those of the interrupted run before them."""
        words = list(args)
        if "--resume" in words and not any(word.split("=")[0] == "--data" for word in words):
            words = _begun_with(words) + words
        ctx.meta[WORDS] = [word for word in words if word not in ("--resume", "--overwrite")]
        return super().parse_args(ctx, words)


def _begun_with(words: list[str]) -> list[str]:
    """The words that began the run which `--out` names; none if there is no such run."""
    named = [b for a, b in pairwise(words) if a == "--out"] + [w[6:] for w in words if w.startswith("--out=")]
    file = Path(named[-1] if named else "") / "state" / "settings.json"
    if not named or not file.is_file():
        return []
    from paretune import formats
    from paretune.schema import read

    words = read(file, formats.SETTINGS, "begin the run anew with --overwrite").get("command", [])
    return [word for word in words if word != "--overwrite"]


def train(
    context: typer.Context,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Folder for the result; it must not contain a run yet.")],
    model: options.Model = DEFAULT_MODEL,
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe, a named setting (`paretune list recipes`), or auto: a short search on your images chooses "
            "between a linear head and adapters in the last blocks, the learning rate, and when to stop."
        ),
    ] = AUTO,
    set_: options.Set = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=10**6, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=10**6, help="Images per batch and process.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="AdamW's weight decay.")] = None,
    warmup_epochs: Annotated[
        float | None,
        typer.Option(min=0, help="Epochs of linear warm-up; by default the recipe's share of --epochs."),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="none, flip, crop (random crop and flip), or randaugment (the same and two random changes)."),
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option(min=0, help="Train on mixtures of two images, in shares from Beta(A, A); 0.2 to 0.8 are usual."),
    ] = None,
    cutmix: Annotated[
        float | None,
        typer.Option(min=0, help="Train on images with a rectangle of another one, with a share from Beta(A, A)."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            help="How a picture that is not square becomes square, in training and later: squash, both sides resized; "
            "fit, the shorter side resized and the middle cut out; pad, the longer side resized and the rest filled "
            "with the mean colour. By default squash; after random crops the backbone's own resize and centre crop."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="multiclass, multilabel or regression; taken from the data by default.")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="auto gives rare classes and labels a larger weight; none by default.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=options.MOST_SEED, help="Seed of initial values, data order, dropout and the split."),
    ] = 0,
    val_share: Annotated[float, typer.Option(help="Share of images to validate on if the data have no val/.")] = 0.2,
    workers: options.Workers = LOADERS,
    mixed_precision: Annotated[
        str | None,
        typer.Option(
            help="no, bf16 or fp16; accelerate's setting by default. auto measures a few steps in float32 and bfloat16 "
            "and takes the faster, so the result depends on the machine."
        ),
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, max=10**6, help="Batches per update of the weights.")] = 1,
    device: options.Device = "auto",
    image_size: options.ImageSize = None,
    pretrained: options.Pretrained = True,
    checkpoint: options.Checkpoint = None,
    embed_backbone: options.EmbedBackbone = False,
    skip_unreadable: options.SkipUnreadable = False,
    download: Annotated[
        bool, typer.Option("--download", help="Download a named data set, such as cifar100:ROOT.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Stop after so many epochs without a better one.")
    ] = None,
    choose_epoch: Annotated[
        str,
        typer.Option(
            help="Which epoch to keep: score, the best on the validation images; careful, of all that these images "
            "cannot tell from the best, the one of the lowest loss; loss, the lowest."
        ),
    ] = "careful",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="End within so many minutes: a few steps are timed, then fewer epochs are trained or, if that "
            "is not enough, adapters in later blocks only.",
        ),
    ] = None,
    memory: options.Memory = "full",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run; --resume --out OUT is enough.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a model on labelled images and keep the epoch that is best on the validation images.

    Writes to OUT the trained tensors (adapter_config.json, adapter_model.safetensors), record.json with everything
    that is needed to reproduce the result, and TensorBoard logs. Interrupted? OUT holds the best epoch so far, a model
    like any other; `paretune train --resume --out OUT` continues.
    """
    from accelerate import PartialState

    from paretune.verbs.training import train

    with interruptible(lambda: f"{_left(out)}`paretune train --resume --out {out}` continues"):
        result = train(
            data, out, model, recipe, set_=set_, epochs=epochs, batch_size=batch_size, lr=lr,
            weight_decay=weight_decay, warmup_epochs=warmup_epochs, augment=augment, mixup=mixup, cutmix=cutmix,
            crop=crop, task=task,
            class_weights=class_weights, seed=seed, val_share=val_share, workers=workers,
            mixed_precision=mixed_precision, accumulate=accumulate, device=device, image_size=image_size,
            pretrained=pretrained, checkpoint=checkpoint, embed_backbone=embed_backbone,
            skip_unreadable=skip_unreadable, download=download,
            patience=patience, choose_epoch=choose_epoch, minutes=minutes, memory=memory, resume=resume,
            overwrite=overwrite,
            command=context.meta[WORDS], tell=lambda line: say(line, err=True),
        )  # fmt: skip
    answer(result.to_dict(), as_json, lambda: _say(result))
    PartialState().destroy_process_group()  # the processes that accelerate started, if it did


def _left(out: Path) -> str:
    """What an interrupted run has left behind."""
    from paretune.checkpoint import CONFIG

    return f"{out} holds the best epoch so far, ready for eval and predict; " if (out / CONFIG).exists() else ""


def _say(result) -> None:
    from paretune.training.metrics import sure

    images = result.record["data"]["val"]["images"]
    say(
        f"best epoch {result.best_epoch} of {len(result.history)}: validation "
        f"{sure(result.metric, result.score, images)}, "
        f"loss {result.loss:.4f}, after {result.seconds:.1f} s\nsaved in {result.out}"
    )
