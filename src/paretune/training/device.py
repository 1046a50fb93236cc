"""Which device to work on."""

from __future__ import annotations

import torch

from paretune.errors import UsageError, unknown

DEVICES = ("auto", "cpu", "cuda")


def pick_device(asked: str) -> torch.device:
    """ "auto" is the accelerator that torch finds, otherwise the CPU. UsageError if the requested device is missing."""
    if asked == "gpu":
        raise UsageError("unknown device 'gpu': did you mean cuda?")
    if asked not in DEVICES:
        raise unknown("device", asked, list(DEVICES))
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch finds none here: use --device cpu or auto")
    found = torch.accelerator.current_accelerator(check_available=True) if asked == "auto" else None
    return found or torch.device("cpu" if asked == "auto" else asked)
