"""The precision of a training, and the accelerator that applies it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from paretune.core.memory import Memory
from paretune.core.model import Adapted
from paretune.data.cache import is_still
from paretune.data.samples import Samples
from paretune.errors import UsageError
from paretune.training.device import pick_device
from paretune.training.memory import keeping
from paretune.training.prefix import frozen_blocks
from paretune.training.runfolder import RunFolder
from paretune.training.speed import measured_precision


def resumed(out: str | Path, resume: bool, overwrite: bool) -> tuple[str, dict | None] | None:
    """The precision of the run that is resumed, and what it measured; None for a new one.

    Raises UsageError if the folder is in use, so that nothing is measured in vain.
    """
    folder = RunFolder(out, {})
    if not resume or overwrite:
        folder.check(resume, overwrite)
        return None
    then = folder.asked()
    return then.get("mixed_precision", "no"), then.get("measured_precision")


def faster(model: Adapted, train_set: Samples, cache: bool, device: str, memory: Memory) -> tuple[str, dict]:
    """The precision that trains this model faster, and what was measured. Raises UsageError for several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("mixed precision 'auto' measures a single process: name no or bf16 for several processes")
    image = train_set[0][0].to(pick_device(device))
    with keeping(model.to(image.device), memory):
        kept = frozen_blocks(model, image) if cache and is_still(lambda: train_set[0]) else 0
        measured = measured_precision(model, image, kept)
    return measured["chosen"], measured


def accelerator_for(device: str, mixed_precision: str | None, accumulate: int) -> Accelerator:
    """The accelerator of one run. Raises UsageError for fp16 on a CPU and for a device that is not there."""
    where = pick_device(device)
    if mixed_precision == "fp16" and where.type == "cpu":
        raise UsageError("mixed precision 'fp16' needs a GPU: use bf16 or no on a CPU")
    # accelerate keeps the first run's device and precision for the whole process unless it is reset
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # as a plugin, because the environment of `accelerate launch` would override a plain number
    plugin = GradientAccumulationPlugin(num_steps=accumulate)
    return Accelerator(cpu=where.type == "cpu", mixed_precision=mixed_precision, gradient_accumulation_plugin=plugin)
