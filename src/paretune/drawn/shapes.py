"""The task "shapes": which of sixteen outlines is in the picture?

The outlines are polygons, stars, gears and signs. They have any position, size and tilt, are slightly stretched, and
are filled or drawn as a line, in full clutter and over two blobs. The embedded backbone was pretrained on round
contours like the blobs and on strokes, but on none of the outlines.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.drawing import SIZE, background, colour_pairs, finish, ink_contours, uniform
from paretune.drawn.outline import filled, inside, lined, over, placed
from paretune.drawn.task import painted


def _polar(radii: list[float], start: float = 0.0) -> list[tuple[float, float]]:
    """Corners at equal angles around the centre."""
    turns = [start + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, turns, strict=True)]


def _curve(x, y, steps: int = 28) -> list[tuple[float, float]]:
    """Corners along a closed curve (x(t), y(t)) for t from 0 to 2 pi."""
    turns = [2 * math.pi * i / steps for i in range(steps)]
    return [(x(t), y(t)) for t in turns]


def _crescent() -> list[tuple[float, float]]:
    """An arc of a circle, and back along a flatter arc."""
    there = [math.radians(45 + 270 * i / 16) for i in range(17)]
    back = [math.radians(300 - 240 * i / 12) for i in range(1, 12)]
    outer = [(math.cos(t), math.sin(t)) for t in there]
    return outer + [(0.45 + 0.72 * math.cos(t), 0.72 * math.sin(t)) for t in back]


HEART = _curve(
    lambda t: math.sin(t) ** 3,
    lambda t: -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
)

# Corners in units of the radius, y down.
OUTLINES = {
    "triangle": _polar([1] * 3),
    "square": _polar([1] * 4),
    "pentagon": _polar([1] * 5),
    "hexagon": _polar([1] * 6),
    "star of 4": _polar([1, 0.4] * 4),
    "star of 5": _polar([1, 0.42] * 5),
    "star of 6": _polar([1, 0.5] * 6),
    "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
              (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
    "gear of 6": _polar([1, 1, 0.65, 0.65] * 6),
    "gear of 9": _polar([1, 1, 0.7, 0.7] * 9),
    "crescent": _crescent(),
    "heart": HEART,
    "arrow": [(0, -1), (0.75, -0.1), (0.28, -0.1), (0.28, 1), (-0.28, 1), (-0.28, -0.1), (-0.75, -0.1)],
    "drop": _curve(lambda t: 0.65 * math.sin(t) * (1 - math.cos(t)), lambda t: math.cos(t)),
    "half disc": [(math.cos(math.pi * i / 14), 0.5 - math.sin(math.pi * i / 14)) for i in range(15)],
    "angle": [(-0.8, -1), (-0.2, -1), (-0.2, 0.4), (0.8, 0.4), (0.8, 1), (-0.8, 1)],
}  # fmt: skip


BLOBS = 2


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw one shape per picture."""
    count = len(labels)
    size = uniform(rng, 6, 10, count)
    radius = size.unsqueeze(1) * torch.exp(uniform(rng, -0.18, 0.18, count, 2))
    centre = SIZE / 2 + uniform(rng, -1, 1, count, 2) * (SIZE / 2 - size).unsqueeze(1)
    tilt = uniform(rng, 0, 2 * math.pi, count)
    distance = torch.empty(count, SIZE, SIZE)
    for label, corners in enumerate(OUTLINES.values()):
        rows = labels == label
        distance[rows] = inside(placed(torch.tensor(corners), radius[rows], tilt[rows], centre[rows]))
    outlined = (torch.rand(count, generator=rng) < 0.4).view(-1, 1, 1)
    ink = torch.where(outlined, lined(distance, uniform(rng, 1.0, 1.8, count)), filled(distance))
    back, fore = colour_pairs(rng, count, 0.25, 0.8)
    image = background(rng, back, fore, clutter=1.0)
    for _ in range(BLOBS):
        colour = torch.lerp(back, torch.rand(count, 3, generator=rng), uniform(rng, 0.4, 1, count, 1))
        image = over(image, colour, _blob(rng, count))
    return finish(rng, over(image, fore, ink), noise=0.08)


def _blob(rng: torch.Generator, count: int) -> Tensor:
    """Ink (n, S, S) of a round contour with waves at any position, like the contours of the pretraining."""
    harmonics = torch.randn(count, 3, 2, generator=rng) * torch.tensor([0.0, 0.13, 0.1]).view(3, 1)
    radius = uniform(rng, 4, 8, count, 1, 1)
    return ink_contours(harmonics, torch.eye(2) / radius, uniform(rng, 2, 30, count, 2), uniform(rng, 6, 14, count))


SHAPES = painted("shapes", "natural", "which of sixteen outlines is in the picture", tuple(OUTLINES), paint)
