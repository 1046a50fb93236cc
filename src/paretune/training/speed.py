"""How fast a model trains on this machine: a few steps on copies of one image, timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from paretune.core.model import Adapted
from paretune.training.prefix import Prefixed

COPIES, STEPS = 8, 3  # images of a timed step, and how many are timed after one that warms up
ROUNDS, ENOUGH = 7, 1.5  # of two precisions in turn, at most; no further measurement after so many seconds
CLEARLY = 0.95  # bfloat16 must take less than this share of the time
AUTO = "auto"


class Timed:
    """A model in training mode, and COPIES of an image as what it takes. `kept` of its blocks run once per image.

    half: the type of mixed precision
    """

    def __init__(self, model: Adapted, image: Tensor, kept: int, half: torch.dtype | None = None):
        device = next(model.parameters()).device
        self.images = image.to(device).expand(COPIES, *image.shape)
        self.model = model.train()
        self.learner: Adapted | Prefixed = Prefixed(model, kept, image.to(device)) if kept else model
        self.kept, self.half = kept, half
        self.given = self._entering()

    def _entering(self) -> Tensor | list[Tensor]:
        with self._precision():
            return self.learner.entering(self.images) if isinstance(self.learner, Prefixed) else self.images

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.images.device.type, self.half) if self.half else nullcontext()

    def once(self) -> float:
        """Seconds per image of the blocks that run once; 0 without any."""
        return self._each(self._entering) if self.kept else 0.0

    def step(self) -> float:
        """Seconds per image of a forward and backward pass of what runs in every epoch."""
        return self._each(self._step)

    def look(self) -> float:
        """Seconds per image of its forward pass alone."""
        with torch.no_grad(), self._precision():
            return self._each(lambda: self.learner(self.given))

    def precisions(self) -> dict[str, float]:
        """Seconds per image of a step in float32 ("no") and in bfloat16 ("bf16"), measured in turn."""
        taken: dict[str, list[float]] = {"no": [], "bf16": []}
        started = perf_counter()
        for done in range(ROUNDS):
            for name, times in taken.items():
                self.half = torch.bfloat16 if name == "bf16" else None
                times.append(self._seconds(self._step))
            if done and perf_counter() - started > ENOUGH:
                break
        return {name: min(times[1:]) / COPIES for name, times in taken.items()}

    def _step(self) -> None:
        with self._precision():
            outputs = self.learner(self.given)
        outputs.float().square().mean().backward()
        self.model.zero_grad(set_to_none=True)

    def _each(self, run: Callable[[], object]) -> float:
        started, times = perf_counter(), [self._seconds(run)]  # the first one warms up
        while len(times) <= STEPS and (len(times) < 2 or perf_counter() - started < ENOUGH):
            times.append(self._seconds(run))
        return median(times[1:]) / COPIES

    def _seconds(self, run: Callable[[], object]) -> float:
        start = perf_counter()
        run()
        if self.images.device.type != "cpu":
            torch.accelerator.synchronize()
        return perf_counter() - start


def measured_precision(model: Adapted, image: Tensor, kept: int) -> dict:
    """Which precision trains this model faster here, as JSON values; `told` puts it into words.

    Gradients are removed, buffers and the mode restored. Only a CPU and CUDA are tried; elsewhere it is float32.
    """
    if next(model.parameters()).device.type not in ("cpu", "cuda"):
        return {"chosen": "no", "images": 0, "seconds": {}}
    was_training, before = model.training, [(buffer, buffer.clone()) for buffer in model.buffers()]
    taken = Timed(model, image, kept).precisions()
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    model.train(was_training)
    chosen = "bf16" if taken["bf16"] < CLEARLY * taken["no"] else "no"
    return {"chosen": chosen, "images": COPIES, "seconds": taken}


def told(measured: dict) -> str:
    """One line for people."""
    if not (taken := measured["seconds"]):
        return "mixed precision: no, on this device nothing else was tried"
    ratio = f"a step in bfloat16 takes {taken['bf16'] / taken['no']:.2f} of one in float32"
    milliseconds = " to ".join(f"{1000 * taken[name]:.3g}" for name in ("bf16", "no"))
    return f"mixed precision: {measured['chosen']}, {ratio} here ({milliseconds} ms an image)"
