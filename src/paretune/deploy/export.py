"""Export a trained model: fold, write, check against torch on pictures, and say in the artefact what it is.

    model -> merged -> graph with outputs and groups -> (int8) -> checked -> graph with outputs, description inside

Everything is written to a temporary folder first. A failed check leaves the artefact there, marked as failed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from paretune.checkpoint import fingerprint, split
from paretune.core.model import Adapted
from paretune.core.target_units import units_of
from paretune.deploy import triton
from paretune.deploy.clock import timed
from paretune.deploy.description import Description
from paretune.deploy.lint import TARGETS
from paretune.deploy.making import Maker
from paretune.deploy.parity import Pictures
from paretune.deploy.pictures import pictures_for
from paretune.deploy.report import Report
from paretune.deploy.runtimes import needed
from paretune.deploy.writers import WRITERS
from paretune.errors import UsageError, refuse, unknown
from paretune.files import remove_folder, whole, write_json
from paretune.folding import merge
from paretune.machine import environment
from paretune.measure.cost import cost
from paretune.methods import Methods
from paretune.training.predict import names_of
from paretune.version import __version__

DTYPES = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8"), "torch": ("fp32", "bf16")}
WHY_NOT = {
    ("onnx", "bf16"): "ONNX Runtime has no bfloat16 kernels for CPUs: use --to openvino --dtype bf16, or int8",
    ("torch", "int8"): "a torch program has no 8-bit kernels for CPUs: use --to onnx or --to openvino",
}
REPORT = "export.json"
MOST_BATCH = 64


def export(
    model: Adapted,
    out: str | Path,
    pictures: Pictures | None = None,
    *,
    to: str = "onnx",
    dtype: str = "fp32",
    batch: tuple[int, int] = (1, MOST_BATCH),
    target: str | None = None,
    rounds: int = 7,
    overwrite: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Report:
    """Write the model as an artefact into the folder `out`, with `export.json`, the report of its checks.

    Args:
        model: from `paretune.load` or a training; it is not changed.
        pictures: to check with, from `deploy.pictures.pictures_for`; by default drawn ones, which say little.
        to: "onnx" (model.onnx), "openvino" (model.xml, model.bin), "torch" (model.pt2, a program of torch.export), or
            "triton" (config.pbtxt, 1/model.onnx).
        dtype: "fp32", "bf16" (openvino, torch) or "int8" (onnx, openvino, triton).
        batch: the fewest and the most images at once; equal numbers make a graph of one fixed batch.
        target: "tensorrt": operations that TensorRT is known to get wrong fail the check.
        rounds: timed runs of the artefact, of the same without its reducer, and of torch; 0 leaves timing out.
        overwrite: replace a folder `out` that is there already.
        tell: called with a line whenever a stage begins.

    The folder appears when everything in it is complete. Raises UsageError for impossible wishes, for an `out` that is
    in use, and for packages that are missing. The report's `verdict` is "failed" if the artefact does not answer as
    torch does; it is written all the same, and says so itself.
    """
    runtime = "onnx" if to == "triton" else to
    check(runtime, dtype, batch, target)
    out = Path(out)
    check_out(out, overwrite)
    plain = merge(model).cpu().float()
    pictures = pictures or pictures_for(plain)
    with tempfile.TemporaryDirectory(prefix="paretune-export-") as folder:
        maker = Maker(plain, describe(model, runtime, dtype, batch), Path(folder), pictures, target, tell)
        made = maker.make()
        unreduced = maker.unreduced() if rounds else None
        if rounds:
            tell("timing")
        report = Report(
            facts=maker.facts, rows=tuple(made.rows), failures=tuple(made.failures), precision=made.precision,
            pictures={"source": pictures.source, "images": len(pictures.check), "hashes": list(pictures.hashes)},
            times=timed(made.path, unreduced, plain, batch, rounds) if rounds else {},
            sensitivities=maker.sensitivities, bytes=sum(file.stat().st_size for file in made.files()),
            lint=tuple(made.lint), environment=environment(torch.device("cpu")),
        )  # fmt: skip
        if overwrite and out.exists():
            remove_folder(out)
        with whole(out) as new:
            for file in made.files():
                shutil.copyfile(file, new / file.name)
            write_json(new / REPORT, report.to_json())
            if to == "triton":
                triton.arrange(new, out.resolve().name, maker.facts)
    return report


def describe(model: Adapted, to: str, dtype: str, batch: tuple[int, int]) -> Description:
    """What the artefact of this model says about itself."""
    trained, frozen = split(model)
    units = units_of(model)
    preprocessing = {k: list(v) if isinstance(v, tuple) else v for k, v in model.preprocessing.items()}
    spec = model.spec
    return Description(
        runtime=to,
        dtype=dtype,
        task=model.task,
        names=tuple(names_of(model)),
        preprocessing=preprocessing,
        batch=batch,
        tokens=tuple(cost(model).tokens),
        methods=Methods(spec.adapters, spec.reducer).to_json() if spec else {},
        backbone=spec.backbone.name if spec else None,
        fingerprint=fingerprint(frozen),
        trained=fingerprint(trained),
        versions={"paretune": __version__, "torch": torch.__version__, "timm": version("timm")},
        temperature=getattr(model, "temperature", 1.0),
        deviation=tuple(units[0].deviation.tolist()) if model.task == "regression" and units else None,
    )


def check_out(out: Path, overwrite: bool) -> None:
    """Raise UsageError unless `out` can become the folder of an artefact; only another artefact is ever replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / REPORT).is_file():
        raise UsageError(f"{out} is in use, and holds no artefact of `paretune export`: name another folder")
    if not overwrite:
        raise UsageError(f"{out} holds an artefact already: name another folder, or add --overwrite to replace it")


def check(to: str, dtype: str, batch: tuple[int, int], target: str | None) -> None:
    """Raise UsageError, which lists every problem at once, for wishes that no export can fulfil."""
    if to not in DTYPES:
        raise unknown("runtime", to, [*DTYPES, "triton"])
    if dtype not in ("fp32", "bf16", "int8"):
        raise unknown("number type", dtype, ["fp32", "bf16", "int8"])
    if target is not None and target not in TARGETS:
        raise unknown("target", target, list(TARGETS))
    least, most = batch
    problems = [WHY_NOT[to, dtype]] if dtype not in DTYPES[to] else []
    if not 1 <= least <= most <= 10**6:
        problems.append(f"batch {least}:{most}: give the fewest and the most images, from 1 to 1,000,000")
    if target is not None and to != "onnx":
        problems.append(f"target {target} is for ONNX files: use it with --to onnx")
    refuse(problems, "cannot export")
    for package in (*WRITERS[to].needs, *(("nncf",) if (to, dtype) == ("openvino", "int8") else ())):
        needed(package)
