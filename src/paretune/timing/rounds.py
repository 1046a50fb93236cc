"""Time several functions in turns, so that changes in the machine's speed affect all of them equally.

        round 1   batch 1: lora timm full     batch 8: timm full lora
        round 2   batch 1: full lora timm     batch 8: lora full timm       shuffled by a fixed seed
        ...
        ratio to timm = median over the rounds of (seconds in this round / timm's seconds in this round)

If the machine slows down for a while, both times of a pair get longer, and the paired ratio cancels this. A ratio of
two medians would not.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """How long one batch takes.

    seconds: of every round; median and quartiles (first, third) over the rounds
    ratio, ratio_quartiles: of these seconds to the baseline's, round by round; None without a baseline
    ms_per_image, images_per_second: at the median
    """

    seconds: tuple[float, ...]
    median: float
    quartiles: tuple[float, float]
    ratio: float | None
    ratio_quartiles: tuple[float, float] | None
    ms_per_image: float
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def times(seconds: Sequence[float], batch: int, baseline: Sequence[float] = ()) -> Times:
    """Times of one batch of `batch` images. `seconds` and `baseline` hold one entry per round, from the first round on;
    an unpaired rest is left out of the ratio."""
    low, median, high = spread(seconds)
    ratios = [own / base for own, base in zip(seconds, baseline, strict=False)]
    beside = spread(ratios) if ratios else None
    return Times(
        seconds=tuple(seconds),
        median=median,
        quartiles=(low, high),
        ratio=None if beside is None else beside[1],
        ratio_quartiles=None if beside is None else (beside[0], beside[2]),
        ms_per_image=1000 * median / batch,
        images_per_second=batch / median,
    )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, median, high


def interleaved(
    groups: Sequence[dict[Key, Callable[[], Any]]], rounds: int, device: torch.device, seed: int = 0
) -> Iterator[tuple[Key, float | Exception]]:
    """In every round call every function once, group after group, each group in a shuffled order; yield (key, seconds).

    If a function raises, its exception is yielded and it is not called again. Garbage collection is off meanwhile.
    """
    groups, order = [dict(group) for group in groups], random.Random(seed)
    with _no_garbage_collection():
        for _ in range(rounds):
            for group in groups:
                for key in order.sample(list(group), len(group)):
                    try:
                        found = seconds(group[key], device)
                    except Exception as error:
                        del group[key]
                        found = error
                    yield key, found


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """How long `run` takes, until the device has finished."""
    wait(device)
    start = perf_counter()
    run()
    wait(device)
    return perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
