"""A recipe on a task: the training runs that it needs, their order, and their rows in the ledger."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, stdev

from paretune.catalogue import Recipe
from paretune.checkpoint import fingerprint
from paretune.core import anatomy
from paretune.core.model import Adapted
from paretune.data.transforms import framing
from paretune.errors import Diverged
from paretune.ledger.results import KIND, VERSION, Result
from paretune.machine import environment
from paretune.measure.cost import cost
from paretune.named_backbone import obtain
from paretune.plan import adapt
from paretune.suite.jobs import Job
from paretune.suite.protocols import Protocol
from paretune.suite.suites import Suite
from paretune.training.device import pick_device
from paretune.training.prepare import size_option
from paretune.training.trials import Trial


@dataclass(frozen=True)
class Plan:
    """The comparison to run: recipes on the tasks of a suite, under a protocol, from seeds, on the backbone `model`.

    checkpoint: a local file of the backbone's weights, instead of its pretrained ones
    image_size: side of the square input in pixels, instead of the backbone's own
    """

    suite: Suite
    recipes: tuple[Recipe, ...]
    protocol: Protocol
    seeds: tuple[int, ...]
    model: str
    out: Path
    device: str = "auto"
    checkpoint: Path | None = None
    image_size: int | None = None

    def pairs(self) -> list[Pair]:
        """All recipes on the first task, then on the second, so that an interrupted suite has complete tasks."""
        return [Pair(self, task, recipe) for task in self.suite.groups for recipe in self.recipes]

    def check(self) -> None:
        """Raise UsageError for a recipe that does not fit the backbone."""
        for recipe in self.recipes:
            self.without_weights(recipe)

    def without_weights(self, recipe: Recipe, classes: list[str] | None = None) -> Adapted:
        """A recipe's model with random weights, to count what its shapes cost. Raises UsageError if it does not fit."""
        return adapt(self.model, recipe.adapters, recipe.reducer, classes, **size_option(self.image_size))

    @cached_property
    def origin(self) -> tuple[dict, dict]:
        """The backbone's name with the fingerprint of all of its tensors, and its preprocessing under the protocol."""
        module, origin = obtain(self.model, self.checkpoint is None, self.checkpoint, size_option(self.image_size))
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        own = framing(anatomy.preprocessing(module), self.protocol.schedule.augment)
        backbone = {
            "name": origin.name,
            "source": origin.source,
            "options": origin.options,
            "fingerprint": fingerprint(whole),
            "normalisation": {"mean": list(own["mean"]), "std": list(own["std"])},
        }
        return backbone, own | self.protocol.preprocessing


