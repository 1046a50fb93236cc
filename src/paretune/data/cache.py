"""Decode and resize images once, instead of in every epoch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from paretune.data.arrays import ImageArrays
from paretune.data.samples import ImageSet, Samples, for_torch


def is_still(draw: Callable[[], Any]) -> bool:
    """Whether `draw` uses no random numbers: it leaves the generators of Python, numpy and torch as they were."""
    before = _generators()
    draw()
    return _generators() == before


def _generators() -> tuple:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *devices)]
    old = np.random.get_state()  # noqa: NPY002 - a transform may use the old generator
    assert isinstance(old, tuple)
    return random.getstate(), (old[0], old[1].tobytes(), *old[2:]), states


def decoded(dataset: Samples, budget: int, workers: int = 0) -> Samples:
    """The same data set with its images decoded and resized in memory, or unchanged if that is not possible.

    The steps of its transform before the first random step and before the tensor conversion run once per image, the
    others at every access. The output is the same bit for bit. After these steps all images must have the same size,
    and together take at most `budget` bytes.
    """
    steps = _steps(getattr(dataset, "transform", None))
    if isinstance(dataset, ImageArrays) or not steps or not _shows_pictures(dataset):
        return dataset
    picture, once = dataset.through(None)[0][0], 0
    while once < len(steps) and isinstance(after := _still(steps[once], picture), Image.Image):
        picture, once = after, once + 1
    if not once or len(dataset) * picture.width * picture.height * 3 > budget:
        return dataset
    pictures = DataLoader(
        for_torch(dataset.through(Compose([*steps[:once], np.asarray]))),
        batch_size=None, num_workers=workers, collate_fn=_as_it_is, generator=torch.Generator(),
    )  # fmt: skip
    images = np.empty((len(dataset), picture.height, picture.width, 3), np.uint8)
    targets = np.array(dataset.targets)
    for i, (one, target) in enumerate(pictures):
        if one.shape != images.shape[1:]:
            return dataset
        images[i], targets[i] = one, target  # a lenient set may return another picture, with its target
    rest = Compose(steps[once:])
    return ImageArrays(images, targets, dataset.classes, rest, "decoded", dataset.task)


def _shows_pictures(dataset: Samples) -> TypeGuard[ImageSet]:
    return hasattr(dataset, "through")


def _still(step: Callable, picture: Image.Image) -> object:
    """The picture after a step, None if the step is random."""
    taken = []
    return taken[0] if is_still(lambda: taken.append(step(picture))) else None


def _as_it_is(item: Any) -> Any:
    return item


def _steps(transform: object) -> list[Callable]:
    """The steps of a transform that consists of steps, [] for any other transform."""
    if not isinstance(transform, Compose):
        return []
    return [part for step in transform.transforms for part in (_steps(step) or [step])]
