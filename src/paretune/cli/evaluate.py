"""`paretune eval`"""

from __future__ import annotations

from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, table


def evaluate(
    out: options.Saved,
    data: options.Data,
    split: Annotated[str, typer.Option(help="train, val or test; all for a tree of class folders.")] = "val",
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    as_json: options.AsJson = False,
) -> None:
    """Accuracy of a trained model on a folder of images.

    Where training split the folder itself, val and train mean the same images as then.
    """
    from paretune.checkpoint import load
    from paretune.data.transforms import evaluation
    from paretune.train.evaluate import evaluate, known_split

    model = load(out)
    images = known_split(out, data, split, model.classes, skip_unreadable).through(evaluation(model.preprocessing))
    metrics = evaluate(model, images, batch_size, device, workers)
    answer({"split": split, **metrics.to_dict()}, as_json, lambda: _say(metrics, split))


def _say(metrics, split: str) -> None:
    rows = [
        (name, f"{row['images']:,}", "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}")
        for name, row in metrics.per_class.items()
    ]
    table(f"{split}, per class", ("class", "images", "accuracy"), rows)
    typer.echo(
        f"{split} accuracy {metrics.accuracy:.2%}, loss {metrics.loss:.4f}, {metrics.images:,} images, "
        f"{metrics.images_per_second:.0f} images/s"
    )
