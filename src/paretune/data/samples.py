"""The interfaces of data sets for training, evaluation, records and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL import Image

from paretune.data.task import Task

if TYPE_CHECKING:
    from torch.utils.data import Dataset


class Samples(Protocol):
    """Pairs (input of a model, target) by number, and the names of the outputs: enough to train and to evaluate.

    `task`, `targets` (of all samples) and `describe()` are used if a data set has them: see `training.fit`.
    """

    @property
    def classes(self) -> Sequence[str]:
        """A name for each class, or for each column of the targets."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class ImageSet(Samples, Protocol):
    """Pictures with targets, in files or in memory. `data.dataset.Images` describes the attributes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """A name for each class, or for each column of the targets."""
        ...

    @property
    def targets(self) -> np.ndarray:
        """The targets of all pictures."""
        ...

    @property
    def task(self) -> Task:
        """The task that the targets belong to."""
        ...

    def through(self, transform: Callable[[Image.Image], object] | None) -> ImageSet:
        """The same pictures with another transform."""
        ...

    def part(self, indices: Any, name: str, /) -> ImageSet:
        """The pictures at these indices, under the name `name`."""
        ...

    def lossy(self) -> str:
        """Whether the stored pictures lost detail: "lossy", "lossless" or "mixed"."""
        ...

    def content_hash(self) -> str:
        """A hash over every picture and target."""
        ...

    def describe(self) -> dict:
        """The description of the data in a training record."""
        ...


def for_torch(samples: Samples) -> Dataset:
    """The same set. torch's loader accepts any object with a length and items, but is annotated with Dataset."""
    return cast("Dataset", samples)
