"""Filled and outlined polygons of any form, with smooth edges, and coordinates for grids finer than pixels."""

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
    """Average the sub-pixels of an image (..., SIZE * fine, SIZE * fine) to whole pixels."""
    return torch.nn.functional.avg_pool2d(image, fine)


def turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along and across the direction `angle` (n,): each (n, H, W)."""
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    return cos * x + sin * y, cos * y - sin * x


def placed(shape: Tensor, radius: Tensor, angle: Tensor, centre: Tensor) -> Tensor:
    """Scale, turn and move the corners of one shape (V, 2), given in units of its radius, for every picture.

    radius (n,), or (n, 2) along the shape's own x and y; angle (n,); centre (n, 2). Returns (n, V, 2) in pixels.
    """
    x, y = (shape * radius.view(len(angle), 1, -1)).unbind(-1)
    cos, sin = torch.cos(angle).view(-1, 1), torch.sin(angle).view(-1, 1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1) + centre.unsqueeze(1)


def inside(corners: Tensor) -> Tensor:
    """Distance of every pixel's centre to the edge of a closed polygon (n, V, 2), negative outside: (n, S, S)."""
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
    """Ink in [0, 1] of a filled shape; distance: how deep a pixel is inside the edge, in pixels."""
    return (distance + 0.5).clamp(0, 1)


def lined(distance: Tensor, width: Tensor) -> Tensor:
    """Ink in [0, 1] of a line along the inner side of the edge, `width` (n,) pixels wide."""
    width = width.view(-1, 1, 1)
    return filled(width / 2 - (distance - width / 2).abs())


def mixed(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """Mix two colours (n, 3); `share` (n, S, S) is the share of `high`. Returns (n, 3, S, S)."""
    low, high = low[:, :, None, None], high[:, :, None, None]
    return low + share.unsqueeze(1) * (high - low)


def over(image: Tensor, colour: Tensor, ink: Tensor) -> Tensor:
    """Paint `colour` (n, 3) over an image (n, 3, S, S) where there is ink (n, S, S)."""
    return image + ink.unsqueeze(1) * (colour[:, :, None, None] - image)
