"""What depends on the task: the loss, the scores, the score that chooses the epoch, and the meaning of outputs.

                 loss                             chooses the epoch          meaning of an output
    multiclass   cross-entropy                    accuracy                   probabilities that sum to 1
    multilabel   binary cross-entropy             mean average precision     a probability for every label
    regression   smooth L1, counted in            R2                         numbers in their own units
                 deviations of the target

Training, evaluation and prediction use this file; no other file of this package depends on the task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.catalogue import Schedule
from paretune.core.reduction import widened
from paretune.core.target_units import units_of
from paretune.data.samples import Samples
from paretune.data.task import Task
from paretune.errors import UsageError
from paretune.training.metrics import Scores, class_scores, label_scores, number_scores

PLAIN: Task = "multiclass"  # of models and data sets that do not say
POS_WEIGHTS = (0.01, 100.0)


@dataclass(frozen=True)
class Kind:
    """A task's functions of outputs (n, C) and targets: (n,) class indices for multiclass, otherwise (n, C).

    Attributes:
        outputs: the name of an output, singular and plural.
        main: the score that chooses the best epoch; higher is better.
        losses: (outputs, targets) -> (n,): the loss of every image, without weights and smoothing.
        divergence: (student, teacher) -> scalar: how far two sets of outputs for the same images are apart.
        kept: outputs -> the part that the scores need, so that the rest can be freed after every batch.
        scores: (kept, targets, names of the outputs) -> the scores of a whole data set.
        read: outputs -> probabilities or numbers, (n, C).
    """

    outputs: tuple[str, str]
    main: str
    losses: Callable[[Tensor, Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    kept: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor, Tensor, Sequence[str]], Scores]
    read: Callable[[Tensor], Tensor]


def task_of(thing: object) -> Task:
    """The task of a model or of a data set."""
    return getattr(thing, "task", PLAIN)


def kind_of(model: nn.Module) -> Kind:
    """The functions of the task of `model`."""
    return {"multiclass": _multiclass, "multilabel": _multilabel, "regression": _regression}[task_of(model)](model)


def check_task(model: nn.Module, dataset: Samples) -> None:
    """Raise UsageError if `model` and `dataset` have different tasks."""
    if problem := mismatch(model, dataset):
        raise UsageError(problem)


def mismatch(model: nn.Module, dataset: Samples) -> str | None:
    """A sentence if `model` and `dataset` have different tasks."""
    if task_of(model) == task_of(dataset):
        return None
    return f"the model is made for the task '{task_of(model)}', the data for '{task_of(dataset)}'"


def problems(schedule: Schedule, train_set: Samples) -> list[str]:
    """Problems of `schedule` and of the targets with the task of the training set."""
    task, found = task_of(train_set), []
    for name in ("label_smoothing", "mixup", "cutmix"):
        if getattr(schedule, name) and task != "multiclass":
            found.append(f"{name}={getattr(schedule, name):g} is for one class of several, not for {task}: use 0")
    weighted = schedule.class_weights != "none"
    if weighted and task == "regression":
        found.append(f"class_weights='{schedule.class_weights}' is for classes and labels, a regression has neither")
    if (weighted or task != "multiclass") and not hasattr(train_set, "targets"):
        return [*found, f"the training set has no `targets`, which {task} needs to know before it begins"]
    if task == "regression" and not np.isfinite(targets_of(train_set)).all():
        found.append("some targets of the training set are no finite numbers")
    if task == "multilabel" and not np.isin(targets_of(train_set), (0, 1)).all():
        found.append("some targets of the training set are neither 0 nor 1")
    return found


def targets_of(dataset: Samples) -> np.ndarray:
    """All targets of a set that has them; `problems` checks this where they are needed."""
    assert hasattr(dataset, "targets")
    return dataset.targets


def standardise(model: nn.Module, train_set: Samples) -> None:
    """Set the units of a regression head to the training set's mean and deviation (1 if a target is constant).

    A head that was trained before keeps its units; other tasks have none.
    """
    for units in units_of(model):
        if not units.measured:
            targets = np.asarray(targets_of(train_set), np.float64)
            deviation = targets.std(0)
            deviation[deviation == 0] = 1
            units.set(torch.from_numpy(targets.mean(0)), torch.from_numpy(deviation))


def criterion(model: nn.Module, schedule: Schedule, train_set: Samples) -> nn.Module:
    """(outputs, targets) of a batch -> the scalar to train on, with the schedule's weights and label smoothing."""
    task, weighted = task_of(model), schedule.class_weights == "auto"
    if task == "multiclass" and not weighted:
        return nn.CrossEntropyLoss(label_smoothing=schedule.label_smoothing)
    if task == "multiclass":
        return WeightedCrossEntropy(class_weights(train_set), schedule.label_smoothing)
    if task == "multilabel":
        return nn.BCEWithLogitsLoss(pos_weight=positive_weights(train_set) if weighted else None)
    return SmoothL1(units_of(model)[0].deviation)


