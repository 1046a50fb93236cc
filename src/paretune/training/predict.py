"""Predict the classes, labels or numbers of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from paretune.data.images import UnreadableImage, open_image
from paretune.data.transforms import evaluation
from paretune.training.answers import Answer, check_finite, check_top, chosen
from paretune.training.device import pick_device
from paretune.training.tasks import kind_of

Prediction = tuple[str, list[tuple[str, float]]]  # path, [(class, probability), ...] from likely to unlikely


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
    found = []
    for one in predictions(model, paths, top, batch_size, device):
        if one.error:
            raise UnreadableImage(one.path, one.error)
        found.append((one.path, one.best))
    return found


def predictions(
    model,
    paths: Iterable[str | Path],
    top: int | None = None,
    batch_size: int = 32,
    device: str = "auto",
    workers: int = 0,
) -> Iterator[Answer]:
    """The answers of `predict` one by one, for any number of images: no more than a few batches are in memory.

    A file that cannot be decoded is an answer with an `error`. `workers` processes decode, 0: this one. Raises
    UsageError as `predict`.
    """
    check_top(model.task, top)
    model.to(pick_device(device)).eval()
    decoded = _Decoded(evaluation(model.preprocessing))
    loader = DataLoader(decoded, batch_size, sampler=map(str, paths), num_workers=workers, collate_fn=_together)
    return (answer for batch in loader for answer in _answers(model, top, *batch))


class _Decoded(Dataset):
    """path -> (path, the image as the model takes it, or why it cannot be read)"""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __getitem__(self, index: str) -> tuple[str, Tensor | str]:
        try:
            return index, self.transform(open_image(index))
        except UnreadableImage as problem:
            return index, problem.reason


def _together(items: list[tuple[str, Tensor | str]]) -> tuple[list[str], list[str], Tensor | None]:
    """The paths, what is wrong with each ("": nothing), and those images (n, 3, H, W) that can be read."""
    images = [image for _, image in items if isinstance(image, Tensor)]
    errors = [found if isinstance(found, str) else "" for _, found in items]
    return [path for path, _ in items], errors, torch.stack(images) if images else None


def _answers(model, top: int | None, paths: list[str], errors: list[str], images: Tensor | None) -> Iterator[Answer]:
    first = next((path for path, error in zip(paths, errors, strict=True) if not error), "")
    rows = iter(() if images is None else _outputs(model, images, first))
    for path, error in zip(paths, errors, strict=True):
        if error:
            yield Answer(path, [], None, error)
        else:
            row = next(rows)
            yield Answer(path, chosen(row, names_of(model), model.task, top), row)


@torch.inference_mode()
def _outputs(model, images: Tensor, first: str) -> np.ndarray:
    """Probabilities or numbers (n, C); `first` is the path of the first image."""
    values = kind_of(model).read(model(images.to(next(model.parameters()).device)).float()).cpu().numpy()
    check_finite(values, first)
    return values


def names_of(model) -> list[str]:
    """What the outputs are called; numbers from 0 if the model has no names for them."""
    return model.classes or [str(i) for i in range(model.backbone.num_classes)]
