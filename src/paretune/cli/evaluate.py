"""`paretune eval`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table


def evaluate(
    run: options.Answering,
    data: options.Data,
    split: Annotated[str, typer.Option(help="train, val or test; all for a tree of class folders.")] = "val",
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    checkpoint: options.ItsCheckpoint = None,
    skip_unreadable: options.SkipUnreadable = False,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix into this .png, .svg or .pdf.")
    ] = None,
    worst: Annotated[
        int,
        typer.Option(
            min=0,
            help="Show this many of the most frequent confusions, and of the wrong images that the "
            "model is surest of; for numbers, of the largest errors.",
        ),
    ] = 0,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the images of --worst into this .png.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Score a trained model on labelled images, overall and for every class, label or number.

    If training split the data itself, val and train are the same images as in training. Accuracy has its interval of
    95 %: what so few images cannot rule out. Of a calibrated model the calibration error is printed too: how far its
    probabilities are from the share of right answers, before and after calibration.
    """  # fmt: skip
    from paretune.verbs.evaluating import evaluate

    found = evaluate(
        run, data, split, batch_size=batch_size, workers=workers, device=device, checkpoint=checkpoint,
        skip_unreadable=skip_unreadable, confusion=confusion, worst=worst, sheet=sheet,
    )  # fmt: skip

    def text() -> None:
        _say(found.metrics, split, found.output, found.confused or [])
        if found.calibration is not None:
            from paretune.training.calibration import told

            temperature, *errors = found.calibration
            say(f"{split} {told(temperature, (errors[0], errors[1]))}")
        if found.mistakes:
            hidden = ("path", "name")
            rows = [(one["name"], {k: v for k, v in one.items() if k not in hidden}) for one in found.mistakes]
            _say_worst(rows, found.worst_title)
        for path in found.drawn.values():
            say(f"saved in {path}")

    answer(found.to_dict(), as_json, text)


def _say(metrics, split: str, output: str, pairs: list[tuple[str, str, int]]) -> None:
    from paretune.training.metrics import figure, sure, told, word

    names = list(next(iter(metrics.per_class.values())))
    rows = [(name, *(figure(key, row[key]) for key in names)) for name, row in metrics.per_class.items()]
    table(f"{split}, per {output}", (output, *map(word, names)), rows)
    if pairs:
        wrong = [(true, said, f"{n:,}") for true, said, n in pairs]
        table("most frequent wrong answers", ("class", "answer", "images"), wrong, words=2)
    (main, value), *others = metrics.scores.items()
    say(
        f"{split} {sure(main, value, metrics.images)}, loss {metrics.loss:.4f}, {metrics.images:,} images, "
        f"{metrics.images_per_second:.0f} images/s"
    )
    say(f"{split} {', '.join(told(*other) for other in others)}")


def _say_worst(rows: Sequence[tuple[str, dict]], title: str) -> None:
    def written(value: str | float, key: str) -> str:
        if isinstance(value, str):
            return value
        return f"{value:.1%}" if key == "probability" else f"{value:.4g}"

    shown = [(name, *(written(value, key) for key, value in facts.items())) for name, facts in rows]
    table(title, ("image", *rows[0][1]), shown, words=3)
