"""What to expect of a training, before it: a probe, its learning curve, and what each recipe would cost here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from paretune.catalogue import Recipe, recipe
from paretune.data.samples import ImageSet
from paretune.measure.cost import cost
from paretune.measure.memory import saved_bytes, tensor_bytes
from paretune.training.automatic import BATCH as SIZE
from paretune.training.automatic import EPOCHS, FEW, LAST, LATE, Build, Search, Try
from paretune.training.device import pick_device
from paretune.training.metrics import interval
from paretune.training.prefix import frozen_blocks
from paretune.training.prepare import seen
from paretune.training.speed import Timed
from paretune.training.tasks import kind_of

FLOAT_BYTES, COPIES = 4, 4  # of a trained number: its gradient, two moments of AdamW, the best epoch
STEEP = 0.95  # a loss that falls below this share with twice the images is still falling


@dataclass(frozen=True)
class Forecast:
    """What a recipe costs on this machine.

    trained: parameters; file_bytes: of what is saved; memory_bytes: weights, optimiser and what the backward pass of a
    batch keeps, the program itself left out;
    kept_blocks: leading blocks that are computed once per image, which `seconds` includes; epochs: of the training
    """

    recipe: str
    trained: int
    file_bytes: int
    memory_bytes: int
    kept_blocks: int
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Advice:
    """A probe of the data, forecasts, and what to do, in sentences.

    images: to train on and to validate; metric: the name of the scores
    probe: a linear head at its best learning rate; interval: 95 % of its accuracy, None for other scores
    curve: tries of the same head on parts of the images, fewest first; the last one is the probe
    """

    images: tuple[int, int]
    metric: str
    probe: Try
    interval: tuple[float, float] | None
    curve: tuple[Try, ...]
    forecasts: tuple[Forecast, ...]
    sentences: tuple[str, ...]

    def to_json(self) -> dict:
        """Everything as plain values."""
        return asdict(self)


def advise(
    build: Build,
    train: ImageSet,
    validate: ImageSet,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Advice:
    """Probe the data with a linear head, and time a few steps of each candidate recipe.

    Raises UsageError as `fit` does.
    """
    search = Search(build, validate, seed, tell, {"device": device, "workers": workers})
    linear = recipe("linear")
    probe = search.best(linear, train)
    curve = []
    for share in (4, 2):
        count = len(train) // share
        if count >= 2 * len(train.classes):
            curve.append(search.attempt(linear, _first(train, count, seed), probe.lr))
    curve.append(probe)
    accurate = train.task == "multiclass" and probe.score is not None
    sure = interval(probe.score, len(validate)) if accurate and probe.score is not None else None
    depth = len(build(linear).backbone.blocks)
    names = ["linear", f"{LATE}@{max(depth - LAST, 0)}-{depth - 1}", LATE, "lora"]
    forecasts = tuple(_forecast(build, recipe(name), train, validate, device, tell) for name in names)
    told = _sentences(len(train), len(validate), sure, curve)
    metric = kind_of(build(linear)).main
    return Advice((len(train), len(validate)), metric, probe, sure, tuple(curve), forecasts, told)


def _first(images: ImageSet, count: int, seed: int) -> ImageSet:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return images.part(order.sort().values.numpy(), "a part to try on")


def _forecast(
    build: Build, what: Recipe, train: ImageSet, validate: ImageSet, device: str, tell: Callable[[str], None]
) -> Forecast:
    tell(f"timing {what.name}")
    model = build(what).to(pick_device(device))
    image = seen(train, model)[0][0].to(next(model.parameters()).device)
    kept = frozen_blocks(model.train(), image)
    timed = Timed(model, image, kept)
    once, step, look = timed.once(), timed.step(), timed.look()
    count, checked = len(train), len(validate)
    epochs = EPOCHS.get(what.name.partition("@")[0], EPOCHS[LATE])
    counted = cost(model)
    return Forecast(
        recipe=what.name,
        trained=counted.trained,
        file_bytes=FLOAT_BYTES * counted.trained,
        memory_bytes=tensor_bytes(model)
        + COPIES * FLOAT_BYTES * counted.trained
        + SIZE * saved_bytes(model, image[None]),
        kept_blocks=kept,
        epochs=epochs,
        seconds=once * (count + checked) + epochs * (step * count + look * checked),
    )


def _sentences(train: int, validate: int, sure: tuple[float, float] | None, curve: Sequence[Try]) -> tuple[str, ...]:
    told = []
    if sure is not None:
        points = 50 * (sure[1] - sure[0])
        told.append(f"{validate:,} validation images cannot tell accuracies apart that are within {points:.1f} points")
    if len(curve) > 1 and None not in (before := curve[-2].loss, now := curve[-1].loss):
        assert before is not None
        assert now is not None
        more = "more images will probably help" if now < STEEP * before else "more images alone will hardly help"
        fell = f"from {before:.3f} to {now:.3f}"
        told.append(f"with {curve[-1].images:,} instead of {curve[-2].images:,} images the loss went {fell}: {more}")
    if train < FEW:
        told.append(f"fewer than {FEW} training images: train a linear head (--recipe linear)")
    else:
        told.append("without --recipe, `paretune train` tries the linear head and adapters in the last blocks")
    return tuple(told)
