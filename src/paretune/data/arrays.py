"""Images that are already in memory, as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from paretune.data.task import Task, balance


@dataclass(frozen=True)
class ImageArrays:
    """Map-style data set of (transform(picture), target) over arrays.

    Attributes:
        images: (n, H, W, 3) uint8.
        targets: (n,) indices into `classes`; multilabel: (n, C) of 0 and 1; regression: (n, C) numbers.
        classes: a name for each class, or for each column of the targets.
        transform: turns an RGB picture into the input of a model; None returns the picture.
        name: the name of the data in records.
    """

    images: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    transform: Callable[[Image.Image], object] | None = None
    name: str = "arrays"
    task: Task = "multiclass"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[object, int | np.ndarray]:
        picture, target = Image.fromarray(self.images[index]), self.targets[index]
        target = int(target) if self.task == "multiclass" else target.astype(np.float32)
        return (self.transform(picture) if self.transform else picture), target

    def through(self, transform: Callable[[Image.Image], object] | None) -> ImageArrays:
        """The same images with another transform."""
        return replace(self, transform=transform)

    def part(self, indices, name: str) -> ImageArrays:
        """The images at `indices`, under the name `name`."""
        return replace(self, images=self.images[indices], targets=self.targets[indices], name=name)

    def lossy(self) -> str:
        """ "lossless", because images in memory are not compressed."""
        return "lossless"

    def content_hash(self) -> str:
        """SHA-256 over every pixel and target."""
        content = np.ascontiguousarray(self.images).tobytes() + np.ascontiguousarray(self.targets).tobytes()
        return hashlib.sha256(content).hexdigest()

    def describe(self) -> dict:
        """The description of the data in a training record."""
        return {
            "name": self.name,
            "task": self.task,
            "images": len(self),
            **balance(self.task, self.classes, self.targets),
            "fingerprint": self.content_hash(),
        }
