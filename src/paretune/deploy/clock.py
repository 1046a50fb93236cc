"""How fast an artefact is: beside itself without the reducer, and beside the model in torch, taking turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.core.model import Adapted
from paretune.deploy.runtimes import open_runtime
from paretune.timing.rounds import Times, interleaved, times

BATCHES = (1, 8)
ARTEFACT, UNREDUCED, TORCH = "artefact", "without the reducer", "torch"
WARM = 2


def timed(path: Path, unreduced: Path | None, model: Adapted, batch: tuple[int, int], rounds: int) -> dict[str, dict]:
    """{batch size: {side: Times as JSON}} of random images; ratios are to torch's eager forward in float32.

    Sizes that the artefact does not take are left out. All sides use the threads that torch has now.
    """
    threads = torch.get_num_threads()
    sides = {ARTEFACT: open_runtime(path, threads)}
    if unreduced is not None:
        sides[UNREDUCED] = open_runtime(unreduced, threads)
    sizes = [size for size in BATCHES if batch[0] <= size <= batch[1]] or [batch[0]]
    rng = np.random.default_rng(0)
    groups: list[dict[tuple[str, int], Callable[[], Any]]] = []
    for size in sizes:
        images = rng.standard_normal((size, *model.preprocessing["input_size"]), np.float32)
        calls: dict[tuple[str, int], Callable[[], Any]] = {
            (name, size): partial(run, images) for name, run in sides.items()
        }
        groups.append({**calls, (TORCH, size): partial(model, torch.from_numpy(images))})
    found: dict[tuple[str, int], list[float]] = {key: [] for group in groups for key in group}
    with torch.inference_mode():
        for key, seconds in interleaved(groups, rounds + WARM, torch.device("cpu")):
            if isinstance(seconds, Exception):
                raise seconds
            found[key].append(seconds)
    measured: dict[str, dict[str, Times]] = {}
    for (name, size), seconds in found.items():
        base = found[TORCH, size][WARM:]
        measured.setdefault(str(size), {})[name] = times(seconds[WARM:], size, base)
    return {size: {name: one.to_dict() for name, one in sides_.items()} for size, sides_ in measured.items()}
