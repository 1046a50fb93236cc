"""`DrawnTask`: a task whose pictures are drawn, the same ones on every machine."""

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
        name: its name in folders, records and tables.
        group: the group of VTAB that it resembles.
        about: the question about a picture, in a few words.
        classes: a name for each class.
        draw: (counts, seed) -> a set (images, targets) for each count. No picture is in two sets, the classes are as
            equal in number as possible, and the same seed gives the same sets.
        test: the number of test images in the suite.
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
    """A task without real data: `paint` turns (rng, labels (n,)) into (n, 32, 32, 3) uint8.

    Every set has its own generator, so its pictures depend only on the seed and on its place among the sets.
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
    """`count` labels in random order; the numbers of two classes differ by at most one."""
    return (torch.arange(count) % classes)[torch.randperm(count, generator=rng)]


def generator(key: str) -> torch.Generator:
    """A generator whose seed is a text. Different texts give unrelated random numbers."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))


@contextmanager
def float64() -> Iterator[None]:
    """A context in which tensors have double precision.

    The last bits of a sum or a sine depend on the processor, the number of threads and the version of torch. In float32
    this changes some hundred bytes of a task's pictures. In float64 the probability that it changes any byte is about
    one in a hundred thousand, so the hash of the pictures can be compared.
    torch has one default type per process: do not draw in one thread while another one creates tensors.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
