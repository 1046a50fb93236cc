"""Digits: which handwritten digit lies in the clutter?

The only task of real data: 1797 scans that scikit-learn brings along (UCI optical digits), set into drawn clutter as
in the demo, and shared out among the parts, no scan in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.drawn.digits import load_scans, place_scans, split_rows
from paretune.drawn.task import Drawn, DrawnTask, float64, generator
from paretune.errors import UsageError


def draw(counts: Sequence[int], seed: int) -> list[Drawn]:
    """Sets of digits, together at most 1797 images. Raises UsageError if scikit-learn is missing."""
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
    "digits", "natural", "which handwritten digit lies in the clutter", tuple("0123456789"), draw, test=797
)
