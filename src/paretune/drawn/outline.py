"""Filled and outlined polygons of any form, anti-aliased by their distance, and coordinates for finer grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.drawing import SIZE


def pixels(fine: int = 1) -> tuple[Tensor, Tensor]:
    """x and y of the centres of `fine` x `fine` sub-pixels per pixel: (1, 1, SIZE * fine) and (1, SIZE * fine, 1)."""
    line = (torch.arange(SIZE * fine) + 0.5) / fine
    return line.view(1, 1, -1), line.view(1, -1, 1)


def averaged(image: Tensor, fine: int) -> Tensor:
    """Whole pixels of an image (..., SIZE * fine, SIZE * fine) drawn on sub-pixels."""
    return torch.nn.functional.avg_pool2d(image, fine)


def turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along and across the direction `angle` (n,): each (n, H, W)."""
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    return cos * x + sin * y, cos * y - sin * x


def placed(shape: Tensor, radius: Tensor, angle: Tensor, centre: Tensor) -> Tensor:
    """Corners of one shape (V, 2) in units of its radius, scaled, turned and moved for every picture: (n, V, 2) pixels.

    radius (n,) or (n, 2) along the shape's own x and y, angle (n,), centre (n, 2).
    """
    x, y = (shape * radius.view(len(angle), 1, -1)).unbind(-1)
    cos, sin = torch.cos(angle).view(-1, 1), torch.sin(angle).view(-1, 1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1) + centre.unsqueeze(1)


def inside(corners: Tensor) -> Tensor:
    """How far every pixel's centre lies within a closed polygon (n, V, 2), in pixels; negative outside: (n, S, S)."""
    x, y = pixels()
    nearest = torch.full((len(corners), SIZE, SIZE), math.inf)
    within = torch.zeros(len(corners), SIZE, SIZE, dtype=torch.bool)
    for i in range(corners.shape[1]):
        (ax, ay), (bx, by) = (corners[:, j].view(-1, 2, 1, 1).unbind(1) for j in (i - 1, i))
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex**2 + ey**2)).clamp(0, 1)
        nearest = torch.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        crossed = ((ay > y) != (by > y)) & ((x - ax) * ey.abs() < (y - ay) * ex * ey.sign())
        within ^= crossed
    return torch.where(within, 1, -1) * nearest.sqrt()


def filled(distance: Tensor) -> Tensor:
    """Ink in [0, 1] of what lies at a positive distance (in pixels) inside an edge."""
    return (distance + 0.5).clamp(0, 1)


def lined(distance: Tensor, width: Tensor) -> Tensor:
    """Ink in [0, 1] of a line of `width` pixels (n,) along the edge, on its inner side."""
    width = width.view(-1, 1, 1)
    return filled(width / 2 - (distance - width / 2).abs())


def mixed(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """Colours low and high (n, 3) mixed by `share` (n, S, S) of the high one: (n, 3, S, S)."""
    low, high = low[:, :, None, None], high[:, :, None, None]
    return low + share.unsqueeze(1) * (high - low)


def over(image: Tensor, colour: Tensor, ink: Tensor) -> Tensor:
    """An image (n, 3, S, S) with `colour` (n, 3) painted over it where there is ink (n, S, S)."""
    return image + ink.unsqueeze(1) * (colour[:, :, None, None] - image)
