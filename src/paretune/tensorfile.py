"""Read and write files of tensors (safetensors, never pickles), and check that tensors are finite and fit the model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paretune.errors import UsageError, quoted

AGAIN = "save the model again"
# The types that tensors of a model can have, by their safetensors names.
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file. Raises OSError if the disk is full, like other writing functions."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def read_tensors(path: Path, advice: str = AGAIN) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UsageError, with `advice`, if it is missing, truncated or something
    else, or holds numbers that are not finite."""
    with opened(path, advice) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        check_finite(name, tensor, f"{path} is not loaded", "train the model again" if advice == AGAIN else advice)
    return tensors


def heads(path: Path, advice: str = AGAIN) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device. Reads only the file's header. Raises as `read_tensors`."""
    with opened(path, advice) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if strange := sorted({one.get_dtype() for one in found.values()} - _DTYPES.keys()):
            raise UsageError(f"{path} holds tensors of type {strange[0]}, which no model has; {advice}")
        return {
            name: torch.empty(one.get_shape(), dtype=_DTYPES[one.get_dtype()], device="meta")
            for name, one in found.items()
        }


@contextmanager
def opened(path: Path, advice: str = AGAIN) -> Iterator[Any]:
    """A safetensors file to read from. Raises UsageError, with `advice`, if it is missing or damaged."""
    if not path.is_file():
        raise UsageError(f"'{path}' is missing or not a regular file; {advice}")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, RuntimeError, MemoryError) as error:  # a file of a terabyte cannot even be mapped
        raise UsageError(
            f"{path} is damaged: truncated or not a safetensors file ({str(error)[:200]}); pickles are never loaded; "
            f"{advice}"
        ) from error


def check_finite(name: str, tensor: Tensor, what: str, advice: str) -> None:
    """Raise UsageError if a tensor holds NaN or infinity."""
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise UsageError(f"{what}: its tensor {quoted(name)} holds numbers that are not finite; {advice}")


def check_fit(tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Raise UsageError unless the tensors have the names and shapes of `wanted`, and the same types; floating-point
    types may differ in width."""
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        says = [f"lacks {missing[0]} (and {len(missing) - 1} more)"] if missing else []
        says += [f"has {extra[0]} (and {len(extra) - 1} more), which the model does not"] if extra else []
        raise UsageError(f"{path} does not belong to its config: it {' and '.join(says)}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise UsageError(f"{path}: {name} is {tuple(tensor.shape)}, the model needs {tuple(wanted[name].shape)}")
        numbers = tensor.is_floating_point() and wanted[name].is_floating_point()  # of any width
        if not numbers and tensor.dtype != wanted[name].dtype:
            raise UsageError(f"{path}: {name} is {tensor.dtype}, the model needs {wanted[name].dtype}")
