"""Scores of a whole data set, task by task, with numpy alone: artefacts are scored where there is no torch.

tests/test_tasks.py compares them with scikit-learn's.

None means that a score is not defined on these data, such as the recall of a class without images or R2 of a constant
target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike

SHARES = (
    "accuracy", "balanced_accuracy", "precision", "f1", "macro_f1", "micro_f1", "average_precision",
    "mean_average_precision",
)  # fmt: skip
MOST_CONFUSED = 2000  # classes
COUNTS = ("images", "positives")
_WORDS = {"f1": "F1", "mae": "MAE", "rmse": "RMSE", "r2": "R2", "pearson": "Pearson"}


@dataclass(frozen=True)
class Scores:
    """The scores of a task on a data set.

    Attributes:
        overall: score by name, the most important one first.
        per_class: the scores of every single class, label or target number.
        confusion: [true class][answered class] -> images; None for tasks without classes.
    """

    overall: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    confusion: list[list[int]] | None = None


@dataclass(frozen=True)
class Metrics:
    """Quality and speed on one data set.

    Attributes:
        main: the name of the score by which training chooses the best epoch.
        scores: score by name. Accuracies, precisions and F1 are shares, 0 to 1; errors are in the units of the targets.
        loss: mean over the images of the task's loss without weights and smoothing. multiclass: cross-entropy in nats;
            multilabel: binary cross-entropy, mean over the labels; regression: smooth L1 in deviations of the training
            targets, mean over the numbers.
        images: how many images were seen.
        per_class: {class: {"images": count, "accuracy": its recall, "precision", "f1"}}, or
            {label: {"positives": count, "average_precision", "f1"}}, or {number: {"mae", "rmse", "r2", "pearson"}}.
        confusion: [true class][answered class] -> images; None but for multiclass.
        seconds: wall time of the whole pass, reading and decoding included.
        images_per_second: images / seconds.
    """

    main: str
    scores: dict[str, float | None]
    loss: float
    images: int
    per_class: dict[str, dict]
    confusion: list[list[int]] | None
    seconds: float
    images_per_second: float

    @property
    def accuracy(self) -> float:
        """Share of images whose most likely class is the right one (top-1); of multiclass only."""
        accuracy = self.scores["accuracy"]
        assert accuracy is not None, "every answer is right or wrong"
        return accuracy

    def to_dict(self) -> dict:
        """Everything as plain values, for JSON; the scores stand beside the rest."""
        plain = asdict(self)
        return {"main": self.main, **plain.pop("scores"), **plain}


def class_scores(predicted: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Scores:
    """Accuracy, balanced accuracy and macro F1 of class indices, both (n,).

    Balanced accuracy is the mean recall of the classes that have images. Macro F1 is the mean over the classes that
    have images or were predicted.
    """
    predicted, labels, count = np.asarray(predicted), np.asarray(labels), len(classes)
    right, images, answered = (
        np.bincount(which, minlength=count).tolist() for which in (labels[predicted == labels], labels, predicted)
    )
    confusion = None
    if count <= MOST_CONFUSED:
        confusion = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count).tolist()
    per_class = {
        name: {"images": n, "accuracy": _share(hit, n), "precision": _share(hit, m), "f1": _share(2 * hit, n + m)}
        for name, hit, n, m in zip(classes, right, images, answered, strict=True)
    }
    overall = {
        "accuracy": sum(right) / sum(images),
        "balanced_accuracy": _mean(row["accuracy"] for row in per_class.values()),
        "macro_f1": _mean(row["f1"] for row in per_class.values()),
    }
    return Scores(overall, per_class, confusion)


def label_scores(logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]) -> Scores:
    """Mean average precision, and micro and macro F1 at probability 0.5, of logits and 0 or 1, both (n, C).

    Average precision is defined for labels that some image has, F1 for labels that some image has or that are
    predicted for some image.
    """
    logits, there = np.asarray(logits), np.asarray(targets) > 0
    given = logits > 0  # a probability above 0.5
    per_label = {
        name: {
            "positives": int(truth.sum()),
            "average_precision": _average_precision(z, truth) if truth.any() else None,
            "f1": _f1(said, truth),
        }
        for name, z, said, truth in zip(labels, logits.T, given.T, there.T, strict=True)
    }
    overall = {
        "mean_average_precision": _mean(row["average_precision"] for row in per_label.values()),
        "micro_f1": _f1(given, there),
        "macro_f1": _mean(row["f1"] for row in per_label.values()),
    }
    return Scores(overall, per_label)


def number_scores(numbers: ArrayLike, targets: ArrayLike, names: Sequence[str]) -> Scores:
    """R2, mean absolute error, root mean square error and Pearson's correlation of numbers and targets, both (n, C).

    The overall scores are means over the targets. If the targets have different units, use the errors per target.
    """
    given, wanted = (np.asarray(values, np.float64) for values in (numbers, targets))
    per_target = {name: _errors(*pair) for name, *pair in zip(names, given.T, wanted.T, strict=True)}
    keys = ("r2", "mae", "rmse", "pearson")
    return Scores({key: _mean(row[key] for row in per_target.values()) for key in keys}, per_target)


def _errors(given: np.ndarray, wanted: np.ndarray) -> dict[str, float | None]:
    """The scores of one target number, both (n,) in float64."""
    varies, answers_vary = (len(x) > 1 and bool((x != x[0]).any()) for x in (wanted, given))
    off, around, own = given - wanted, wanted - wanted.mean(), given - given.mean()
    spread = float((around**2).sum())
    related = varies and answers_vary
    return {
        "mae": float(np.abs(off).mean()),
        "rmse": float(np.sqrt((off**2).mean())),
        "r2": 1 - float((off**2).sum()) / spread if varies else None,
        "pearson": float((own * around).sum() / np.sqrt((own**2).sum() * spread)) if related else None,
    }


def _average_precision(scores: np.ndarray, there: np.ndarray) -> float:
    """The sum over thresholds of precision times the gain in recall; images of equal score are told apart by none."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of every group of equal scores
    hits = np.cumsum(there[order])[last]
    gain = np.diff(hits, prepend=0) / hits[-1]
    return float((gain * hits / (last + 1)).sum())


