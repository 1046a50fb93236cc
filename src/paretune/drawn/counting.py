"""The task "counting": how many objects are in the picture, among clutter?

A picture shows one to eight small objects. They never overlap, have the same random shape, and have random positions
and directions. Their size varies from picture to picture, so the amount of ink alone does not tell the number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.digits import Split
from paretune.drawn.drawing import SIZE, background, colour_pairs, finish, ink_contours, uniform
from paretune.drawn.task import evenly, painted

MOST = 8
"""A picture shows 1 to MOST objects; the label is the number of objects minus one."""

CELLS = 4


def counting(train: int = 1000, test: int = 797, seed: int = 0) -> Split:
    """Training and test set from one generator, in the form of `digits()`. The embedded backbone was tested on them.

    Returns uint8 images (N, 32, 32, 3) and int64 labels in [0, 8) for training, then the same for the test.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = evenly(rng, train, MOST)
    images = paint(rng, labels).numpy()
    test_labels = evenly(rng, test, MOST)
    return images, labels.numpy(), paint(rng, test_labels).numpy(), test_labels.numpy()


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw label + 1 objects per picture."""
    count = len(labels)
    ink = _objects(rng, labels + 1).unsqueeze(1)
    back, fore = colour_pairs(rng, count, 0.35, 0.9)
    image = background(rng, back, fore, clutter=0.6)
    image = image + ink * (fore.view(count, 3, 1, 1) - image)
    return finish(rng, image, noise=0.05)


def _objects(rng: torch.Generator, number: Tensor) -> Tensor:
    """Draw `number` (N,) objects per picture, each in its own cell of a 4 x 4 grid. Returns (N, SIZE, SIZE) ink."""
    count, side = len(number), SIZE / CELLS
    cell = torch.rand(count, CELLS**2, generator=rng).argsort(dim=1)[:, :MOST]
    corner = torch.stack([cell % CELLS, torch.div(cell, CELLS, rounding_mode="floor")], dim=-1) * side
    radius = uniform(rng, 1.8, 3.6, count, 1).expand(count, MOST)
    room = (side / 2 - radius - 0.4).clamp_min(0).unsqueeze(-1)
    centre = corner + side / 2 + uniform(rng, -1, 1, count, MOST, 2) * room
    # One shape per picture: a circle with a wave of order three, four or five. Each object has its own direction.
    order = torch.randint(3, 6, (count, 1), generator=rng).expand(count, MOST)
    turn = uniform(rng, 0, 2 * math.pi, count, MOST)
    wave = torch.stack([torch.cos(turn), torch.sin(turn)], dim=-1) * uniform(rng, 0, 0.25, count, 1, 1)
    harmonics = torch.zeros(count, MOST, 5, 2).scatter(
        2, (order - 1).view(count, MOST, 1, 1).expand(-1, -1, 1, 2), wave.unsqueeze(2)
    )
    to_shape = torch.eye(2) / radius.view(count, MOST, 1, 1)
    sharpness = uniform(rng, 6, 14, count, 1).expand(count, MOST)
    shown = torch.arange(MOST) < number.unsqueeze(1)
    ink = torch.zeros(count, MOST, SIZE, SIZE)
    ink[shown] = ink_contours(harmonics[shown], to_shape[shown], centre[shown], sharpness[shown])
    return ink.amax(dim=1)


COUNTING = painted(
    "counting", "structured", "how many objects are in the picture", [str(n + 1) for n in range(MOST)], paint
)
