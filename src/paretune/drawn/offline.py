"""The offline suite: tasks in VTAB's three groups, with 1,000 training images each, which paretune draws itself.

A task is one file and one line here. Nothing is downloaded; the digits are part of scikit-learn.
"""

from __future__ import annotations

import numpy as np

from paretune.data.arrays import ImageArrays
from paretune.drawn import store
from paretune.drawn.counting import COUNTING
from paretune.drawn.distance import DISTANCE
from paretune.drawn.fields import FIELDS
from paretune.drawn.handwriting import DIGITS
from paretune.drawn.location import LOCATION
from paretune.drawn.orientation import ORIENTATION
from paretune.drawn.shapes import SHAPES
from paretune.drawn.task import DrawnTask
from paretune.drawn.textures import TEXTURES
from paretune.drawn.tissue import TISSUE
from paretune.errors import unknown

__all__ = ["OFFLINE", "DrawnTask", "offline_parts"]

OFFLINE: dict[str, DrawnTask] = {
    task.name: task
    for task in (DIGITS, TEXTURES, SHAPES, TISSUE, FIELDS, LOCATION, ORIENTATION, COUNTING, DISTANCE)
}  # fmt: skip


def offline_parts(name: str, seed: int = 0, *, verify: bool = True) -> dict[str, ImageArrays]:
    """The parts of a task, with VTAB-1K's names: train800, val200, both together as train800val200, and test.

    They are read from the cache or drawn within seconds. Results are compared on seed 0, so the hashes of its pictures
    are checked unless `verify` is False. For other seeds, the fingerprint in every record identifies the pictures.

    Raises UsageError for an unknown task, for pictures that differ from those of this version, and for the digits if
    scikit-learn is missing.
    """
    if name not in OFFLINE:
        raise unknown("offline task", name, list(OFFLINE))
    task = OFFLINE[name]
    train, val, test = store.kept(name, seed, lambda: task.draw((800, 200, task.test), seed))
    images, targets = (np.concatenate(arrays) for arrays in zip(train, val, strict=True))
    sets = {"train800": train, "val200": val, "train800val200": (images, targets), "test": test}
    parts = {part: ImageArrays(*one, classes=task.classes, name=f"{name}, {part}") for part, one in sets.items()}
    if verify and seed == store.SEED:
        store.check(name, parts)
    return parts