def _f1(given: np.ndarray, there: np.ndarray) -> float | None:
    """F1 of flags of any shape; None if no flag is set on either side."""
    return _share(2 * int((given & there).sum()), int(given.sum()) + int(there.sum()))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def most_confused(confusion: Sequence[Sequence[int]], classes: Sequence[str], count: int) -> list[tuple[str, str, int]]:
    """The `count` most frequent confusions, most frequent first: (true class, answer, images)."""
    pairs = [
        (true, answer, images)
        for true, row in zip(classes, confusion, strict=True)
        for answer, images in zip(classes, row, strict=True)
        if images and answer != true
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:count]


def interval(share: float, images: int, deviations: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share of right answers: which shares `images` images cannot rule out; 95 % by default."""
    room = deviations**2 / images
    centre = (share + room / 2) / (1 + room)
    half = deviations / (1 + room) * ((share * (1 - share) + room / 4) / images) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def sure(name: str, value: float | None, images: int) -> str:
    """A score for people, accuracy with its interval: "accuracy 91.23% (88.10 to 93.60)"."""
    if name.removeprefix("val_") != "accuracy" or value is None:
        return told(name, value)
    low, high = interval(value, images)
    return f"{told(name, value)} ({100 * low:.1f} to {100 * high:.1f})"


def word(name: str) -> str:
    """A score's name for people: "macro_f1" is "macro F1"."""
    return " ".join(_WORDS.get(part, part) for part in name.split("_"))


def figure(name: str, value: float | None) -> str:
    """A score's value for people: shares in percent, counts with commas, "-" for what is not defined."""
    if value is None:
        return "-"
    if name in COUNTS:
        return f"{value:,}"
    return f"{value:.2%}" if name.removeprefix("val_") in SHARES else f"{value:.4g}"


def told(name: str, value: float | None) -> str:
    """A score for people: "accuracy 91.23%"."""
    return f"{word(name)} {figure(name, value)}"
