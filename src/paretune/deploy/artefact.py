"""Run an exported model on images. This file and all that it imports work without torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from paretune.data.images import UnreadableImage, open_image
from paretune.data.preprocess import prepared
from paretune.deploy.description import Description
from paretune.deploy.runtimes import artefact_file, in_batches, open_runtime
from paretune.errors import UsageError
from paretune.training.answers import Answer, check_finite, check_top, chosen

Picture = str | Path | np.ndarray | Image.Image


class Artefact:
    """An exported model: `Artefact("model.onnx").predict(["photo.jpg"])`.

    path: a file that `paretune export` wrote (.onnx, .xml, .pt2), or the folder with one. threads: of the runtime; its
    own choice by default. Raises UsageError for a file that is missing, damaged or not paretune's, and warns if the
    artefact failed its parity check.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        self.path, self.runtime = Path(path), open_runtime(path, threads)
        self.description: Description = self.runtime.description
        if self.description.verdict == "failed":
            warnings.warn(f"{path} failed its parity check when it was exported: see its export.json", stacklevel=2)

    @property
    def task(self) -> str:
        """ "multiclass", "multilabel" or "regression"."""
        return self.description.task

    @property
    def classes(self) -> list[str]:
        """The names of the outputs, in order."""
        return list(self.description.names)

    @property
    def files(self) -> list[Path]:
        """The files that make the artefact what it is."""
        file = artefact_file(self.path)
        assert file is not None, "it was opened"
        return sorted(one for one in file.parent.iterdir() if one.stem == file.stem)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Prepared images (n, 3, H, W) float32 -> outputs (n, C): logits, or the numbers of a regression.

        Raises UsageError for images of another size than the model's.
        """
        if images.shape[1:] != (wanted := tuple(self.description.preprocessing["input_size"])):
            raise UsageError(
                f"this artefact takes images of {wanted}, not {images.shape[1:]}: export the model again at that size"
            )
        if len(images):
            return in_batches(self.runtime, images)[0]
        return np.zeros((0, len(self.description.names)), np.float32)

    def prepare(self, picture: Picture) -> np.ndarray:
        """A file, an RGB picture or an array (height, width, 3) of 0 to 255 -> (3, H, W) float32.

        Raises UnreadableImage for a file that cannot be decoded, UsageError for any other array.
        """
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise UsageError(
                    f"an array of type {picture.dtype} and shape {picture.shape} is no picture: give (height, width, "
                    "3) of uint8, red first"
                )
            picture = Image.fromarray(picture)
        image = picture.convert("RGB") if isinstance(picture, Image.Image) else open_image(picture)
        return prepared(image, self.description.preprocessing)

    def read(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs (n, C) -> probabilities or, for a regression, numbers."""
        if self.task == "regression":
            return outputs
        logits = outputs / np.float32(self.description.temperature)
        if self.task == "multilabel":
            return np.where(logits >= 0, 1 / (1 + np.exp(-np.abs(logits))), 1 - 1 / (1 + np.exp(-np.abs(logits))))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def predict(
        self, pictures: Sequence[Picture], top: int | None = None, batch_size: int = 32
    ) -> list[list[tuple[str, float]]]:
        """[(name, value), ...] of every picture: of classes or labels the most likely, of a regression all.

        As `paretune.predict`; a picture may also be an array (height, width, 3) of uint8. Raises UnreadableImage for a
        file that cannot be decoded.
        """
        found = []
        for one in self.predictions(pictures, top, batch_size):
            if one.error:
                raise UnreadableImage(one.path, one.error)
            found.append(one.best)
        return found

    def predictions(
        self, pictures: Iterable[Picture], top: int | None = None, batch_size: int = 32
    ) -> Iterator[Answer]:
        """The answers one by one, for any number of pictures; a file that cannot be decoded is an answer with an
        `error`. Raises UsageError if `top` is given for a regression, or if outputs are not finite."""
        check_top(self.task, top)
        return self._answers(iter(pictures), top, batch_size)

    def _answers(self, pictures: Iterator[Picture], top: int | None, batch_size: int) -> Iterator[Answer]:
        while batch := list(islice(pictures, batch_size)):
            names = [str(one) if isinstance(one, str | Path) else "array" for one in batch]
            images, errors = [], []
            for one in batch:
                try:
                    images.append(self.prepare(one))
                    errors.append("")
                except UnreadableImage as problem:
                    errors.append(problem.reason)
            first = next((name for name, error in zip(names, errors, strict=True) if not error), "")
            rows = iter(self.read(self.run(np.stack(images))) if images else ())
            for name, error in zip(names, errors, strict=True):
                if error:
                    yield Answer(name, [], None, error)
                    continue
                row = next(rows)
                check_finite(row, first)
                yield Answer(name, chosen(row, self.classes, self.task, top), row)
