"""What to train if nobody said it: a short, seeded search for the lowest validation loss.

    few images (< 100)   linear                            20 epochs at each of 3 learning rates; the best one goes on
    more                 linear, adapters in the last 4    the same, and 3 epochs at each of 3 rates on at most 320
                         blocks behind a token reducer     images; adapters are taken if their loss is the lower one

Everything before the first trained block is computed once and kept, so the search takes seconds to minutes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paretune.catalogue import Recipe, Schedule, recipe
from paretune.core.model import Adapted
from paretune.data.samples import ImageSet
from paretune.errors import Diverged
from paretune.training.prepare import fit_on

FEW, PART = 100, 320  # images: fewer train a head alone; so many at most try out adapters
LATE, LAST = "sparse-tuning-vtab", 4  # the adapters that are tried, and in how many blocks
RATES = {"linear": (3e-3, 1e-2, 3e-2), LATE: (1e-3, 3e-3, 1e-2)}
TRIED = {"linear": 20, LATE: 3}  # epochs of a try
EPOCHS, PATIENCE = {"linear": 60, LATE: 30}, {"linear": 10, LATE: 6}  # of the training, and when it stops
BATCH = 32

Build = Callable[[Recipe], Adapted]
"""A fresh model for a recipe, always from the same seed."""


@dataclass(frozen=True)
class Try:
    """A short training: `images` to train on, the lowest validation `loss` of its epochs, the score at that epoch."""

    recipe: str
    lr: float
    images: int
    epochs: int
    loss: float | None
    score: float | None
    seconds: float


@dataclass(frozen=True)
class Choice:
    """What to train, and why: the recipe with its schedule, when to stop, the tries, and a sentence for people."""

    recipe: Recipe
    patience: int
    tries: tuple[Try, ...]
    why: str

    def to_json(self) -> dict:
        """What a run's record keeps of it."""
        return {
            "recipe": self.recipe.name,
            "schedule": asdict(self.recipe.schedule),
            "patience": self.patience,
            "tries": [asdict(one) for one in self.tries],
            "why": self.why,
        }

    @classmethod
    def from_json(cls, known: dict) -> Choice:
        """The choice that `to_json` described."""
        chosen = replace(recipe(known["recipe"]), schedule=Schedule(**known["schedule"]))
        return cls(chosen, known["patience"], tuple(Try(**one) for one in known["tries"]), known["why"])


def choose(
    build: Build,
    train: ImageSet,
    validate: ImageSet,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> Choice:
    """Search for what to train on these pictures. `settings`: workers, device and the like, as in `fit`.

    Raises Diverged if every try does.
    """
    search = Search(build, validate, seed, tell, settings)
    linear = recipe("linear")
    first = search.best(linear, train)
    if len(train) < FEW:
        return search.choice(linear, first, f"fewer than {FEW} training images: only a head is trained")
    depth = len(build(linear).backbone.blocks)
    part = _part(train, seed)
    second = search.best(adapters := late(depth), part)
    like = first if part is train else search.attempt(linear, part, first.lr)
    if like.loss is None or (second.loss is not None and second.loss < like.loss):
        return search.choice(
            adapters, second, f"its validation loss is lower than that of a linear head, {_told(like)}"
        )
    return search.choice(linear, first, f"adapters reached no lower validation loss, {_told(second)}")


def late(depth: int) -> Recipe:
    """The adapters that are tried, in the last of `depth` blocks."""
    return recipe(f"{LATE}@{max(depth - LAST, 0)}-{depth - 1}")


def unsearched() -> Choice:
    """What to train if there is no time to search: a linear head at the middle rate."""
    rate = sorted(RATES["linear"])[1]
    return _choice(recipe("linear"), rate, (), "there is no time for a search: a linear head is the fastest")


def _choice(what: Recipe, lr: float, tries: tuple[Try, ...], why: str) -> Choice:
    kind = what.name.partition("@")[0]
    schedule = Schedule(epochs=EPOCHS[kind], batch_size=BATCH, lr=lr, warmup_epochs=EPOCHS[kind] / 10)
    return Choice(replace(what, schedule=schedule), PATIENCE[kind], tries, why)


def _told(one: Try) -> str:
    return "which diverged" if one.loss is None else f"{one.loss:.3f} on {one.images:,} images"


def _part(images: ImageSet, seed: int) -> ImageSet:
    """At most PART of the images, drawn by the seed."""
    if len(images) <= PART:
        return images
    drawn = np.sort(np.random.default_rng(seed).permutation(len(images))[:PART])
    return images.part(drawn, "a part to try on")


class Search:
    """Short trainings on parts of a data set, and what came of them in `tries`."""

    def __init__(self, build: Build, validate: ImageSet, seed: int, tell: Callable[[str], None], settings: dict):
        self.build, self.validate, self.seed, self.tell, self.settings = build, validate, seed, tell, settings
        self.tries: list[Try] = []

    def best(self, what: Recipe, images: ImageSet) -> Try:
        """The try of the lowest loss over the learning rates of a recipe."""
        tries = [self.attempt(what, images, lr) for lr in RATES[what.name.partition("@")[0]]]
        best = min(tries, key=lambda one: math.inf if one.loss is None else one.loss)
        if best.loss is None and what.name == "linear":
            raise Diverged("every learning rate diverged, even with a linear head: look at the images and the weights")
        return best

    def attempt(self, what: Recipe, images: ImageSet, lr: float) -> Try:
        """A short training in a folder that goes away."""
        epochs = TRIED[what.name.partition("@")[0]]
        schedule = Schedule(epochs=epochs, batch_size=BATCH, lr=lr, warmup_epochs=epochs / 10)
        model = self.build(what)
        found = Try(what.name, lr, len(images), epochs, None, None, 0.0)
        with tempfile.TemporaryDirectory(prefix="paretune-") as out:
            try:
                result = fit_on(
                    model, images, self.validate, schedule, Path(out) / "try",
                    seed=self.seed, choose="loss", calibrate=False, quiet=True, **self.settings,
                )  # fmt: skip
                found = replace(found, loss=result.loss, score=result.score, seconds=result.seconds)
            except Diverged:
                pass
        self.tries.append(found)
        told = "diverged" if found.loss is None else f"validation loss {found.loss:.4f}, {found.seconds:.1f} s"
        self.tell(f"trying {what.name} at learning rate {lr:g} on {len(images):,} images, {epochs} epochs: {told}")
        return found

    def choice(self, what: Recipe, best: Try, why: str) -> Choice:
        """The recipe with the learning rate of its best try."""
        return _choice(what, best.lr, tuple(self.tries), why)
