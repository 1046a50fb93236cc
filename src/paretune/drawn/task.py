"""What a drawn task is, and how its pictures come out the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Group = Literal["natural", "specialized", "structured"]
Drawn = tuple[np.ndarray, np.ndarray]
"""Images (n, 32, 32, 3) uint8 and targets (n,) int64."""


@dataclass(frozen=True)
class DrawnTask:
    """A multiclass task whose pictures are drawn.

    Attributes:
        name: what folders, records and tables call it.
        group: VTAB's group that it resembles.
        about: what is asked of a picture, in one sentence.
        classes: a name per class.
        draw: (counts, seed) -> for each count that many (images, targets). The sets share no picture, their classes
            are as even as can be, and the same seed gives the same sets.
        test: how many test images the suite draws.
    """

    name: str
    group: Group
    about: str
    classes: tuple[str, ...]
    draw: Callable[[Sequence[int], int], list[Drawn]]
    test: int = 1000


def painted(
    name: str, group: Group, about: str, classes: Sequence[str], paint: Callable[[torch.Generator, Tensor], Tensor]
) -> DrawnTask:
    """A task all of whose pictures are invented: `paint` turns (rng, labels (n,)) into (n, 32, 32, 3) uint8.

    Every set has a generator of its own, so its pictures depend on the seed and its place among the sets alone.
    """

    def draw(counts: Sequence[int], seed: int) -> list[Drawn]:
        return [_paint(f"{name} {seed} {place}", count) for place, count in enumerate(counts)]

    def _paint(key: str, count: int) -> Drawn:
        with float64():
            rng = generator(key)
            labels = evenly(rng, count, len(classes))
            return paint(rng, labels).numpy(), labels.numpy()

    return DrawnTask(name, group, about, tuple(classes), draw)


def evenly(rng: torch.Generator, count: int, classes: int) -> Tensor:
    """`count` labels in random order, every class equally often as far as that goes."""
    return (torch.arange(count) % classes)[torch.randperm(count, generator=rng)]


def generator(key: str) -> torch.Generator:
    """A generator seeded by a text: unlike texts have unrelated streams."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))


@contextmanager
def float64() -> Iterator[None]:
    """Draw in double precision.

    Processors, numbers of threads and versions of torch differ in the last bits of a sum or a sine. In float32 that
    turns some hundred bytes of a task's pictures; in float64 the odds are about one in a hundred thousand that it turns
    any, so that pictures can be told by their hash.
    torch keeps one default type per process: do not draw in one thread while another makes tensors.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
