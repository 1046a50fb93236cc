"""Leading blocks that are neither trained nor random give the same tokens in every epoch: run them once per image.

    images --> embed --> block 0 ... block k-1 --> | kept, (n, N, D) | --> block k ... --> head --> losses
               frozen, still                                             trained, or random, or reducing

For a linear probe all blocks are computed once, for an adapter in the last three blocks nine of twelve, for LoRA in all
blocks none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from paretune.core import anatomy
from paretune.core.method import Method, Run
from paretune.core.model import Adapted
from paretune.core.tokens import Tokens
from paretune.data.cache import decoded, is_still
from paretune.train.memory import readable

Precision = Callable[[], AbstractContextManager]


def frozen_blocks(model: Adapted, image: Tensor) -> int:
    """The number of leading blocks that give the same tokens in every epoch, in training and in evaluation.

    image (3, H, W) is run in both modes. A block counts if its output depends on no trained tensor and on no random
    number, if no patch was removed, and if no adapter carries a state. The result is 0 if the embedding is trained.
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
    """A model whose input is the output of its first `blocks` blocks instead of images."""

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

    def __init__(self, dataset: Any, tokens: Tensor, targets: np.ndarray):
        self.task, self.classes = dataset.task, dataset.classes
        self.tokens, self.targets = tokens, targets

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, int | np.ndarray]:
        target = self.targets[index]
        return self.tokens[index], int(target) if self.task == "multiclass" else target.astype(np.float32)


@torch.no_grad()
def keep(prefixed: Prefixed, dataset: Any, precision: Precision, batch_size: int, workers: int = 0) -> KeptTokens:
    """Run the first blocks once over all images; the tokens stay on the CPU."""
    device = next(prefixed.parameters()).device
    was_training = prefixed.training
    prefixed.eval()
    loader = DataLoader(dataset, batch_size, num_workers=workers, generator=torch.Generator())
    kept, targets, done = None, np.array(dataset.targets), 0
    for images, answers in loader:
        with precision():
            x = prefixed.entering(images.to(device)).x.cpu()
        kept = x.new_empty(len(dataset), *x.shape[1:]) if kept is None else kept
        rows = slice(done, done := done + len(x))
        kept[rows], targets[rows] = x, answers.numpy()  # those that came along: a lenient set may give another picture
    prefixed.train(was_training)
    return KeptTokens(dataset, kept, targets)


def token_bytes(prefixed: Prefixed, image: Tensor) -> int:
    """Bytes that one image's tokens take."""
    x = prefixed.entering(image[None]).x
    return x.nelement() * x.element_size()


def remembered(
    model: Adapted, train_set: Any, val_set: Any, precision: Precision, batch_size: int, workers: int
) -> tuple[nn.Module, Any, Any, str]:
    """Cache what is the same in every epoch: decoded images, and the tokens after the leading blocks.

    Returns the module to train (the model, or `Prefixed`), both data sets, and a sentence that says what is cached, ""
    for nothing. Images and tokens may each take a quarter of the free memory.
    """
    device = next(model.parameters()).device
    budget = psutil.virtual_memory().available // 4
    notes = []
    sets = [decoded(one, budget // 2, workers) for one in (train_set, val_set)]
    if pictures := [new for new, old in zip(sets, (train_set, val_set), strict=True) if new is not old]:
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
            return prefixed, *sets, " and ".join(notes)
    return model, *sets, " and ".join(notes)