@dataclass
class Pair:
    """A recipe on a task: the best candidate learning rate is found, then the recipe is trained from every seed.

    todo: the seeds without a row in the ledger; candidates: (learning rate, seed) -> score, None if it diverged; lr:
    the chosen learning rate
    """

    plan: Plan
    task: str
    recipe: Recipe
    todo: list[int] = field(default_factory=list)
    candidates: dict[tuple[float, int], float | None] = field(default_factory=dict)
    lr: float | None = None

    def first(self, have: set[int]) -> list[Job]:
        """The first jobs; `have`: seeds whose rows are already in the ledger."""
        self.todo = [seed for seed in self.plan.seeds if seed not in have]
        rates = self.plan.protocol.rates(self.recipe)
        if not self.todo:
            return []
        if len(rates) == 1:
            return self._chosen(rates[0])
        return [self._job(lr, seed, test=False) for lr in rates for seed in self.plan.protocol.tuning_seeds]

    def after(self, job: Job, trial: Trial | None) -> list[Job]:
        """The next jobs after a finished candidate. Raises Diverged if no candidate has a score."""
        if job.test:
            return []
        by_loss = self.plan.protocol.by == "loss"
        score = None if trial is None else trial.val_loss if by_loss else trial.val_accuracy
        self.candidates[job.lr, job.seed] = score
        rates = self.plan.protocol.rates(self.recipe)
        if len(self.candidates) < len(rates) * len(self.plan.protocol.tuning_seeds):
            return []
        scores = {lr: known for lr in rates if (known := self._scores(lr))}
        if not scores:
            raise Diverged(f"{self.recipe.name} on {self.task} diverged at every learning rate: {rates}")
        if by_loss:
            return self._chosen(steadiest(rates, scores))
        return self._chosen(max(scores, key=lambda lr: (fmean(scores[lr]), -lr)))

    def _scores(self, lr: float) -> list[float]:
        """The scores of a learning rate from all tuning seeds; [] if one of the trainings diverged."""
        values = [value for (rate, _), value in self.candidates.items() if rate == lr]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else []

    def _chosen(self, lr: float) -> list[Job]:
        self.lr = lr
        return [self._job(lr, seed, test=True) for seed in self.todo]

    def folder(self, row: Result) -> Path:
        """The folder of the training of a row of the ledger."""
        return self._job(row.chosen["lr"], row.seed, test=True).folder

    def _job(self, lr: float, seed: int, test: bool) -> Job:
        plan = self.plan
        return Job(
            plan.suite, self.task, self.recipe, plan.protocol, plan.model, lr, seed, test, plan.out, plan.device,
            plan.checkpoint, plan.image_size,
        )  # fmt: skip

    def most(self) -> int:
        """The largest possible number of jobs."""
        rates = len(self.plan.protocol.factors)
        return len(self.todo) + (rates * len(self.plan.protocol.tuning_seeds) if rates > 1 and self.todo else 0)

    def question(self, seed: int) -> dict:
        """The part of a ledger's row that is known before training."""
        plan, recipe = self.plan, self.recipe
        parts = described(plan.suite, self.task)
        used = {"train": plan.protocol.train, "val": plan.protocol.validate, "test": "test"}
        backbone, preprocessing = plan.origin
        return {
            "suite": plan.suite.name,
            "task": self.task,
            "group": plan.suite.groups[self.task],
            "recipe": recipe.name,
            "seed": seed,
            "settings": recipe.methods.to_json(),
            "backbone": backbone,
            "protocol": {**plan.protocol.describe(), "preprocessing": preprocessing},
            "data": {
                **{name: parts[part]["hash"] for name, part in used.items()},
                "images": {name: parts[part]["images"] for name, part in used.items()},
                "lossy": parts["test"]["lossy"],
            },
        }

    def row(self, trial: Trial) -> dict:
        """The ledger's row of a finished seed."""
        plan, asked = self.plan, self.question(trial.seed)
        assert self.lr is not None, "chosen before a seed was trained"
        classes = described(plan.suite, self.task)["test"]["classes"]
        counted = cost(plan.without_weights(self.recipe, classes))
        candidates = [{"lr": lr, "seed": seed, "val": val} for (lr, seed), val in sorted(self.candidates.items())]
        return {
            "kind": KIND,
            "version": VERSION,
            **asked,
            "settings": {**asked["settings"], "schedule": asdict(plan.protocol.schedule_at(self.lr))},
            "metric": "accuracy",
            "test": trial.accuracy,
            "val": trial.val_accuracy,
            "chosen": {"lr": self.lr},
            "candidates": candidates,
            "cost": {
                "trained": counted.trained,
                "trained_without_head": counted.trained_without_head,
                "macs": counted.macs,
                "tokens_last": counted.tokens[-1][1],
            },
            "seconds": trial.seconds,
            "environment": environment(pick_device(plan.device)),
            "date": datetime.date.today().isoformat(),
        }


def steadiest(rates: Sequence[float], losses: dict[float, list[float]]) -> float:
    """The learning rate to choose by validation losses: the middle of the longest run of good neighbours.

    rates: ascending; losses: for every rate that did not diverge, one loss for each seed. A rate is good if its mean
    loss is within one standard error of the lowest mean. If there are two middles, the smaller rate is chosen.
    """
    means = {lr: fmean(values) for lr, values in losses.items()}
    best = min(means, key=means.__getitem__)
    error = stdev(losses[best]) / len(losses[best]) ** 0.5 if len(losses[best]) > 1 else 0.0
    rows: list[list[float]] = [[]]
    for lr in rates:
        if lr in means and means[lr] <= means[best] + error:
            rows[-1].append(lr)
        else:
            rows.append([])
    longest = max(rows, key=lambda row: (len(row), best in row))
    return longest[(len(longest) - 1) // 2]


@cache
def described(suite: Suite, task: str) -> dict[str, dict]:
    """For every part of a task: the hash of its content, the number of images, the classes, and whether it is lossy."""
    return {
        part: {
            "hash": images.content_hash(),
            "images": len(images),
            "classes": list(images.classes),
            "lossy": images.lossy(),
        }
        for part, images in suite.parts(task).items()
    }
