"""The images on which a model is most wrong: the wrong classes that it is surest of, or the largest errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from paretune.core.target_units import units_of
from paretune.training.tasks import kind_of


@dataclass(frozen=True)
class Mistake:
    """How wrong an answer is.

    Attributes:
        image: the image's place in the data set.
        size: multiclass: the probability of the wrong class; regression: the largest error of a number, in deviations
            of the training targets.
        facts: for JSON. multiclass: class, answer, probability; regression: number, target, answer, error.
    """

    image: int
    size: float
    facts: dict[str, str | float]


class Worst:
    """Collects the `count` worst mistakes; `add` is the `watch` of `training.evaluate.evaluate`."""

    def __init__(self, model, count: int):
        self.count, self.names, self.seen, self.read = count, model.classes, 0, kind_of(model).read
        self.mistakes: list[Mistake] = []
        self.find: Callable[[Tensor, Tensor], list[Mistake]] = self._classes
        if model.task == "regression":
            self.find, self.deviation = self._numbers, units_of(model)[0].deviation.cpu()

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Look at a batch on the CPU: the next ones of the data set."""
        found = [*self.mistakes, *self.find(outputs, targets)]
        self.mistakes = sorted(found, key=lambda one: (-one.size, one.image))[: self.count]
        self.seen += len(targets)

    def _classes(self, logits: Tensor, labels: Tensor) -> list[Mistake]:
        answers = logits.argmax(1)
        sure = self.read(logits).gather(1, answers[:, None])[:, 0]
        return [
            Mistake(self.seen + i, p, {"class": self.names[true], "answer": self.names[said], "probability": p})
            for i, (said, true, p) in enumerate(zip(answers.tolist(), labels.tolist(), sure.tolist(), strict=True))
            if said != true
        ]

    def _numbers(self, numbers: Tensor, targets: Tensor) -> list[Mistake]:
        sizes, columns = ((numbers - targets).abs() / self.deviation).max(1)
        given, wanted = (part.gather(1, columns[:, None])[:, 0].tolist() for part in (numbers, targets))
        rows = zip(sizes.tolist(), columns.tolist(), wanted, given, strict=True)
        return [
            Mistake(
                self.seen + i, size, {"number": self.names[j], "target": target, "answer": said, "error": said - target}
            )
            for i, (size, j, target, said) in enumerate(rows)
        ]
