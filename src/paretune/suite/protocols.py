"""Protocols: the rules of a comparison, such as how the learning rate and the epoch are chosen, and on which images.

Results of different protocols cannot be compared, so a protocol has a name and is part of every row of a ledger.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from paretune.catalogue import Recipe, Schedule
from paretune.errors import unknown
from paretune.training.loop import Choice


@dataclass(frozen=True)
class Protocol:
    """How every recipe is tuned, trained and tested.

    schedule: the training schedule, equal for all recipes except for the learning rate
    factors: the candidate learning rates are the recipe's own rate times these; a single factor means no tuning
    train, validate: the parts to train on and to choose on; with several factors, candidates always train on train800
        and are compared on val200
    look_every: the best epoch on `validate` among every `look_every` epochs is kept, or the last epoch if None
    tuning_seeds: a candidate's score is its mean over training runs with these seeds
    by: a candidate's score on val200: "accuracy", or "loss". By loss, rates within one standard error of the lowest
        are equally good, and the middle of the longest run of good rates is chosen
    choose: how the epoch is chosen, as in `training.fit`
    preprocessing: entries that replace the backbone's own, such as mean and std
    """

    name: str
    about: str
    schedule: Schedule
    factors: tuple[float, ...] = (1.0,)
    train: Literal["train800", "train800val200", "train"] = "train800"
    validate: Literal["val200", "test", "val"] = "val200"
    look_every: int | None = 1
    tuning_seeds: tuple[int, ...] = (0,)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    by: Literal["accuracy", "loss"] = "accuracy"
    choose: Choice = "score"

    def describe(self) -> dict:
        """A JSON object that is equal for rows that can be compared, except for the input size of the backbone."""
        looks = self.look_every is not None
        every = "" if self.look_every == 1 else f", of every {self.look_every}"
        later = {"rate": "lowest loss on val200, then good neighbours"} if self.by == "loss" else {}
        later |= {"choose": self.choose} if self.choose != "score" else {}
        return {
            "name": self.name,
            "train": self.train,
            "selection": self.validate if looks else "val200" if len(self.factors) > 1 else "none",
            "grid": {"lr, the recipe's times": list(self.factors)},
            "tuning_seeds": list(self.tuning_seeds),
            "epoch": f"best on {self.validate}{every}" if looks else "last",
            "test_used": "to choose the epoch" if looks and self.validate == "test" else "once",
            "augment": self.schedule.augment,
            "schedule": {key: value for key, value in asdict(self.schedule).items() if key != "lr"},
            **later,  # older rows of ledgers have no such entries
        }

    def rates(self, recipe: Recipe) -> list[float]:
        """The candidate learning rates of a recipe."""
        return [float(f"{recipe.schedule.lr * factor:.6g}") for factor in self.factors]

    def schedule_at(self, lr: float) -> Schedule:
        """The schedule with this learning rate."""
        return replace(self.schedule, lr=lr)

    def lasting(self, epochs: int) -> Protocol:
        """The same protocol with another number of epochs, and therefore another name; warm-up keeps its share."""
        share = self.schedule.warmup_epochs / self.schedule.epochs
        schedule = replace(self.schedule, epochs=epochs, warmup_epochs=share * epochs)
        return replace(self, name=f"{self.name}, {epochs} epochs", schedule=schedule)


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_NOTHING = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
# The same for the PETL-ViT family, FPET and Adapter+: AdamW, 100 epochs of batch 64, 10 of them warm-up, no
# augmentation.
_VTAB = Schedule(epochs=100, batch_size=64, weight_decay=1e-4, warmup_epochs=10, drop_path=0.1)
_ADAPTER_PLUS = replace(_VTAB, warmup_lr=1e-5, min_lr=1e-6)
PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            "offline",
            "10 epochs on 800 images; learning rate and epoch chosen on 200 others, per task; the test is used once",
            Schedule(epochs=10, batch_size=32, weight_decay=1e-4, warmup_epochs=1),
            factors=(3.0, 10.0, 30.0),
        ),
        Protocol(
            "steady",
            "10 epochs on 800 images; per task, 200 others choose the learning rate, by the loss of three trainings "
            "each, and the epoch, carefully; the test is used once",
            Schedule(epochs=10, batch_size=32, weight_decay=1e-4, warmup_epochs=1),
            factors=(1.0, 3.0, 10.0, 30.0),
            tuning_seeds=(0, 1, 2),
            by="loss",
            choose="careful",
        ),
        Protocol(
            "adapter-plus",
            "after Adapter+ (Steitz and Roth, CVPR 2024): one setting for all tasks, trained on all 1,000 images, last "
            "epoch, the backbone's own normalisation; nothing is chosen per task",
            _ADAPTER_PLUS,
            train="train800val200",
            look_every=None,
        ),
        Protocol(
            "petl-vit",
            "protocol of FacT, Convpass and RepAdapter: trained on all 1,000 images with ImageNet's mean and std, the "
            "best of every tenth epoch ON THE TEST images; for comparison with their tables only",
            _VTAB,
            train="train800val200",
            validate="test",
            look_every=10,
            preprocessing=_IMAGENET,
        ),
        Protocol(
            "fpet",
            "protocol of FPET and Bi-AdaptFormer: as petl-vit, with images that are not normalised",
            _VTAB,
            train="train800val200",
            validate="test",
            look_every=10,
            preprocessing=_NOTHING,
        ),
    )
}


def protocol(name: str) -> Protocol:
    """A protocol by name. Raises UsageError for an unknown one, with suggestions."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, list(PROTOCOLS))
    return PROTOCOLS[name]
