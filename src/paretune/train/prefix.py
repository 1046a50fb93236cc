"""Blocks that nothing trained and nothing random touches say the same in every epoch: they run once per image.

    images --> embed --> block 0 ... block k-1 --> | kept, (n, N, D) | --> block k ... --> head --> losses
               frozen, still                                             trained, or random, or reducing

A linear probe keeps all of its blocks, an adapter in the last three blocks nine of twelve, LoRA everywhere none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from paretune.core import anatomy
from paretune.core.method import Method, Run
from paretune.core.model import Adapted
from paretune.core.tokens import Tokens
from paretune.data.arrays import ImageArrays
from paretune.data.cache import decoded, is_still
from paretune.data.samples import Samples, for_torch
from paretune.train.memory import readable
from paretune.train.tasks import targets_of, task_of

Precision = Callable[[], AbstractContextManager]


def frozen_blocks(model: Adapted, image: Tensor) -> int:
    """How many blocks, from the first on, give the same tokens in every epoch, in training and in evaluation.

    image (3, H, W) is tried out in both modes. A block counts if no trained tensor and no random number has a part in
    what leaves it, if no patch has left, and if no adapter carries a state. 0 also where the embedding trains.
    """
    was_training = model.training
    try:
        return min(_untouched(model.train(mode), image[None]) for mode in (True, False))
    finally:
        model.train(was_training)


def _untouched(model: Adapted, images: Tensor) -> int:
    passed: list[Tokens] = []
    if not is_still(lambda: passed.append(anatomy.embed(model.backbone, images))) or not _plain(passed[0]):
        return 0
    for i in range(len(model.backbone.blocks)):
        step = lambda i=i: passed.append(model.step(i, passed[-1], model.reducer))  # noqa: E731
        if not is_still(step) or not _plain(passed[-1]):
            return i
    return len(model.backbone.blocks)


def _plain(tokens: Tokens) -> bool:
    return not (tokens.x.requires_grad or tokens.carried or tokens.held or tokens.trail)


class Prefixed(nn.Module):
    """A model that takes, in place of images, what its first `blocks` blocks made of them."""

    def __init__(self, model: Adapted, blocks: int, image: Tensor):
        super().__init__()
        self.model, self.blocks, self.task = model, blocks, model.task
        self.frame = replace(self.entering(image[None]), x=image.new_empty(0))

    def methods(self) -> Iterator[Method]:
        """The model's."""
        return self.model.methods()

    @torch.no_grad()
    def entering(self, images: Tensor) -> Tokens:
        """Images (B, 3, H, W) -> the tokens that enter the first block that is run every time."""
        tokens = anatomy.embed(self.model.backbone, images)
        for i in range(self.blocks):
            tokens = self.model.step(i, tokens, self.model.reducer)
        return tokens

    def run(self, x: Tensor, reduced: bool = True) -> Run:
        """Tokens (B, N, D) -> the model's run."""
        return self.model.finish(self.blocks, self.frame.with_x(x), reduced)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> logits (B, classes)."""
        return self.run(x).logits


class KeptTokens(Dataset):
    """A data set's images as the tokens (N, D) that enter block k, with its targets and classes."""

    def __init__(self, dataset: Samples, tokens: Tensor, targets: np.ndarray):
        self.task, self.classes = task_of(dataset), dataset.classes
        self.tokens, self.targets = tokens, targets

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, int | np.ndarray]:
        target = self.targets[index]
        return self.tokens[index], int(target) if self.task == "multiclass" else target.astype(np.float32)


@torch.no_grad()
def keep(prefixed: Prefixed, dataset: Samples, precision: Precision, batch_size: int, workers: int = 0) -> KeptTokens:
    """Run the first blocks once over all images; the tokens stay on the CPU."""
    device = next(prefixed.parameters()).device
    was_training = prefixed.training
    prefixed.eval()
    loader = DataLoader(for_torch(dataset), batch_size, num_workers=workers, generator=torch.Generator())
    kept, targets, done = None, np.array(targets_of(dataset)), 0
    for images, answers in loader:
        with precision():
            x = prefixed.entering(images.to(device)).x.cpu()
        kept = x.new_empty(len(dataset), *x.shape[1:]) if kept is None else kept
        rows = slice(done, done := done + len(x))
        kept[rows], targets[rows] = x, answers.numpy()  # those that came along: a lenient set may give another picture
    prefixed.train(was_training)
    assert kept is not None, "there are images"
    return KeptTokens(dataset, kept, targets)


def token_bytes(prefixed: Prefixed, image: Tensor) -> int:
    """Bytes that one image's tokens take."""
    x = prefixed.entering(image[None]).x
    return x.nelement() * x.element_size()


def remembered(
    model: Adapted, train_set: Samples, val_set: Samples, precision: Precision, batch_size: int, workers: int
) -> tuple[Adapted | Prefixed, Samples, Samples, str]:
    """The model and its data sets such that nothing is computed twice that is the same in every epoch.

    Returns what to train (the model, or `Prefixed`), both data sets, and a sentence on what is kept, "" for nothing.
    Pictures and tokens may each take a quarter of the memory that is free.
    """
    device = next(model.parameters()).device
    budget = psutil.virtual_memory().available // 4
    notes = []
    sets = [decoded(one, budget // 2, workers) for one in (train_set, val_set)]
    pairs = zip(sets, (train_set, val_set), strict=True)
    if pictures := [new for new, old in pairs if isinstance(new, ImageArrays) and new is not old]:
        notes.append(
            f"{sum(map(len, pictures)):,} decoded pictures ({readable(sum(p.images.nbytes for p in pictures))})"
        )
    image = sets[0][0][0].to(device)
    still = is_still(lambda: (sets[0][0], sets[1][0]))
    if still and (blocks := frozen_blocks(model, image)):
        prefixed = Prefixed(model, blocks, image)
        size = token_bytes(prefixed, image) * (len(train_set) + len(val_set))
        if size <= budget:
            sets = [keep(prefixed, one, precision, batch_size, workers) for one in sets]
            notes.append(f"the tokens after block {blocks - 1} ({readable(size)})")
            return prefixed, sets[0], sets[1], " and ".join(notes)
    return model, sets[0], sets[1], " and ".join(notes)