def class_weights(train_set: Samples) -> Tensor:
    """Per class: images / (classes that have images * images of this class), so that the mean over images is one.

    A class without images gets 1; this has an effect only with label smoothing.
    """
    counts = np.bincount(targets_of(train_set), minlength=len(train_set.classes))
    weights = counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, weights, 1.0)).float()


def positive_weights(train_set: Samples) -> Tensor:
    """Per label: negatives / positives, from 0.01 to 100, so that both have the same total weight."""
    positives = np.asarray(targets_of(train_set)).sum(0)
    ratios = (len(train_set) - positives) / np.maximum(positives, 1)
    return torch.from_numpy(ratios.clip(*POS_WEIGHTS)).float()


class WeightedCrossEntropy(nn.Module):
    """Mean over the images of weight[label] times the cross-entropy.

    The sum is not divided by the weights of the batch, as torch does. That division would reduce the effect of a rare
    class's weight in the batches that contain it.
    """

    def __init__(self, weight: Tensor, label_smoothing: float):
        super().__init__()
        self.register_buffer("weight", weight)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        return F.cross_entropy(logits, labels, self.weight, label_smoothing=smoothing, reduction="none").mean()


class SmoothL1(nn.Module):
    """Smooth L1 of (output - target) / deviation, mean over images and numbers: quadratic up to one deviation, linear
    beyond it, so that outliers do not dominate."""

    def __init__(self, deviation: Tensor):
        super().__init__()
        self.register_buffer("deviation", deviation.detach().clone())

    def forward(self, numbers: Tensor, targets: Tensor) -> Tensor:
        return _smooth(numbers, targets, self.deviation).mean()


def _multiclass(model: nn.Module) -> Kind:
    return Kind(
        outputs=("class", "classes"),
        main="accuracy",
        losses=lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"),
        divergence=categorical,
        kept=lambda logits: logits.argmax(1),
        scores=class_scores,
        read=lambda logits: (logits / getattr(model, "temperature", 1.0)).softmax(-1),
    )


def _multilabel(model: nn.Module) -> Kind:
    return Kind(
        outputs=("label", "labels"),
        main="mean_average_precision",
        losses=lambda logits, there: F.binary_cross_entropy_with_logits(logits, there, reduction="none").mean(1),
        divergence=bernoulli,
        kept=lambda logits: logits,
        scores=label_scores,
        read=torch.sigmoid,
    )


def _regression(model: nn.Module) -> Kind:
    units = units_of(model)[0]  # not its deviation, which is another tensor once the model has moved to a GPU
    return Kind(
        outputs=("number", "numbers"),
        main="r2",
        losses=lambda numbers, targets: _smooth(numbers, targets, units.deviation).mean(1),
        divergence=lambda student, teacher: ((student - teacher) / units.deviation).square().mean() / 2,
        kept=lambda numbers: numbers,
        scores=number_scores,
        read=lambda numbers: numbers,
    )


def _smooth(numbers: Tensor, targets: Tensor, deviation: Tensor) -> Tensor:
    off = (numbers - targets) / deviation.to(numbers.device)
    return F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none")


def categorical(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of softmax over classes, mean over images."""
    own, others = (widened(logits).log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(own, others, reduction="batchmean", log_target=True)


def bernoulli(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of every label by itself, mean over images and labels."""
    yes, no = ([F.logsigmoid(sign * widened(logits)) for logits in (student, teacher)] for sign in (1, -1))
    parts = [F.kl_div(own, other, reduction="none", log_target=True).mean() for own, other in (yes, no)]
    return parts[0] + parts[1]
