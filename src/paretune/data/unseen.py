"""A drawn task that pretraining has not seen: count the objects in a cluttered picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from paretune.data.digits import Split
from paretune.data.drawing import SIZE, background, colour_pairs, finish, ink_contours, uniform

MOST = 8
"""Pictures show 1 to MOST objects; the label is the count minus one."""

CELLS = 4


def counting(train: int = 1000, test: int = 797, seed: int = 0) -> Split:
    """Draw pictures of 1 to 8 small objects that never overlap, in random shape, size, place and colour.

    Objects vary in size from picture to picture, so that the amount of ink alone does not give the count away.
    Returns the same form as digits(): uint8 images (N, 32, 32, 3) and int64 labels in [0, 8), first for training and
    then for test, counts in equal proportion. The same seed gives the same data.
    """
    rng = torch.Generator().manual_seed(seed)
    return (*_draw(rng, train), *_draw(rng, test))


def _draw(rng: torch.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `count` labelled pictures."""
    labels = (torch.arange(count) % MOST)[torch.randperm(count, generator=rng)]
    ink = _objects(rng, labels + 1).unsqueeze(1)
    back, fore = colour_pairs(rng, count, 0.35, 0.9)
    image = background(rng, back, fore, clutter=0.6)
    image = image + ink * (fore.view(count, 3, 1, 1) - image)
    return finish(rng, image, noise=0.05).numpy(), labels.numpy()


def _objects(rng: torch.Generator, number: torch.Tensor) -> torch.Tensor:
    """Fill `number` (N,) objects per picture, each in its own cell of a 4 x 4 grid; returns (N, SIZE, SIZE) ink."""
    count, side = len(number), SIZE / CELLS
    cell = torch.rand(count, CELLS**2, generator=rng).argsort(dim=1)[:, :MOST]
    corner = torch.stack([cell % CELLS, torch.div(cell, CELLS, rounding_mode="floor")], dim=-1) * side
    radius = uniform(rng, 1.8, 3.6, count, 1).expand(count, MOST)
    room = (side / 2 - radius - 0.4).clamp_min(0).unsqueeze(-1)
    centre = corner + side / 2 + uniform(rng, -1, 1, count, MOST, 2) * room
    # One shape per picture: a third-, fourth- or fifth-order wave on a circle, turned anew for each object.
    order = torch.randint(3, 6, (count, 1), generator=rng).expand(count, MOST)
    turn = uniform(rng, 0, 2 * math.pi, count, MOST)
    wave = torch.stack([torch.cos(turn), torch.sin(turn)], dim=-1) * uniform(rng, 0, 0.25, count, 1, 1)
    harmonics = torch.zeros(count, MOST, 5, 2).scatter(
        2, (order - 1).view(count, MOST, 1, 1).expand(-1, -1, 1, 2), wave.unsqueeze(2)
    )
    to_shape = torch.eye(2).view(1, 1, 2, 2) / radius.view(count, MOST, 1, 1)
    sharpness = uniform(rng, 6, 14, count, 1).expand(count, MOST)
    ink = ink_contours(harmonics.flatten(0, 1), to_shape.flatten(0, 1), centre.flatten(0, 1), sharpness.flatten())
    shown = torch.arange(MOST) < number.unsqueeze(1)
    return (ink.view(count, MOST, SIZE, SIZE) * shown.view(count, MOST, 1, 1)).amax(dim=1)
