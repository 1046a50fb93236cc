"""Leading blocks that are neither trained nor random give the same tokens in every epoch: run them once per image.

    images --> embed --> block 0 ... block k-1 --> | kept, (n, N, D) | --> block k ... --> head --> losses
               frozen, still, reducing too                              trained, or random

A linear probe keeps all of its blocks, an adapter in the last four blocks eight of twelve, LoRA everywhere none. Token
reduction without trained weights (EViT, ToMe) belongs to what is kept, so fewer tokens are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from paretune.checkpoint import fingerprint
from paretune.core import anatomy
from paretune.core.method import Method, Run
from paretune.core.model import Adapted
from paretune.core.tokens import Tokens
from paretune.data.arrays import ImageArrays
from paretune.data.cache import decoded, is_still
from paretune.data.dataset import Images
from paretune.data.samples import Samples, for_torch
from paretune.machine import environment
from paretune.measure.counting import dry_run
from paretune.training.kept import Frame, KeptTokens, filled, forget, shapes
from paretune.training.memory import readable
from paretune.training.record import describe

KEPT = "computed once and kept: "
RANDOM = "the training images are random; with augment none, and no mixup and cutmix, they would be kept"
Precision = Callable[[], AbstractContextManager]


def frozen_blocks(model: Adapted, image: Tensor) -> int:
    """The number of leading blocks that give the same tokens in every epoch, in training and in evaluation.

    image (3, H, W) is tried out in both modes. A block counts if no trained tensor and no random number has a part in
    what leaves it, and if no adapter carries a state. Patches may leave, unless the reducer changes from epoch to epoch
    or a teacher wants to see all of them. 0 also where the embedding trains.
    """
    methods = list(model.methods())
    if any(method.changes for method in methods if method is not model.reducer):
        return 0
    reducing = not any(method.needs_teacher for method in methods) and not (model.reducer and model.reducer.changes)
    was_training = model.training
    try:
        return min(_untouched(model.train(mode), image[None], reducing) for mode in (True, False))
    finally:
        model.train(was_training)


def _untouched(model: Adapted, images: Tensor, reducing: bool) -> int:
    passed: list[Tokens] = []
    if not is_still(lambda: passed.append(anatomy.embed(model.backbone, images))) or not _plain(passed[0], reducing):
        return 0
    for i in range(len(model.backbone.blocks)):
        step = lambda i=i: passed.append(model.step(i, passed[-1], model.reducer))  # noqa: E731
        if not is_still(step) or not _plain(passed[-1], reducing):
            return i
    return len(model.backbone.blocks)


def _plain(tokens: Tokens, reducing: bool) -> bool:
    return not (tokens.x.requires_grad or tokens.carried or tokens.held or (tokens.trail and not reducing))


class Prefixed(nn.Module):
    """A model that takes, in place of images, what its first `blocks` blocks made of them.

    image (3, H, W): one that shows the shapes
    """

    def __init__(self, model: Adapted, blocks: int, image: Tensor):
        super().__init__()
        self.model, self.blocks, self.task = model, blocks, model.task
        self.frame = Frame(self._tokens(torch.stack([image, image])))

    def methods(self) -> Iterator[Method]:
        """The model's."""
        return self.model.methods()

    @torch.no_grad()
    def _tokens(self, images: Tensor) -> Tokens:
        tokens = anatomy.embed(self.model.backbone, images)
        for i in range(self.blocks):
            tokens = self.model.step(i, tokens, self.model.reducer)
        return tokens

    def entering(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> the parts of the tokens that enter the first block that is run every time."""
        return self.frame.parts(self._tokens(images))

    def run(self, parts: list[Tensor], reduced: bool = True) -> Run:
        """Parts (B, ...) of the tokens -> the model's run."""
        return self.model.finish(self.blocks, self.frame.tokens(parts), reduced)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Parts (B, ...) of the tokens -> logits (B, classes)."""
        return self.run(parts).logits


Follow = Callable[[DataLoader, str], Iterable]  # batches and what is done with them -> the same batches, with progress


@dataclass(frozen=True)
class Passes:
    """How the first blocks are run over all images. mixed: training images are mixed with each other afterwards."""

    precision: Precision
    batch_size: int
    workers: int = 0
    follow: Follow = lambda batches, title: batches
    mixed: bool = False


def keep(prefixed: Prefixed, dataset: Samples, passes: Passes, training: bool) -> KeptTokens | None:
    """The tokens of all images after the first blocks: found on the disk, or computed once; None if there is no room.

    training: as the model runs in training, where a reducer may settle ties otherwise
    """
    was_training = prefixed.training
    prefixed.train(training)
    try:
        with passes.precision():
            one = [part.cpu() for part in prefixed.entering(_first(prefixed, dataset))]
        key = _key(prefixed, dataset, one)
        kept = filled(dataset, one, key, lambda stores, targets: _fill(prefixed, dataset, passes, stores, targets))
        if key and kept and _far(one[0], kept.stores[0][:1]):  # a damaged file
            forget(key)
            kept = filled(dataset, one, key, lambda stores, targets: _fill(prefixed, dataset, passes, stores, targets))
        return kept
    finally:
        prefixed.train(was_training)


def _far(one: Tensor, other: Tensor) -> bool:
    """Whether features differ by more than the rounding of another batch size."""
    return not (one.float() - other.float()).norm() <= 0.05 * one.float().norm()


def _share(model: Adapted, blocks: int, size: tuple[int, int]) -> float:
    """The share of the multiply-accumulates of a forward that the first blocks and the embedding have."""
    macs = dry_run(model, size, training=model.training).macs
    first = sum(
        n for place, n in macs.items() if place.part == "embed" or (place.block is not None and place.block < blocks)
    )
    return first / macs.total()


def _first(prefixed: Prefixed, dataset: Samples) -> Tensor:
    return dataset[0][0][None].to(next(prefixed.parameters()).device)


def _fill(prefixed: Prefixed, dataset: Samples, passes: Passes, stores: list[Tensor], targets: np.ndarray) -> None:
    device, done = next(prefixed.parameters()).device, 0
    loader = DataLoader(for_torch(dataset), passes.batch_size, num_workers=passes.workers, generator=torch.Generator())
    title = f"computing blocks 0 to {prefixed.blocks - 1} once"
    for images, answers in passes.follow(loader, title):
        with passes.precision():
            parts = prefixed.entering(images.to(device))
        rows = slice(done, done := done + len(images))
        for store, part in zip(stores, parts, strict=True):
            store[rows] = part.cpu()
        targets[rows] = answers.numpy()  # those that came along: a lenient set may give another picture


def _key(prefixed: Prefixed, dataset: Samples, one: list[Tensor]) -> str | None:
    """A hash of all that decides the tokens of a data set; None for data that cannot say what they hold."""
    known = describe(dataset)
    content, transform = known.get("content", known.get("fingerprint")), repr(getattr(dataset, "transform", None))
    if content is None or " at 0x" in transform:
        return None
    model, device = prefixed.model, next(prefixed.parameters()).device
    later = tuple(f"backbone.blocks.{i}." for i in range(prefixed.blocks, len(model.backbone.blocks)))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: t for name, t in model.state_dict().items() if name not in trained and not name.startswith(later)}
    names = [dataset.name(i) for i in range(len(dataset))] if isinstance(dataset, Images) else []
    facts = {
        "versions": [environment(device)[package] for package in ("paretune", "torch", "timm")],
        "weights": [fingerprint(frozen), sorted(frozen)],
        "blocks": [str(block) for block in model.backbone.blocks[: prefixed.blocks]],
        "model": [model.spec.backbone.name, model.spec.backbone.options, repr(model.spec.reducer), prefixed.blocks],
        "mode": [prefixed.training, device.type, shapes(one)],
        "data": [content, names, transform],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode(errors="surrogateescape")).hexdigest()


def remembered(
    model: Adapted, train_set: Samples, val_set: Samples, passes: Passes
) -> tuple[Adapted | Prefixed, Samples, Samples, str]:
    """The model and its data sets such that nothing is computed twice that is the same in every epoch.

    Returns what to train (the model, or `Prefixed`), both data sets, and lines on what is kept, "" for nothing.
    Decoded pictures may take a quarter of the memory that is free.
    """
    image = train_set[0][0].to(next(model.parameters()).device)
    still = is_still(lambda: (train_set[0], val_set[0])) and not passes.mixed
    blocks = frozen_blocks(model, image)
    if still and blocks:
        prefixed = Prefixed(model, blocks, image)
        sets = [keep(prefixed, one, passes, i == 0) for i, one in enumerate((train_set, val_set))]
        if len(kept := [one for one in sets if one is not None]) == 2:
            size = readable(sum(one.nbytes for one in kept))
            share = _share(model, blocks, (image.shape[-2], image.shape[-1]))
            note = f"blocks 0 to {blocks - 1}, {share:.0%} of the forward's arithmetic ({size} of tokens)"
            return prefixed, kept[0], kept[1], f"{KEPT}{note}"
    budget = psutil.virtual_memory().available // 4
    sets = [decoded(one, budget // 2, passes.workers) for one in (train_set, val_set)]
    pairs = zip(sets, (train_set, val_set), strict=True)
    pictures = [new for new, old in pairs if isinstance(new, ImageArrays) and new is not old]
    size = readable(sum(p.images.nbytes for p in pictures))
    kept = [f"{KEPT}{sum(map(len, pictures)):,} decoded pictures ({size})"] if pictures else []
    lost = [f"blocks 0 to {blocks - 1} run again in every epoch: {RANDOM}"] if blocks and not still else []
    return model, sets[0], sets[1], "\n".join(kept + lost)
