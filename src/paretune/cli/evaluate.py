"""`paretune eval`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.errors import UsageError

_WORST = {"multiclass": "wrong answers that the model is surest of", "regression": "largest errors"}


def evaluate(
    out: options.Saved,
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
    from paretune.checkpoint import load
    from paretune.data.task import known_task
    from paretune.data.transforms import evaluation
    from paretune.train.calibration import Errors, told
    from paretune.train.evaluate import evaluate, known_split
    from paretune.train.metrics import most_confused
    from paretune.train.tasks import kind_of
    from paretune.train.worst import Worst

    model = load(out, checkpoint=checkpoint)
    _check(model.task, len(model.classes or ()), confusion, worst, sheet)
    if model.classes is None:
        raise UsageError(f"{out} kept the backbone's own head, whose outputs have no names to compare labels with")
    images = known_split(out, data, split, model.classes, skip_unreadable, known_task(model.task))
    found = Worst(model, worst) if worst else None
    through = images.through(evaluation(model.preprocessing))
    errors = Errors(len(model.classes), model.temperature) if model.temperature != 1 else None
    watchers = [one.add for one in (found, errors) if one is not None]
    watch = (lambda *batch: [see(*batch) for see in watchers]) if watchers else None
    metrics = evaluate(model, through, batch_size, device, workers, watch)
    mistakes = found.mistakes if found else []
    if confusion is not None:
        _draw(metrics, split, confusion)
    if sheet is not None and mistakes:
        _draw_worst(images, mistakes, f"{split}: {_WORST[model.task]}", sheet)
    pairs = most_confused(metrics.confusion, model.classes, worst) if worst and metrics.confusion else []
    value = {"split": split, "task": model.task, **metrics.to_dict(), **_interval(metrics)}
    if errors is not None:
        before, after = errors.value()
        value |= {"temperature": model.temperature, "calibration_error": {"before": before, "after": after}}
    if worst:
        value["worst"] = [{"class": true, "answer": said, "images": n} for true, said, n in pairs]
        value["worst_images"] = [{"path": images.title(one.image), **one.facts} for one in mistakes]
    drawn = {"confusion_picture": confusion, "sheet": sheet if mistakes else None}
    value |= {key: str(path) for key, path in drawn.items() if path is not None}

    def text() -> None:
        _say(metrics, split, kind_of(model).outputs[0], pairs)
        if errors is not None:
            say(f"{split} {told(model.temperature, errors.value())}")
        if mistakes:
            _say_worst([(images.name(one.image), one.facts) for one in mistakes], _WORST[model.task])
        for path in drawn.values():
            if path is not None:
                say(f"saved in {path}")

    answer(value, as_json, text)


def _check(task: str, classes: int, confusion: Path | None, worst: int, sheet: Path | None) -> None:
    """Refuse impossible options before anything is computed."""
    from paretune.train.metrics import MOST_CONFUSED
    from paretune.train.worst import AVAILABLE

    if task != "multiclass" and confusion is not None:
        raise UsageError(f"the model's task is {task}, which has no confusions of classes: leave out --confusion")
    if confusion is not None and classes > MOST_CONFUSED:
        raise UsageError(f"{classes:,} classes are too many for --confusion, which draws at most {MOST_CONFUSED:,}")
    if task not in AVAILABLE and (worst or sheet is not None):
        raise UsageError(
            f"the model's task is {task}: --worst and --sheet are not available for it, only for "
            f"{' and '.join(AVAILABLE)}; leave them out"
        )
    if confusion is not None:
        from paretune.show.figure import check_plot

        check_plot(confusion)
    if sheet is not None:
        from paretune.show.worst import check_sheet

        check_sheet(sheet, worst)


def _interval(metrics) -> dict:
    """The interval of the accuracy, where the task has one."""
    from paretune.train.metrics import interval

    if metrics.main != "accuracy":
        return {}
    return {"accuracy_interval": list(interval(metrics.accuracy, metrics.images))}


def _draw(metrics, split: str, path: Path) -> None:
    from paretune.show.confusion import draw_confusion
    from paretune.train.metrics import told

    title = f"{split}: {told('accuracy', metrics.accuracy)}, {metrics.images:,} images"
    draw_confusion(metrics.confusion, list(metrics.per_class), title, path)


def _draw_worst(images, mistakes: Sequence, note: str, path: Path) -> None:
    from paretune.show.worst import caption, draw_worst

    pictures = [images.picture(one.image) for one in mistakes]
    captions = [caption(images.name(one.image).rpartition("/")[2], one) for one in mistakes]
    draw_worst(pictures, captions, note, path)


def _say(metrics, split: str, output: str, pairs: list[tuple[str, str, int]]) -> None:
    from paretune.train.metrics import figure, sure, told, word

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
