"""How good is a model on a labelled data set?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassStatScores

from paretune.data.folder import ImageFolder, available_splits, read_folder, read_split
from paretune.errors import UsageError
from paretune.train.device import pick_device
from paretune.train.runfolder import RECORD, read_json


@dataclass(frozen=True)
class Metrics:
    """Quality and speed on one data set.

    Attributes:
        accuracy: share of images whose most likely class is the right one (top-1), 0 to 1.
        loss: mean cross-entropy in nats.
        images: how many images were seen.
        per_class: {class: {"images": count, "accuracy": share, or None for a class without images}}.
        seconds: wall time of the whole pass, reading and decoding included.
        images_per_second: images / seconds.
    """

    accuracy: float
    loss: float
    images: int
    per_class: dict[str, dict]
    seconds: float
    images_per_second: float

    def to_dict(self) -> dict:
        """Everything as plain values, for JSON."""
        return asdict(self)


def evaluate(model: nn.Module, dataset, batch_size: int = 64, device: str = "auto", workers: int = 0) -> Metrics:
    """`model` in evaluation mode on `dataset`, which gives (image (3, H, W), label) and has `classes`.

    The model stays on `device` ("auto", "cpu", "cuda") and in evaluation mode afterwards.
    """
    where = pick_device(device)
    loader = DataLoader(dataset, batch_size, num_workers=workers)
    batches = ((images.to(where), labels.to(where)) for images, labels in loader)
    return score(model.to(where), batches, dataset.classes)


@torch.inference_mode()
def score(
    model: nn.Module,
    batches: Iterable,
    classes: Sequence[str],
    gather: Callable = lambda pair: pair,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> Metrics:
    """Metrics over `batches` of (images, labels) on the model's device.

    `gather` collects (logits, labels) of all processes, without the doubles that fill up the last batch; every forward
    runs inside of a `precision()`, such as autocast.
    """
    model.eval()
    hits = MulticlassStatScores(len(classes), average=None, sync_on_compute=False)
    loss, start = MeanMetric(sync_on_compute=False), perf_counter()
    for images, labels in batches:
        with precision():
            logits = model(images)
        logits, labels = (part.cpu() for part in gather((logits.float(), labels)))
        hits.update(logits, labels)
        loss.update(cross_entropy(logits, labels, reduction="none"))
    return _metrics(hits.compute(), loss.compute().item(), classes, perf_counter() - start)


def _metrics(counts: torch.Tensor, loss: float, classes: Sequence[str], seconds: float) -> Metrics:
    """`counts` is (classes, 5): true and false positives, true and false negatives, support."""
    right, support = counts[:, 0].tolist(), counts[:, 4].tolist()
    total = sum(support)
    per_class = {
        name: {"images": n, "accuracy": hit / n if n else None}
        for name, hit, n in zip(classes, right, support, strict=True)
    }
    return Metrics(sum(right) / total, loss, total, per_class, seconds, total / seconds)


def known_split(
    run: str | Path, data: str | Path, split: str, classes: Sequence[str], skip_unreadable: bool = False
) -> ImageFolder:
    """One split of the folder `data` for a model that was trained into the folder `run`.

    A folder that training split itself is split again just as then. Raises UsageError if it has changed since, because
    images to train on could pass for validation images; and whatever `read_split` raises.
    """
    trained_on = _trained_on(Path(run), split)
    if trained_on is None or split in available_splits(data):
        return read_split(data, split, classes, skip_unreadable=skip_unreadable)
    parts = read_folder(data, **trained_on["split_rule"], skip_unreadable=skip_unreadable)
    images = next(part for part in parts if part.split == split)
    if images.fingerprint() != trained_on["fingerprint"]:
        raise UsageError(
            f"{data} is not the folder that was split for training, or has changed since: its '{split}' images are not "
            "known any more; use split 'all' for all of its images, seen in training or not"
        )
    return images


def _trained_on(run: Path, split: str) -> dict | None:
    """The record's description of a split that training made itself; None where it did not."""
    path = run / RECORD
    described = read_json(path)["data"].get(split, {}) if path.exists() else {}
    return described if described.get("split_rule") else None
