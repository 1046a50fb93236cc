"""`paretune eval`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.errors import UsageError


def evaluate(
    out: options.Saved,
    data: options.Data,
    split: Annotated[str, typer.Option(help="train, val or test; all for a tree of class folders.")] = "val",
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix into this .png, .svg or .pdf.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Show this many of the most frequent confusions.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Score a trained model on labelled images, overall and for every class, label or number.

    If training split the data itself, val and train are the same images as in training.
    """
    from paretune.checkpoint import load
    from paretune.data.task import known_task
    from paretune.data.transforms import evaluation
    from paretune.train.evaluate import evaluate, known_split
    from paretune.train.metrics import most_confused
    from paretune.train.tasks import kind_of

    model = load(out)
    _check(model.task, confusion, worst)
    if model.classes is None:
        raise UsageError(f"{out} kept the backbone's own head, whose outputs have no names to compare labels with")
    images = known_split(out, data, split, model.classes, skip_unreadable, known_task(model.task))
    metrics = evaluate(model, images.through(evaluation(model.preprocessing)), batch_size, device, workers)
    if confusion is not None:
        _draw(metrics, split, confusion)
    pairs = most_confused(metrics.confusion, model.classes, worst) if worst and metrics.confusion else []
    value = {"split": split, "task": model.task, **metrics.to_dict()}
    if worst:
        value["worst"] = [{"class": true, "answer": said, "images": n} for true, said, n in pairs]
    if confusion is not None:
        value["confusion_picture"] = str(confusion)
    answer(value, as_json, lambda: _say(metrics, split, kind_of(model).outputs[0], pairs, confusion))


def _check(task: str, confusion: Path | None, worst: int) -> None:
    """Refuse impossible options before anything is computed."""
    if task != "multiclass" and (confusion is not None or worst):
        raise UsageError(
            f"the model's task is {task}, which has no confusions of classes: leave out --confusion and --worst"
        )
    if confusion is not None:
        from paretune.show.figure import check_plot

        check_plot(confusion)


def _draw(metrics, split: str, path: Path) -> None:
    from paretune.show.confusion import draw_confusion
    from paretune.train.metrics import told

    title = f"{split}: {told('accuracy', metrics.accuracy)}, {metrics.images:,} images"
    draw_confusion(metrics.confusion, list(metrics.per_class), title, path)


def _say(metrics, split: str, output: str, pairs: list[tuple[str, str, int]], picture: Path | None) -> None:
    from paretune.train.metrics import figure, told, word

    names = list(next(iter(metrics.per_class.values())))
    rows = [(name, *(figure(key, row[key]) for key in names)) for name, row in metrics.per_class.items()]
    table(f"{split}, per {output}", (output, *map(word, names)), rows)
    if pairs:
        wrong = [(true, said, f"{n:,}") for true, said, n in pairs]
        table("most frequent wrong answers", ("class", "answer", "images"), wrong, words=2)
    first, *others = (told(name, value) for name, value in metrics.scores.items())
    say(
        f"{split} {first}, loss {metrics.loss:.4f}, {metrics.images:,} images, {metrics.images_per_second:.0f} images/s"
    )
    say(f"{split} {', '.join(others)}")
    if picture is not None:
        say(f"saved in {picture}")
