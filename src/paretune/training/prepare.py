"""Build a model from a recipe, and train it on data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from paretune.catalogue import Schedule
from paretune.core.model import Adapted
from paretune.data.samples import ImageSet
from paretune.data.task import Task
from paretune.data.transforms import evaluation, framing, training
from paretune.methods import Methods
from paretune.plan import adapt
from paretune.training.fit import Result, fit


def built(
    name: str,
    methods: Methods,
    schedule: Schedule,
    classes: Sequence[str] | int | None,
    *,
    seed: int = 0,
    task: Task = "multiclass",
    pretrained: bool = True,
    checkpoint: Path | None = None,
    **options: Any,
) -> Adapted:
    """The backbone `name` with these methods, ready to be trained; `seed` initialises the new tensors.

    The backbone has the stochastic depth of the schedule. Raises UsageError as `adapt` does.
    """
    if schedule.drop_path:
        options["drop_path_rate"] = schedule.drop_path
    torch.manual_seed(seed)
    return adapt(name, methods.adapters, methods.reducer, classes, pretrained, checkpoint, task, **options)


def fit_on(
    model: Adapted,
    train: ImageSet,
    validate: ImageSet,
    schedule: Schedule,
    out: str | Path,
    preprocessing: dict | None = None,
    crop: str | None = None,
    **settings: Any,
) -> Result:
    """Run `fit` on images with the transforms of the model and the schedule.

    train, validate: data sets of images, with `through(transform)`; training images are augmented as in the schedule
    preprocessing: entries that replace the backbone's own, such as mean and std
    crop: how a picture that is not square becomes square: "squash", "fit" or "pad"; None: see `transforms.framing`
    settings: as in `fit`

    The model keeps the preprocessing that evaluation then needs. Raises UsageError as `fit` does.
    """
    model.preprocessing = framing(model.preprocessing, schedule.augment, crop) | (preprocessing or {})
    learn = train.through(training(model.preprocessing, schedule.augment, crop))
    return fit(model, learn, seen(validate, model), schedule, out, **settings)


def seen(images: ImageSet, model: Adapted) -> ImageSet:
    """The data set as `model` sees it in evaluation."""
    return images.through(evaluation(model.preprocessing))


def size_option(image_size: int | None) -> dict[str, Any]:
    """The option of a backbone for square images of this side; none for its own size."""
    return {} if image_size is None else {"img_size": image_size}
