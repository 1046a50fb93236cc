"""The description of the data in a training record."""

from __future__ import annotations

from paretune.data.samples import Samples


def describe(dataset: Samples) -> dict:
    """A data set's own description, or just its size where it has none."""
    return dataset.describe() if hasattr(dataset, "describe") else {"images": len(dataset)}
