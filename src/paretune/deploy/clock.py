"""Time modules of torch and artefacts beside each other, taking turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from paretune.core.model import Adapted
from paretune.deploy.runtimes import Runtime, open_runtime
from paretune.timing.rounds import Times, interleaved, times

BATCHES = (1, 8)
ARTEFACT, UNREDUCED, TORCH = "artefact", "without the reducer", "torch"
WARM = 2  # rounds that are not counted


def in_turn(
    modules: Mapping[str, nn.Module],
    runtimes: Mapping[str, Runtime],
    size: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    base: str,
) -> dict[str, dict[int, Times]]:
    """{name: {batch size: times}} of random images of this size (3, H, W); ratios are to the side called `base`.

    Raises whatever a side raises.
    """
    groups, rng = [], np.random.default_rng(0)
    for batch in batches:
        images = rng.standard_normal((batch, *size), np.float32)
        calls: dict[tuple[str, int], Callable[[], Any]] = {}
        calls |= {(name, batch): partial(module, torch.from_numpy(images)) for name, module in modules.items()}
        calls |= {(name, batch): partial(run, images) for name, run in runtimes.items()}
        groups.append(calls)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for group in groups for key in group}
    with torch.inference_mode():
        for key, taken in interleaved(groups, rounds + WARM, torch.device("cpu")):
            if isinstance(taken, Exception):
                raise taken
            seconds[key].append(taken)
    found: dict[str, dict[int, Times]] = {}
    for (name, batch), taken in seconds.items():
        found.setdefault(name, {})[batch] = times(taken[WARM:], batch, seconds[base, batch][WARM:])
    return found


def timed(path: Path, unreduced: Path | None, model: Adapted, batch: tuple[int, int], rounds: int) -> dict[str, dict]:
    """{batch size: {side: Times as JSON}}: the artefact, the same without its reducer, and the model in torch.

    Sizes that the artefact does not take are left out. All sides use the threads that torch has now.
    """
    threads = torch.get_num_threads()
    files = {ARTEFACT: path} | ({} if unreduced is None else {UNREDUCED: unreduced})
    runtimes = {name: open_runtime(file, threads) for name, file in files.items()}
    sizes = [size for size in BATCHES if batch[0] <= size <= batch[1]] or [batch[0]]
    found = in_turn({TORCH: model}, runtimes, model.preprocessing["input_size"], sizes, rounds, TORCH)
    names = [*runtimes, TORCH]
    return {str(size): {name: found[name][size].to_dict() for name in names} for size in sizes}
