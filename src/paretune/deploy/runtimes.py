"""What runs an artefact: ONNX Runtime, OpenVINO or torch, each imported only when its files are opened.

model.onnx                  ONNX Runtime
model.xml, model.bin        OpenVINO
model.pt2                   torch
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paretune.deploy.description import KEY, Description
from paretune.errors import UsageError, plain, unknown

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # OpenVINO would use bfloat16 unasked where the CPU has it
_EXTRAS = {
    "onnxruntime": "export",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "nncf": "openvino",
}


class Runtime(Protocol):
    """A graph that is ready to run. `precision` is what the runtime says it computes in."""

    description: Description
    precision: str

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Images (n, 3, H, W) float32 -> the outputs of the graph, (n, ...) each."""
        ...


def needed(package: str) -> Any:
    """The module of an optional package. Raises UsageError that says what to install."""
    try:
        return import_module(package)
    except ImportError:
        extra = _EXTRAS.get(package, "export")
        raise UsageError(f"{package} is not installed: `pip install 'paretune[{extra}]'`") from None


def in_batches(runtime: Runtime, images: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph for any number of images, at least one.

    More images than the graph takes at once go in several batches; fewer are filled up with zeros.
    """
    least, most = runtime.description.batch
    found = []
    for start in range(0, len(images), most):
        part = np.ascontiguousarray(images[start : start + most], np.float32)
        missing = max(0, least - len(part))
        filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
        found.append([output[: len(part)] for output in runtime(filled)])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


class OnnxRuntime:
    """A file for ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, threads: int | None = None):
        ort = needed("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only
        if threads:
            options.intra_op_num_threads = threads
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT's own kinds are private
            raise UsageError(f"ONNX Runtime cannot read {plain(path)}: {plain(str(error))}") from error
        said = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.description = Description.from_text(said, str(path))
        (self.input,) = (one.name for one in self.session.get_inputs())
        self.precision = self.session.get_inputs()[0].type.removeprefix("tensor(").removesuffix(")")

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {self.input: images})


class OpenVino:
    """A model for OpenVINO, on the CPU, in exactly the precision that its description names."""

    def __init__(self, path: Path, threads: int | None = None):
        ov = needed("openvino")
        core = ov.Core()
        try:
            model = core.read_model(path)
        except Exception as error:
            raise UsageError(f"OpenVINO cannot read {plain(path)}: {plain(str(error))}") from error
        said = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
        self.description = Description.from_text(said, str(path))
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[self.description.dtype],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self.compiled = core.compile_model(model, "CPU", options)
        self.precision = self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        found = self.compiled(images)
        return [np.asarray(found[i]) for i in range(len(self.compiled.outputs))]


class TorchProgram:
    """A program of `torch.export`; it needs torch, but none of paretune's modules."""

    def __init__(self, path: Path, threads: int | None = None):
        import torch

        extra = {KEY: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:
            raise UsageError(f"torch cannot read {plain(path)}: {plain(str(error))}") from error
        self.description = Description.from_text(extra[KEY], str(path))
        if threads:
            torch.set_num_threads(threads)
        self.torch, self.module = torch, program.module()
        self.precision = "bf16" if self.description.dtype == "bf16" else "f32"

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        with self.torch.inference_mode():
            given = self.torch.from_numpy(images)
            found = self.module(given)
        return [one.float().numpy() if one.is_floating_point() else one.numpy() for one in _several(found)]


def _several(found: Any) -> Sequence[Any]:
    return found if isinstance(found, tuple | list) else (found,)


ENDINGS: dict[str, type] = {".onnx": OnnxRuntime, ".xml": OpenVino, ".pt2": TorchProgram}
FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}


def artefact_file(path: str | Path) -> Path | None:
    """The artefact that a path means, a file or a folder with exactly one; None if the path means none."""
    path = Path(path)
    if path.suffix.lower() in ENDINGS:
        return path
    there = [path / name for name in FILES.values() if (path / name).is_file()]
    return there[0] if len(there) == 1 else None


def open_runtime(path: str | Path, threads: int | None = None) -> Runtime:
    """Open an artefact. Raises UsageError for a file that is missing, unknown, damaged, or lacks a description."""
    file = artefact_file(path)
    if file is None:
        raise unknown("kind of artefact", Path(path).suffix or str(path), list(ENDINGS))
    if not file.is_file():
        raise UsageError(f"there is no artefact {plain(file)}: `paretune export RUN --to onnx --out FOLDER` writes one")
    return ENDINGS[file.suffix.lower()](file, threads)
