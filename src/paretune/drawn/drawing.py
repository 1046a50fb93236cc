"""Draw strokes, contours, textures and backgrounds of small RGB images with PyTorch, in batches and from a seed.

A stroke is a chain of Gaussian dabs of a pen. A dab is separable in x and y, so a whole batch of strokes is one batched
matrix product. This draws thousands of images per second on one core. Coordinates are pixels, x to the right and y
down. Ink is a tensor of shape (batch, size, size) with values in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIZE = 32
"""Side of every drawn image, in pixels."""


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform random values from [low, high)."""
    return low + (high - low) * torch.rand(*shape, generator=rng)


def ink_strokes(points: Tensor, width: Tensor, sharpness: Tensor, pen_down: Tensor | None = None) -> Tensor:
    """Draw strokes with a round pen.

    Args:
        points: (batch, strokes, dabs, 2) pen positions along each stroke, in pixels.
        width: (batch,) stroke width in pixels.
        sharpness: (batch,) edge slope; about 4 is soft, 16 is crisp.
        pen_down: (batch, strokes) 1 for strokes to draw, 0 for strokes that are not drawn.

    Returns:
        (batch, SIZE, SIZE) ink in [0, 1].
    """
    batch = points.shape[0]
    step = (points[:, :, 1:] - points[:, :, :-1]).norm(dim=-1)
    # The pen is at least half as wide as the distance of two dabs: a thinner pen would draw dotted lines.
    sigma = torch.maximum(width / 2.355, 0.48 * step.amax(dim=(1, 2))).clamp_min(0.35).view(batch, 1, 1)
    # The weight of a dab is the length of the path around it, so the sum along a line peaks at 1 for any spacing.
    length = torch.nn.functional.pad(step, (0, 1)) / 2 + torch.nn.functional.pad(step, (1, 0)) / 2
    weight = length / (sigma * math.sqrt(2 * math.pi))
    if pen_down is not None:
        weight = weight * pen_down.unsqueeze(-1)
    pixel = torch.arange(SIZE) + 0.5
    flat = points.reshape(batch, -1, 2)
    across = torch.exp(-((pixel - flat[..., 0:1]) ** 2) / (2 * sigma**2))
    down = torch.exp(-((pixel - flat[..., 1:2]) ** 2) / (2 * sigma**2)) * weight.reshape(batch, -1, 1)
    density = torch.bmm(down.transpose(1, 2), across)
    return torch.sigmoid(sharpness.view(batch, 1, 1) * (density - 0.5))


def ink_contours(harmonics: Tensor, to_shape: Tensor, centre: Tensor, sharpness: Tensor) -> Tensor:
    """Fill closed radial contours r(angle) = 0.75 + sum_k (a_k cos k angle + b_k sin k angle).

    Args:
        harmonics: (batch, K, 2) coefficients (a_k, b_k) for k = 1..K, in units of the shape's half size.
        to_shape: (batch, 2, 2) matrix from pixel offsets to shape units.
        centre: (batch, 2) shape centre in pixels.
        sharpness: (batch,) edge slope, as for strokes.

    Returns:
        (batch, SIZE, SIZE) ink in [0, 1].
    """
    batch = len(centre)
    pixel = torch.arange(SIZE) + 0.5
    grid = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"), dim=-1).view(1, -1, 2)
    local = torch.bmm(grid - centre.unsqueeze(1), to_shape.transpose(1, 2))
    radius, angle = local.norm(dim=-1), torch.atan2(local[..., 1], local[..., 0])
    edge = torch.full_like(radius, 0.75)
    for k in range(harmonics.shape[1]):
        a, b = harmonics[:, k, 0:1], harmonics[:, k, 1:2]
        edge = edge + a * torch.cos((k + 1) * angle) + b * torch.sin((k + 1) * angle)
    return torch.sigmoid(sharpness.view(batch, 1) * 1.5 * (edge - radius)).view(batch, SIZE, SIZE)


TEXTURES = ("stripes", "checks", "dots", "noise")


def texture(rng: torch.Generator, kind: Tensor, period: Tensor, angle: Tensor) -> Tensor:
    """Draw repeating textures.

    Args:
        rng: source of the phases and of the noise.
        kind: (batch,) index into TEXTURES.
        period: (batch,) length of one repetition in pixels.
        angle: (batch,) direction in radians.

    Returns:
        (batch, SIZE, SIZE) values in [-1, 1].
    """
    batch = len(kind)
    pixel = torch.arange(SIZE) + 0.5
    frequency = 2 * math.pi / period
    along = (frequency * torch.cos(angle)).view(batch, 1, 1)
    across = (frequency * torch.sin(angle)).view(batch, 1, 1)
    phase = uniform(rng, 0, 2 * math.pi, 2, batch, 1, 1)
    x, y = pixel.view(1, 1, SIZE), pixel.view(1, SIZE, 1)
    u, v = torch.sin(along * x + across * y + phase[0]), torch.sin(along * y - across * x + phase[1])
    noise = smooth_noise(rng, batch, cells=16)
    choices = torch.stack([3 * u, 6 * u * v, 4 * (u + v - 0.6), 2 * noise])
    return choices[kind, torch.arange(batch)].clamp(-1, 1)


