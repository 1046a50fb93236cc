"""Does an artefact answer as the model in torch does? On pictures, at several batch sizes, patches included.

Random input proves little: it is far from what a model was trained on, and a graph that is wrong on pictures can be
right on noise. So the verdict rests on pictures; noise is reported beside them.

    error        |outputs of the artefact - outputs of torch| / largest |output of torch|
    agreement    share of pictures with the same most likely class; of labels on the same side of 0.5; of numbers that
                 differ by less than 1 % of the largest
    patches      share of patches that go the same way through all reductions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from paretune.core.model import Adapted

BATCHES = (1, 3, 8)
NOISE = 8  # images
LIMITS = {"fp32": (1e-4, 1.0), "bf16": (None, 0.99), "int8": (None, 0.99)}
"""The largest error and the smallest agreement that pass, by number type."""

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Images (n, 3, H, W) -> outputs (n, C) and the way of every patch (n, patches)."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Prepared pictures for the checks: (n, 3, H, W) float32.

    check: those that the artefact is held against; calibrate: others, by which 8 bits are chosen
    source: where they came from, in words; hashes: SHA-256 of the prepared pictures, never their names
    """

    check: np.ndarray
    calibrate: np.ndarray
    source: str
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """How far an artefact and torch agree on images of one kind, in batches of one size.

    batch, images: how many; max_error, p99_error: of the outputs, as shares of the largest one of torch
    agreement, top5: shares; top5: the true most likely class is among the artefact's five, None for other tasks
    same_groups: share of images all of whose patches go the same way; same_patches: share of patches
    """

    pictures: str
    batch: int
    images: int
    max_error: float
    p99_error: float
    agreement: float
    top5: float | None
    same_groups: float
    same_patches: float


@dataclass(frozen=True)
class Answers:
    """The outputs (n, C) and the way of every patch (n, patches) of one side."""

    outputs: np.ndarray
    groups: np.ndarray


def of_torch(model: Adapted, images: np.ndarray, batch: int = 8) -> Answers:
    """The answers of the model in float32."""
    found = []
    with torch.inference_mode():
        for part in parts(images, batch):
            run = model.run(torch.from_numpy(part))
            found.append((run.logits.numpy(), run.tokens.groups().numpy()))
    return joined(found)


def of_graph(run: Run, images: np.ndarray, batch: int) -> Answers:
    """The answers of a graph with both outputs, in batches of `batch` and one smaller one at the end."""
    return joined([tuple(run(part)) for part in parts(images, batch)])


def parts(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """The images in batches."""
    return (np.ascontiguousarray(images[i : i + batch]) for i in range(0, len(images), batch))


def joined(found: Sequence[Sequence[np.ndarray]]) -> Answers:
    """Batches of answers as one."""
    return Answers(*(np.concatenate(part) for part in zip(*found, strict=True)))


def compare(task: str, wanted: Answers, found: Answers, pictures: str, batch: int) -> Agreement:
    """Hold the answers of an artefact against torch's."""
    scale = max(float(np.abs(wanted.outputs).max()), 1e-12)
    errors = np.abs(wanted.outputs - found.outputs).max(1) / scale
    same = wanted.groups == found.groups
    finite = bool(np.isfinite(found.outputs).all())
    return Agreement(
        pictures,
        batch,
        len(errors),
        float(errors.max()) if finite else float("inf"),
        float(np.quantile(errors, 0.99)) if finite else float("inf"),
        agreement(task, wanted.outputs, found.outputs, scale),
        top5(wanted.outputs, found.outputs) if task == "multiclass" else None,
        float(same.all(1).mean()),
        float(same.mean()),
    )


def agreement(task: str, wanted: np.ndarray, found: np.ndarray, scale: float) -> float:
    """The share of answers that a user would call the same."""
    if task == "multiclass":
        return float((wanted.argmax(1) == found.argmax(1)).mean())
    if task == "multilabel":
        return float(((wanted > 0) == (found > 0)).mean())
    return float((np.abs(wanted - found) < 0.01 * scale).mean())


def top5(wanted: np.ndarray, found: np.ndarray) -> float:
    """How often torch's most likely class is among the five most likely ones."""
    best = np.argsort(-found, axis=1, kind="stable")[:, :5]
    return float((best == wanted.argmax(1)[:, None]).any(1).mean())


def check(task: str, model: Adapted, run: Run, images: np.ndarray, batches: Sequence[int] = BATCHES) -> list[Agreement]:
    """The agreement on these images and on noise, for every batch size."""
    noise = np.random.default_rng(0).standard_normal((NOISE, *images.shape[1:]), np.float32)
    found = []
    for kind, some in (("pictures", images), ("noise", noise)):
        wanted = of_torch(model, some)
        found += [compare(task, wanted, of_graph(run, some, batch), kind, batch) for batch in batches]
    return found


def failures(rows: Sequence[Agreement], dtype: str) -> list[str]:
    """What is beyond the limits, in words; empty if the artefact passes."""
    largest, least = LIMITS[dtype]
    found = []
    for row in rows:
        where = f"{row.pictures}, batch {row.batch}"
        if not np.isfinite(row.max_error):
            found.append(f"{where}: outputs that are no finite numbers")
        elif largest is not None and row.max_error > largest:
            found.append(f"{where}: outputs differ by {row.max_error:.1e} of the largest, the limit is {largest:.0e}")
        if row.pictures == "pictures" and row.agreement < least:
            found.append(f"{where}: {row.agreement:.1%} of the answers agree, {least:.0%} must")
    return found


def to_json(rows: Sequence[Agreement]) -> list[dict[str, Any]]:
    """JSON values; an error that is not finite is null."""
    return [{k: v if not isinstance(v, float) or np.isfinite(v) else None for k, v in asdict(r).items()} for r in rows]
