"""`paretune.evaluate`: what `paretune eval` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.errors import UsageError

if TYPE_CHECKING:
    from paretune.training.metrics import Metrics

_WORST = {"multiclass": "wrong answers that the model is surest of", "regression": "largest errors"}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    split, task: of the images, and what was asked of them; output: what an output of the model is called
    metrics: scores overall and per class, label or number, loss, confusion, times; see `training.metrics.Metrics`
    interval: of the accuracy, 95 %, shares of 0 to 1; None if the task has no accuracy
    confused [(class, answer, images)]: the most frequent confusions; mistakes: {path, name and more} of the worst
    images; both only if `worst` was asked for
    drawn {"confusion_picture" | "sheet": file}: the pictures that were written
    calibration (temperature, error before, error after): expected calibration errors; None of a model without one
    """

    split: str
    task: str
    output: str
    metrics: Metrics
    interval: tuple[float, float] | None
    confused: list[tuple[str, str, int]] | None
    mistakes: list[dict[str, Any]] | None
    drawn: dict[str, Path] = field(default_factory=dict)
    calibration: tuple[float, float, float] | None = None

    @property
    def worst_title(self) -> str:
        """What the worst images are."""
        return _WORST[self.task]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: what `paretune eval --json` prints."""
        value: dict[str, Any] = {"split": self.split, "task": self.task, **self.metrics.to_dict()}
        if self.interval is not None:
            value["accuracy_interval"] = list(self.interval)
        if self.calibration is not None:
            temperature, before, after = self.calibration
            value |= {"temperature": temperature, "calibration_error": {"before": before, "after": after}}
        if self.confused is not None:
            value["worst"] = [{"class": true, "answer": said, "images": n} for true, said, n in self.confused]
        if self.mistakes is not None:
            value["worst_images"] = [{k: v for k, v in one.items() if k != "name"} for one in self.mistakes]
        return value | {key: str(path) for key, path in self.drawn.items()}


def evaluate(
    run: str | Path,
    data: str | Path,
    split: str = "val",
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    skip_unreadable: bool = False,
    confusion: str | Path | None = None,
    worst: int = 0,
    sheet: str | Path | None = None,
) -> Evaluation:
    """Score a model on labelled images, overall and for every class, label or number.

    The arguments are those of `paretune eval`, with the same names and defaults. If training split the data itself,
    val and train are the same images as in training.

    Args:
        run: folder of a trained model, or an artefact of `export`, which needs no torch
        split: train, val or test; all for a tree of class folders
        checkpoint: weights of the backbone, if they are not where training found them
        confusion, sheet: files to draw the confusion matrix and the worst images into
        worst: how many of the most frequent confusions, and of the worst images, to find

    Raises:
        UsageError: no such run, data or split; data of another task; a picture that the task does not have.
    """
    from paretune.deploy.runtimes import artefact_file

    if artefact_file(run) is not None:
        given = {"checkpoint": checkpoint, "worst": worst or None, "sheet": sheet}
        return _artefact(run, data, split, batch_size, skip_unreadable, confusion, given)
    from paretune.checkpoint import load
    from paretune.data.task import known_task
    from paretune.data.transforms import evaluation
    from paretune.training.calibration import Errors
    from paretune.training.evaluate import evaluate, known_split
    from paretune.training.metrics import interval, most_confused
    from paretune.training.tasks import kind_of
    from paretune.training.worst import Worst

    confusion, sheet = (None if path is None else Path(path) for path in (confusion, sheet))
    model = load(run, checkpoint=checkpoint)
    _check(model.task, len(model.classes or ()), confusion, worst, sheet)
    if model.classes is None:
        raise UsageError(f"{run} kept the backbone's own head, whose outputs have no names to compare labels with")
    images = known_split(run, data, split, model.classes, skip_unreadable, known_task(model.task))
    found = Worst(model, worst) if worst else None
    through = images.through(evaluation(model.preprocessing))
    errors = Errors(len(model.classes), model.temperature) if model.temperature != 1 else None
    watchers = [one.add for one in (found, errors) if one is not None]
    watch = (lambda *batch: [see(*batch) for see in watchers]) if watchers else None
    metrics = evaluate(model, through, batch_size, device, workers, watch)
    mistakes = found.mistakes if found else []
    drawn = {}
    if confusion is not None:
        drawn["confusion_picture"] = _draw(metrics, split, confusion)
    if sheet is not None and mistakes:
        drawn["sheet"] = _draw_worst(images, mistakes, f"{split}: {_WORST[model.task]}", sheet)
    told = [{"path": images.title(one.image), "name": images.name(one.image), **one.facts} for one in mistakes]
    return Evaluation(
        split=split,
        task=model.task,
        output=kind_of(model).outputs[0],
        metrics=metrics,
        interval=interval(metrics.accuracy, metrics.images) if metrics.main == "accuracy" else None,
        confused=(most_confused(metrics.confusion, model.classes, worst) if metrics.confusion else [])
        if worst else None,
        mistakes=told if worst else None,
        drawn=drawn,
        calibration=None if errors is None else (model.temperature, *errors.value()),
    )  # fmt: skip


def _artefact(
    file: str | Path, data: str | Path, split: str, batch_size: int, skip_unreadable: bool,
    confusion: str | Path | None, given: dict[str, Any],
) -> Evaluation:  # fmt: skip
    """The scores of an artefact; nothing here imports torch. Raises UsageError for what only a run can do."""
    from paretune.data.opening import open_split
    from paretune.data.task import known_task
    from paretune.deploy.artefact import Artefact
    from paretune.deploy.scoring import OUTPUTS, score
    from paretune.training.metrics import interval

    if wrong := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"an artefact has no {', '.join(wrong)}: evaluate the run that it was exported from")
    artefact, path = Artefact(file), None if confusion is None else Path(confusion)
    _check(artefact.task, len(artefact.classes), path, 0, None)
    classes, task = tuple(artefact.classes), known_task(artefact.task)
    images = open_split(data, split, classes, task=task, skip_unreadable=skip_unreadable)
    metrics = score(artefact, images, batch_size)
    return Evaluation(
        split=split,
        task=artefact.task,
        output=OUTPUTS[artefact.task],
        metrics=metrics,
        interval=interval(metrics.accuracy, metrics.images) if metrics.main == "accuracy" else None,
        confused=None,
        mistakes=None,
        drawn={} if path is None else {"confusion_picture": _draw(metrics, split, path)},
    )


def _check(task: str, classes: int, confusion: Path | None, worst: int, sheet: Path | None) -> None:
    """Refuse impossible options before anything is computed."""
    from paretune.training.metrics import MOST_CONFUSED

    if task != "multiclass" and confusion is not None:
        raise UsageError(f"the model's task is {task}, which has no confusions of classes: leave out --confusion")
    if confusion is not None and classes > MOST_CONFUSED:
        raise UsageError(f"{classes:,} classes are too many for --confusion, which draws at most {MOST_CONFUSED:,}")
    if task not in _WORST and (worst or sheet is not None):
        raise UsageError(
            f"the model's task is {task}: --worst and --sheet are not available for it, only for "
            f"{' and '.join(_WORST)}; leave them out"
        )
    if confusion is not None:
        from paretune.show.figure import check_plot

        check_plot(confusion)
    if sheet is not None:
        from paretune.show.worst import check_sheet

        check_sheet(sheet, worst)


def _draw(metrics: Metrics, split: str, path: Path) -> Path:
    from paretune.show.confusion import draw_confusion
    from paretune.training.metrics import told

    title = f"{split}: {told('accuracy', metrics.accuracy)}, {metrics.images:,} images"
    assert metrics.confusion is not None, "checked before"
    draw_confusion(metrics.confusion, list(metrics.per_class), title, path)
    return path


def _draw_worst(images: Any, mistakes: Sequence, note: str, path: Path) -> Path:
    from paretune.show.worst import caption, draw_worst

    pictures = [images.picture(one.image) for one in mistakes]
    captions = [caption(images.name(one.image).rpartition("/")[2], one) for one in mistakes]
    draw_worst(pictures, captions, note, path)
    return path
