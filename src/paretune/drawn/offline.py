"""The offline suite: tasks of 1,000 training images each that are drawn on the spot, in VTAB's three groups.

A task is one file and one line here. Nothing is downloaded; the digits come with scikit-learn.
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
    """train800, val200, both together as train800val200, and test of a task, as VTAB-1K names them.

    They come from the cache or are drawn within seconds. The pictures of seed 0, on which results are compared, are
    checked by their hashes unless `verify` is False; those of other seeds are told by the fingerprint in every record.

    Raises UsageError for a name that is no task, for pictures that are not those of this version, and for digits
    without scikit-learn.
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
