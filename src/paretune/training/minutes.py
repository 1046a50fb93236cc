"""Plan a training that ends in time: first with fewer epochs, then with adapters in later blocks only.

    seconds(epochs) = fixed + once * images + epochs * (step * training images + look * validation images)

A few steps are timed for it. What lies before the first adapter is computed once, so later blocks make every epoch
shorter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor

from paretune.catalogue import Recipe, in_blocks, recipe
from paretune.core.model import Adapted
from paretune.data.cache import is_still
from paretune.data.samples import ImageSet
from paretune.data.splitting import Splits
from paretune.data.transforms import CROPPING, framing, training
from paretune.errors import UsageError
from paretune.training import automatic
from paretune.training.device import pick_device
from paretune.training.log import duration
from paretune.training.prefix import frozen_blocks
from paretune.training.speed import Timed

AIM = 0.85  # of the time is planned for; the rest is for what no measurement foresees
ENOUGH = 5  # epochs: rather later blocks than fewer ones
SHARES = (1 / 2, 2 / 3, 5 / 6)  # of the depth: where adapters may begin instead
READ = 8  # images that are read to time it
OVERHEAD, EPOCH, FIXED = 1e-4, 0.1, 2.0  # seconds of an image and epoch, of an epoch, of a training, beside the model's
SEARCHED = 0.4  # of the time at most for a search


@dataclass(frozen=True)
class Cost:
    """Seconds of a training: at its start and end, and of every epoch."""

    fixed: float
    epoch: float

    def of(self, epochs: int) -> float:
        """Seconds of so many epochs."""
        return self.fixed + epochs * self.epoch

    def epochs(self, seconds: float) -> int:
        """How many epochs fit."""
        return max(0, int((seconds - self.fixed) / self.epoch))


@dataclass(frozen=True)
class Plan:
    """What fits: epochs, the first block with adapters (None: as the recipe says), the seconds that it should take."""

    minutes: float
    epochs: int
    first_block: int | None
    depth: int
    seconds: float
    why: str

    def to_json(self) -> dict:
        """What a record keeps."""
        return asdict(self)

    def applied(self, what: Recipe) -> Recipe:
        """The recipe as planned. Warm-up keeps its share."""
        if self.first_block is not None:
            later = _later(what, self.first_block, self.depth)
            assert later is not None, "the plan was made for this recipe"
            what = later
        share = what.schedule.warmup_epochs / what.schedule.epochs
        schedule = replace(what.schedule, epochs=self.epochs, warmup_epochs=share * self.epochs)
        return what if self.epochs == what.schedule.epochs else replace(what, schedule=schedule)


class Planner:
    """Times trainings of recipes on these images. `left` says how many seconds remain.

    settings: those of `fit_on` that all trainings share; started: the `perf_counter` at which the time began
    Raises UsageError for several processes, which could not agree.
    """

    def __init__(
        self,
        build: automatic.Build,
        images: Splits,
        minutes: float,
        settings: dict[str, Any],
        started: float,
        tell: Callable[[str], None] = lambda line: None,
    ):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError("minutes are planned for a single process: leave them out, and say how many epochs")
        self.build, self.train, self.validate, self.minutes = build, images.train, images.val, minutes
        self.settings, self.start, self.tell = settings, started, tell
        self.known: dict[tuple, Cost] = {}

    def left(self) -> float:
        """Seconds until the time is over."""
        return 60 * self.minutes - (perf_counter() - self.start)

    def cost(self, what: Recipe) -> Cost:
        """What a training of this recipe costs here; measured once."""
        key = _key(what)
        if key not in self.known:
            self.tell(f"timing {what.name}")
            self.known[key] = self._measured(what)
        return self.known[key]

    def _measured(self, what: Recipe) -> Cost:
        model = self.build(what).to(pick_device(self.settings["device"])).train()
        schedule, images, checked = what.schedule, len(self.train), len(self.validate)
        learn = self.train.through(self._transform(model, schedule.augment))
        read = _seconds_to_read(learn) / max(1, self.settings["workers"])
        image = cast("Tensor", learn[0][0]).to(next(model.parameters()).device)
        still = is_still(lambda: learn[0]) and not (schedule.mixup or schedule.cutmix)
        half = self.settings["mixed_precision"] in ("bf16", "fp16")
        timed = Timed(model, image, frozen_blocks(model, image) if still else 0, torch.bfloat16 if half else None)
        once, step, look = timed.once() + read, timed.step(), timed.look()
        again = read if schedule.augment in CROPPING else 0.0  # other pictures are kept after they were decoded
        batch = min(schedule.batch_size, images)
        return Cost(
            fixed=FIXED + once * (images + checked) + 4 * batch * step + look * checked,
            epoch=EPOCH + (step + again + OVERHEAD) * images + (look + OVERHEAD) * checked,
        )

    def _transform(self, model: Adapted, augment: str) -> Callable:
        crop = self.settings.get("crop")
        return training(framing(model.preprocessing, augment, crop), augment, crop)

    def searches(self) -> bool:
        """Whether there is time to search for a recipe."""
        linear = self.cost(recipe("linear"))
        tries = len(automatic.RATES["linear"])
        seconds = linear.fixed + tries * automatic.TRIED["linear"] * linear.epoch
        if len(self.train) >= automatic.FEW and seconds < SEARCHED * self.left():
            late = self.cost(automatic.late(len(self.build(recipe("linear")).backbone.blocks)))
            share = min(1.0, automatic.PART / len(self.train))
            seconds += late.fixed + share * tries * automatic.TRIED[automatic.LATE] * late.epoch
        return seconds < SEARCHED * self.left()

    def plan(self, what: Recipe) -> Plan:
        """How much of a recipe fits into the time that is left. Raises UsageError if not even an epoch does."""
        asked, depth, found = what.schedule.epochs, len(self.build(what).backbone.blocks), []
        for first, candidate in _candidates(what, depth):
            try:
                cost = self.cost(candidate)
            except UsageError:
                if first is None:
                    raise
                continue  # such as one width for each block, which then are too many
            found.append((first, candidate.name, cost))
            if self._fitting(cost, asked) >= min(asked, ENOUGH):
                break
        # of the time that is left now, not of what was left when each one was timed
        epochs, (first, name, cost) = max(
            ((self._fitting(one[2], asked), one) for one in found), key=lambda one: one[0]
        )
        if not epochs:
            raise self._impossible(what.name, min((cost.of(1), name) for _, name, cost in found))
        why = _why(asked, epochs, what.name, name, cost.of(epochs))
        return Plan(self.minutes, epochs, first, depth, cost.of(epochs), why)

    def _fitting(self, cost: Cost, asked: int) -> int:
        return min(asked, cost.epochs(AIM * self.left()))

    def _impossible(self, name: str, quickest: tuple[float, str]) -> UsageError:
        least = (60 * self.minutes - self.left() + quickest[0] / AIM) / 60
        return UsageError(
            f"{self.minutes:g} minutes are too few for recipe {name}: one epoch of {quickest[1]} needs about "
            f"{least:.2g} minutes here; allow that many, or use fewer images, a smaller image size or the recipe linear"
        )


def _key(what: Recipe) -> tuple:
    """All of a recipe that decides how long its epochs take, if the rest stays the same."""
    return what.name, what.schedule.augment, what.schedule.mixup, what.schedule.cutmix


def _later(what: Recipe, first: int, depth: int) -> Recipe | None:
    """The recipe with adapters from block `first` on; without stochastic depth, with which nothing could be kept."""
    later = in_blocks(what, first, depth)
    return later and replace(later, schedule=replace(later.schedule, drop_path=0.0))


def _candidates(what: Recipe, depth: int) -> list[tuple[int | None, Recipe]]:
    """The recipe, and the same with adapters in later and later blocks: (first block, recipe)."""
    later = {round(share * depth): _later(what, round(share * depth), depth) for share in SHARES}
    return [(None, what), *((first, one) for first, one in later.items() if one is not None)]


def _why(asked: int, epochs: int, name: str, planned: str, seconds: float) -> str:
    takes = f"about {duration(seconds)}"
    if planned != name:
        what = f"{planned} without stochastic depth, {epochs} of {asked} epochs"
        return f"{what}, {takes}: {name} would not get through {min(asked, ENOUGH)}"
    return f"{epochs} of {asked} epochs, {takes}" + (": more do not fit" if epochs < asked else ": all of them fit")


def _seconds_to_read(images: ImageSet) -> float:
    times = []
    for i in range(min(READ, len(images))):
        start = perf_counter()
        images[i]
        times.append(perf_counter() - start)
    return median(times)
