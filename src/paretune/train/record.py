"""What must be known to repeat a run, and to read its result."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("paretune", "torch", "torchvision", "timm", "accelerate", "pillow", "numpy")


def describe(dataset) -> dict:
    """A data set's own description, or just its size where it has none."""
    return dataset.describe() if hasattr(dataset, "describe") else {"images": len(dataset)}


def environment(device: torch.device) -> dict:
    """Versions and the class of machine."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return None
