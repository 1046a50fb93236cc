"""`paretune advise`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.verbs.training import DEFAULT_MODEL, DEFAULT_SIZE

if TYPE_CHECKING:
    from paretune.catalogue import Recipe
    from paretune.core.model import Adapted
    from paretune.training.advice import Advice


def advise(
    data: Annotated[str, typer.Argument(help="Data in any form that `paretune train --data` takes.")],
    model: options.Model = DEFAULT_MODEL,
    image_size: options.ImageSize = None,
    pretrained: options.Pretrained = True,
    checkpoint: options.Checkpoint = None,
    seed: Annotated[int, typer.Option(min=0, max=options.MOST_SEED, help="Seed of the split and of the probe.")] = 0,
    val_share: Annotated[float, typer.Option(help="Share of images to validate on if the data have no val/.")] = 0.2,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Say what to expect before any training: problems of the data, a probe, and what each recipe costs here.

    The probe trains a linear head for a few seconds. Times are measured on this machine.
    """
    from paretune.data.opening import open_splits
    from paretune.data.verify import verify
    from paretune.training.advice import advise
    from paretune.verbs.recipes import build

    report = verify(data)
    for sentence in report.problems:
        say(f"problem: {sentence}", err=True)
    images = open_splits(data, seed=seed, val_share=val_share, test=False)
    size = DEFAULT_SIZE if model == DEFAULT_MODEL and image_size is None else image_size
    classes, task = list(images.train.classes), images.train.task

    def make(what: Recipe) -> Adapted:
        return build(model, what, classes, size, pretrained, checkpoint, seed, task)

    found = advise(make, images.train, images.val, seed, device, workers, lambda line: say(line, err=True))
    value = {"problems": list(report.problems), "remarks": list(report.remarks), **found.to_json()}
    answer(value, as_json, lambda: _say(found, list(report.remarks), Path(data).name))


def _say(found: Advice, remarks: list[str], name: str) -> None:
    from paretune.training.log import duration
    from paretune.training.memory import readable

    train, validate = found.images
    from paretune.training.metrics import figure, word

    score = figure(found.metric, found.probe.score)
    sure = "" if found.interval is None else f" ({found.interval[0]:.1%} to {found.interval[1]:.1%})"
    say(f"{name}: {train:,} images to train on, {validate:,} to validate")
    found_at = f"loss {found.probe.loss:.3f}, at learning rate {found.probe.lr:g}"
    say(f"linear probe: {word(found.metric)} {score}{sure}, {found_at}")
    curve = [f"{one.images:,} images {figure(found.metric, one.score)}, loss {one.loss:.3f}" for one in found.curve]
    say(f"learning curve: {'; '.join(curve)}")
    table(
        "what a training costs here",
        ("recipe", "trained", "file", "memory, program left out", "computed once", "epochs", "time"),
        [
            (
                one.recipe,
                f"{one.trained:,}",
                readable(one.file_bytes),
                readable(one.memory_bytes),
                f"{one.kept_blocks} blocks" if one.kept_blocks else "-",
                str(one.epochs),
                duration(one.seconds),
            )
            for one in found.forecasts
        ],
    )
    for sentence in (*remarks, *found.sentences):
        say(f"- {sentence}")
