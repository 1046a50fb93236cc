"""Score an artefact on labelled images, without torch. `training.evaluate` does the same for a model in torch."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from paretune.data.samples import ImageSet
from paretune.deploy.artefact import Artefact
from paretune.errors import UsageError
from paretune.training.metrics import Metrics, Scores, class_scores, label_scores, number_scores

OUTPUTS = {"multiclass": "class", "multilabel": "label", "regression": "number"}
MAIN = {"multiclass": "accuracy", "multilabel": "mean_average_precision", "regression": "r2"}


def score(artefact: Artefact, images: ImageSet, batch_size: int = 64) -> Metrics:
    """The scores of the artefact on these images, which have its names as classes.

    Raises UsageError if the task of the data differs from the artefact's, or if outputs are not finite.
    """
    if images.task != artefact.task:
        raise UsageError(f"the artefact is made for the task '{artefact.task}', the data for '{images.task}'")
    start, found, seen = perf_counter(), [], images.through(artefact.prepare)
    for first in range(0, len(images), batch_size):
        batch = [seen[i][0] for i in range(first, min(first + batch_size, len(images)))]
        found.append(artefact.run(np.stack(batch)))
    outputs, targets = np.concatenate(found), np.asarray(images.targets)
    if not np.isfinite(outputs).all():
        raise UsageError(
            "the artefact's answers are no finite numbers: see its export.json, and export the model again"
        )
    scores, seconds = _scores(artefact.task, outputs, targets, artefact.classes), perf_counter() - start
    return Metrics(
        main=MAIN[artefact.task],
        scores=scores.overall,
        loss=float(losses(artefact, outputs, targets).mean()),
        images=len(targets),
        per_class=scores.per_class,
        confusion=scores.confusion,
        seconds=seconds,
        images_per_second=len(targets) / seconds,
    )


def _scores(task: str, outputs: np.ndarray, targets: np.ndarray, names: list[str]) -> Scores:
    if task == "multiclass":
        return class_scores(outputs.argmax(1), targets, names)
    how: Callable = label_scores if task == "multilabel" else number_scores
    return how(outputs, targets, names)


def losses(artefact: Artefact, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss of every image (n,), as `training.tasks` defines it: cross-entropy, binary cross-entropy, smooth L1."""
    wide = outputs.astype(np.float64)
    if artefact.task == "multiclass":
        most = wide.max(1)
        return np.log(np.exp(wide - most[:, None]).sum(1)) + most - wide[np.arange(len(wide)), targets]
    if artefact.task == "multilabel":
        return (np.logaddexp(0, wide) - wide * targets).mean(1)
    off = np.abs(wide - targets) / np.asarray(artefact.description.deviation or 1.0)
    return np.where(off < 1, off**2 / 2, off - 0.5).mean(1)
