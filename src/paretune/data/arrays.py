"""Images that are already in memory, as a data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class ImageArrays:
    """Map-style data set of (transform(picture), label) over arrays.

    Attributes:
        images: (n, H, W, 3) uint8.
        labels: (n,) integers, indices into `classes`.
        classes: one name per class.
        transform: turns an RGB picture into what the model eats; None leaves it as it is.
        name: what a record calls this data.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    transform: Callable[[Image.Image], object] | None = None
    name: str = "arrays"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[object, int]:
        picture = Image.fromarray(self.images[index])
        return (self.transform(picture) if self.transform else picture), int(self.labels[index])

    def through(self, transform: Callable[[Image.Image], object]) -> ImageArrays:
        """The same images, seen through `transform`."""
        return replace(self, transform=transform)

    def part(self, indices, name: str) -> ImageArrays:
        """The images at `indices`, called `name`."""
        return replace(self, images=self.images[indices], labels=self.labels[indices], name=name)

    def describe(self) -> dict:
        """What a training record keeps about its data; the fingerprint covers every pixel and label."""
        counts = Counter(self.labels.tolist())
        content = np.ascontiguousarray(self.images).tobytes() + np.asarray(self.labels, np.int64).tobytes()
        return {
            "name": self.name,
            "images": len(self),
            "per_class": {name: counts[label] for label, name in enumerate(self.classes)},
            "fingerprint": hashlib.sha256(content).hexdigest(),
        }