def smooth_noise(rng: torch.Generator, batch: int, cells: int) -> Tensor:
    """Draw a (batch, SIZE, SIZE) noise field of about unit spread, smooth below SIZE / cells pixels."""
    coarse = torch.randn(batch, 1, cells, cells, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]


def colour_pairs(rng: torch.Generator, batch: int, least: float, most: float) -> tuple[Tensor, Tensor]:
    """Draw background and ink colours whose brightness differs by `least` to `most`. The ink is lighter or darker.

    Returns two (batch, 3) tensors with values in [0, 1].
    """
    back = uniform(rng, 0, 1, batch)
    contrast = uniform(rng, least, most, batch)
    lighter = torch.where(back + contrast > 1, False, torch.rand(batch, generator=rng) < 0.5) | (back - contrast < 0)
    ink = back + torch.where(lighter, contrast, -contrast)
    colours = []
    for brightness in (back, ink):
        tint = uniform(rng, -0.3, 0.3, batch, 3)
        tint = tint - tint.mean(dim=1, keepdim=True)
        colours.append((brightness.unsqueeze(1) + tint).clamp(0, 1))
    return colours[0], colours[1]


def clutter_strokes(rng: torch.Generator, batch: int, strokes: int, most: float) -> Tensor:
    """Draw up to `strokes` short strokes per image. Each is shown with a probability that varies up to `most`."""
    start = uniform(rng, 0, SIZE, batch, strokes, 1, 2)
    move = torch.randn(batch, strokes, 2, 2, generator=rng) * 5
    t = torch.linspace(0, 1, 10).view(1, 1, 10, 1)
    points = start + t * move[:, :, 0:1] + t**2 * move[:, :, 1:2]
    shown = torch.rand(batch, strokes, generator=rng) < uniform(rng, 0, most, batch, 1)
    return ink_strokes(points, uniform(rng, 0.8, 3, batch), uniform(rng, 4, 14, batch), shown.float())


def background(rng: torch.Generator, colour: Tensor, ink: Tensor, clutter: float) -> Tensor:
    """Paint backgrounds: a colour gradient, soft blobs, a texture and single strokes.

    Args:
        rng: source of randomness.
        colour: (batch, 3) background colour.
        ink: (batch, 3) colour of the ink that comes on top; the clutter has less contrast than the ink.
        clutter: from 0 (plain colour) to 1 (full clutter).

    Returns:
        (batch, 3, SIZE, SIZE) float images, not yet clipped.
    """
    batch = len(colour)
    contrast = (ink - colour).abs().mean(dim=1).view(batch, 1, 1, 1)
    ramp = torch.linspace(-1, 1, SIZE)
    slope = torch.randn(2, batch, 3, 1, 1, generator=rng) * 0.08 * clutter
    image = colour.view(batch, 3, 1, 1) + slope[0] * ramp + slope[1] * ramp.view(SIZE, 1)
    kind = torch.randint(len(TEXTURES), (batch,), generator=rng)
    pattern = texture(rng, kind, uniform(rng, 2.5, 12, batch), uniform(rng, 0, math.pi, batch))
    strength = uniform(rng, -0.3, 0.35, batch, 1, 1, 1).clamp_min(0) * clutter * contrast
    image = image + strength * pattern.unsqueeze(1)
    blobs = smooth_noise(rng, batch, cells=4).unsqueeze(1)
    image = image + uniform(rng, 0, 0.25, batch, 1, 1, 1) * clutter * contrast * blobs
    stray = clutter_strokes(rng, batch, 4, clutter).unsqueeze(1)
    stray_colour = colour + (torch.rand(batch, 3, generator=rng) - colour) * uniform(rng, 0.3, 1, batch, 1)
    return image + stray * (stray_colour.view(batch, 3, 1, 1) - image)


def finish(rng: torch.Generator, image: Tensor, noise: float) -> Tensor:
    """Add noise of a deviation up to `noise` and quantise (batch, 3, S, S) floats to (batch, S, S, 3) uint8."""
    spread = uniform(rng, 0, noise, len(image), 1, 1, 1)
    noisy = image + torch.randn(image.shape, generator=rng) * spread
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
