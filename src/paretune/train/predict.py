"""Predict the classes, labels or numbers of image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from paretune.data.images import open_image
from paretune.data.transforms import evaluation
from paretune.errors import UsageError
from paretune.train.device import pick_device
from paretune.train.metrics import ABOVE
from paretune.train.tasks import kind_of

Prediction = tuple[str, list[tuple[str, float]]]  # path, [(class, probability), ...] from likely to unlikely
TOP = 5


@torch.inference_mode()
def predict(
    model, paths: Sequence[str | Path], top: int | None = None, batch_size: int = 32, device: str = "auto"
) -> list[Prediction]:
    """The model's predictions for each image, in the order of `paths`.

    multiclass: the `top` most likely classes (5 by default); multilabel: the labels with a probability above 0.5, or
    the `top` most likely ones, each with its own probability; regression: every number, in its own units and in the
    model's order.

    `model` comes from `paretune.load`, which also loads its classes and preprocessing. A model without class names
    gives class numbers. Raises UnreadableImage for a file that cannot be decoded, and UsageError if `top` is given for
    a regression or if outputs are not finite.
    """
    if model.task == "regression" and top is not None:
        raise UsageError("the model answers with numbers, which have no order of likelihood: leave out top")
    where, transform = pick_device(device), evaluation(model.preprocessing)
    model.to(where).eval()
    read, found = kind_of(model).read, []
    for some in _chunks(paths, batch_size):
        images = torch.stack([transform(open_image(path)) for path in some]).to(where)
        values = read(model(images).float())
        if not torch.isfinite(values).all():
            raise UsageError(
                f"the model's answers to {some[0]}, or to others of its batch, are no finite numbers: train it again "
                "with a smaller learning rate"
            )
        found += [(str(path), _chosen(row, model, top)) for path, row in zip(some, values, strict=True)]
    return found


def _chunks(paths: Sequence, size: int) -> Iterator[Sequence]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def _chosen(row: torch.Tensor, model, top: int | None) -> list[tuple[str, float]]:
    names = model.classes or [str(i) for i in range(len(row))]
    if model.task == "regression":
        return list(zip(names, row.tolist(), strict=True))
    values, indices = row.topk(min(top or (TOP if model.task == "multiclass" else len(row)), len(row)))
    best = [(names[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]
    if model.task == "multilabel" and top is None:
        return [(name, value) for name, value in best if value > ABOVE]
    return best
