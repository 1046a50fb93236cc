"""The memory of a training: how much the process will need, and what its passes keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn

from paretune.core.memory import Memory
from paretune.core.model import Adapted
from paretune.measure.live import Live, extrapolated

MOMENTS, BEST = 2, 1  # for each trained number: AdamW's moments, and its value in the best epoch
STATE = MOMENTS + BEST + 1  # copies that are made when an epoch is written
ROOM = 3  # a whole batch is tried out if so many times its tensors are free; more than 2.6 times was never seen
TRIALS = 3  # the heap takes some steps to reach its final size


def process_bytes(losses: nn.Module, batch: Callable[[int], tuple], batch_size: int, device: torch.device) -> int:
    """The most bytes that a process which trains will hold: those of the device, or of the whole process on a CPU.

    losses: `losses(*batch(n))` gives {name: loss} for n images. Forward and backward pass run for two images and for
    three, which tells what all tensors together take for every batch size. On a CPU the holes between tensors can take
    as much again, and only a trial shows it. So if there is room, a whole batch runs a few times. Gradients are removed
    and buffers restored. What is held then includes libraries, weights and images in memory.
    """
    trained = sum(p.nbytes for p in losses.parameters() if p.requires_grad)
    before = [(buffer, buffer.clone()) for buffer in losses.buffers()]
    losses.train()
    two, three = (_course(losses, batch(count)) for count in (2, 3))
    peak = extrapolated(two, three, batch_size)
    there, most = _held(device), 0
    if device.type == "cpu" and psutil.virtual_memory().available > ROOM * peak:
        for _ in range(TRIALS):
            _step(losses, batch(batch_size))
        most = _most_held()
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    return (MOMENTS + BEST) * trained + max(most or there + peak, there + STATE * trained)


def _step(losses: nn.Module, batch: tuple) -> None:
    first, *others = losses(*batch).values()
    sum(others, first).backward()
    losses.zero_grad(set_to_none=True)


def _course(losses: nn.Module, batch: tuple) -> list[int]:
    """The living bytes after every operation of a step."""
    with Live() as live:
        _step(losses, batch)
    return live.course


def _held(device: torch.device) -> int:
    """Bytes that are held now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _most_held() -> int:
    """The most bytes that this process has ever held; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


@contextmanager
def keeping(model: Adapted, memory: Memory) -> Iterator[None]:
    """Inside of the `with`, training passes of `model` keep what `memory` says."""
    before, model.memory = model.memory, memory
    try:
        yield
    finally:
        model.memory = before


def readable(size: float) -> str:
    """2_500_000_000 -> "2.5 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
