"""The task "digits": which handwritten digit is in the picture, among clutter?

This is the only task with real data: the 1797 scans of scikit-learn (UCI optical digits), drawn into clutter as in the
demo. No scan is in two parts of the task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.drawn.digits import load_scans, place_scans, split_rows
from paretune.drawn.task import Drawn, DrawnTask, float64, generator
from paretune.errors import UsageError


def draw(counts: Sequence[int], seed: int) -> list[Drawn]:
    """Sets of digits, at most 1797 images in total. Raises UsageError if scikit-learn is missing."""
    try:
        scans, labels = load_scans()
    except ImportError as missing:
        raise UsageError(str(missing)) from None
    rows = np.concatenate(split_rows(labels, sum(counts[:-1]), counts[-1], seed))
    sets = np.split(rows, np.cumsum(counts)[:-1])
    with float64():
        return [
            (place_scans(generator(f"digits {seed} {place}"), scans[some].astype(np.float64)), labels[some])
            for place, some in enumerate(sets)
        ]


DIGITS = DrawnTask(
    "digits", "natural", "which handwritten digit is in the picture", tuple("0123456789"), draw, test=797
)
