"""What data sets are to those who train on them, measure, record and show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL import Image

from paretune.data.task import Task

if TYPE_CHECKING:
    from torch.utils.data import Dataset


class Samples(Protocol):
    """(what a model takes, target) by number, and what the outputs are called: enough to train on and to evaluate.

    `task`, `targets` (all of them) and `describe()` are asked for where a set has them: see `train.fit`.
    """

    @property
    def classes(self) -> Sequence[str]:
        """A name per class, or per column of the targets."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class ImageSet(Samples, Protocol):
    """Pictures with targets, wherever they lie; `data.dataset.Images` says what its attributes hold."""

    @property
    def classes(self) -> tuple[str, ...]:
        """A name per class, or per column of the targets."""
        ...

    @property
    def targets(self) -> np.ndarray:
        """Those of all pictures."""
        ...

    @property
    def task(self) -> Task:
        """What the targets are."""
        ...

    def through(self, transform: Callable[[Image.Image], object] | None) -> ImageSet:
        """The same pictures, seen through `transform`."""
        ...

    def part(self, indices: Any, name: str, /) -> ImageSet:
        """The pictures at these indices, called `name`."""
        ...

    def lossy(self) -> str:
        """Whether the pictures lost something when they were stored: "lossy", "lossless" or "mixed"."""
        ...

    def content_hash(self) -> str:
        """A hash over every picture and target."""
        ...

    def describe(self) -> dict:
        """What a training record keeps about its data."""
        ...


def for_torch(samples: Samples) -> Dataset:
    """The same set: torch's loader takes any that has a length and items, but its annotation asks for a Dataset."""
    return cast("Dataset", samples)
