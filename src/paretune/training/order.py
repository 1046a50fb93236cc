"""Random data order and random transforms that depend only on (seed, epoch, image).

They do not depend on the number of worker processes or on earlier computations, so an interrupted run can be resumed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from paretune.data.samples import Samples


class SeededEpochs(Dataset, Sampler[int]):
    """A data set's images in a fresh order in each epoch; also the data set itself, with seeded random transforms.

    Set `epoch` before each pass.
    """

    def __init__(self, dataset: Samples, seed: int):
        self.dataset, self.seed, self.epoch = dataset, seed, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(len(self)).tolist())

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Image `index`, drawn with its own seed; the generators are left as they were found."""
        value = mixed(self.seed, self.epoch, index)
        before, torch_before = random.getstate(), torch.get_rng_state()
        numpy_before = np.random.get_state()  # noqa: NPY002 - timm's RandAugment draws from it
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002
        torch.default_generator.manual_seed(value)  # unlike torch.manual_seed it leaves the GPU's dropout alone
        try:
            return self.dataset[index]
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)  # noqa: NPY002
            torch.set_rng_state(torch_before)


def mixed(*numbers: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
