"""Evaluate a model on a labelled data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from paretune import formats
from paretune.data.dataset import Images, labelled_by
from paretune.data.opening import available_splits, open_split, open_splits
from paretune.data.samples import Samples, for_torch
from paretune.data.task import Task
from paretune.errors import Diverged, UsageError
from paretune.schema import read
from paretune.training.device import pick_device
from paretune.training.metrics import Metrics
from paretune.training.runfolder import RECORD, SETTINGS, STATE
from paretune.training.tasks import check_task, kind_of

Watch = Callable[[Tensor, Tensor], object]
"""Is called with the outputs and targets of every batch, on the CPU."""


def evaluate(
    model: nn.Module,
    dataset: Samples,
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 0,
    watch: Watch | None = None,
) -> Metrics:
    """`model` in evaluation mode on `dataset`, which gives (image (3, H, W), target) and has `classes`.

    `watch` sees the batches in the order of the data set. The model stays on `device` ("auto", "cpu", "cuda") and in
    evaluation mode afterwards. Raises UsageError if the task of the data differs from the model's, and if outputs are
    not finite.
    """
    check_task(model, dataset)
    where = pick_device(device)
    loader = DataLoader(for_torch(dataset), batch_size, num_workers=workers)
    batches = ((images.to(where), targets.to(where)) for images, targets in loader)
    return score(model.to(where), batches, dataset.classes, watch=watch)


@torch.inference_mode()
def score(
    model: nn.Module,
    batches: Iterable,
    classes: Sequence[str],
    gather: Callable = lambda pair: pair,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    watch: Watch | None = None,
) -> Metrics:
    """Metrics over `batches` of (images, targets) on the model's device, for the model's task.

    `gather` collects (outputs, targets) from all processes, without the duplicates that fill the last batch. Every
    forward pass runs in a context `precision()`, such as autocast. Raises Diverged if the loss is not finite.
    """
    model.eval()
    kind, found, start = kind_of(model), [], perf_counter()
    loss = MeanMetric(sync_on_compute=False)
    for images, targets in batches:
        with precision():
            outputs = model(images)
        outputs, targets = (part.cpu() for part in gather((outputs.float(), targets)))
        losses = kind.losses(outputs, targets)
        if not torch.isfinite(losses).all():  # the metric would leave NaN out of the mean
            raise Diverged("the model's answers are no finite numbers: train it again with a smaller learning rate")
        if watch is not None:
            watch(outputs, targets)
        loss.update(losses)
        found.append((kind.kept(outputs), targets))
    answers, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    scores, seconds = kind.scores(answers, targets, classes), perf_counter() - start
    return Metrics(
        main=kind.main,
        scores=scores.overall,
        loss=loss.compute().item(),
        images=len(targets),
        per_class=scores.per_class,
        confusion=scores.confusion,
        seconds=seconds,
        images_per_second=len(targets) / seconds,
    )


def known_split(
    run: str | Path,
    data: str | Path,
    split: str,
    classes: Sequence[str],
    skip_unreadable: bool = False,
    task: Task | None = None,
) -> Images:
    """One split of `data`, in any form, for a model of this task that was trained in the folder `run`.

    If training split the data itself, they are split again in the same way. Raises UsageError if they have changed
    since then, because training images could be taken for validation images; and whatever `open_split` raises.
    """
    trained_on, available = _trained_on(Path(run), split), available_splits(data, task)
    if trained_on is not None and "val" not in available:
        rule = {key: trained_on["split_rule"][key] for key in ("val_share", "seed")}
        images = getattr(open_splits(data, task=task, **rule, skip_unreadable=skip_unreadable, test=False), split)
        now = images.describe()
        if all(now[name] == trained_on[name] for name in ("fingerprint", "content") if name in trained_on):
            return labelled_by(images, classes)
        if split not in available:
            raise UsageError(
                f"{data} is not the data that were split for training, or has changed since: its '{split}' images are "
                "not known any more; use split 'all' for all of its images, seen in training or not"
            )
    return open_split(data, split, tuple(classes), task=task, skip_unreadable=skip_unreadable)


def _trained_on(run: Path, split: str) -> dict | None:
    """The record's description of a split that training made itself; None where it did not."""
    known = {run / RECORD: formats.RECORD, run / STATE / SETTINGS: formats.SETTINGS}  # finished, or interrupted
    path = next((path for path in known if path.exists()), None)
    described = {} if path is None else read(path, known[path], "train again")["data"].get(split, {})
    return described if "val_share" in (described.get("split_rule") or {}) else None
