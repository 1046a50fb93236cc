"""Which classes does a model see in an image file?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from paretune.data.images import open_image
from paretune.data.transforms import evaluation
from paretune.train.device import pick_device

Prediction = tuple[str, list[tuple[str, float]]]  # path, [(class, probability), ...] from likely to unlikely


@torch.inference_mode()
def predict(
    model, paths: Sequence[str | Path], top: int = 5, batch_size: int = 32, device: str = "auto"
) -> list[Prediction]:
    """The `top` most likely classes of each image, in the order of `paths`.

    `model` comes from `paretune.load` (it knows its classes and its preprocessing); a model without class names
    answers with class numbers. Raises UnreadableImage for a file that cannot be decoded.
    """
    where, transform = pick_device(device), evaluation(model.preprocessing)
    model.to(where).eval()
    found: list[Prediction] = []
    for some in _chunks(paths, batch_size):
        images = torch.stack([transform(open_image(path)) for path in some]).to(where)
        probabilities = model(images).float().softmax(-1)
        found += [(str(path), _best(row, model.classes, top)) for path, row in zip(some, probabilities, strict=True)]
    return found


def _chunks(paths: Sequence, size: int) -> Iterator[Sequence]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def _best(row: torch.Tensor, classes: Sequence[str] | None, top: int) -> list[tuple[str, float]]:
    values, indices = row.topk(min(top, len(row)))
    names = [classes[i] if classes else str(i) for i in indices.tolist()]
    return list(zip(names, values.tolist(), strict=True))
