"""The classes that the embedded backbone is pretrained on, and batches of labelled drawings of them.

Most classes are glyphs: a fixed template of one to four strokes that is bent, tilted, sheared, scaled and placed anew
in every drawing. Others are filled radial contours, their outlines, and a few textures. Colour never tells the class.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paretune.drawn.drawing import (
    SIZE,
    TEXTURES,
    background,
    colour_pairs,
    finish,
    ink_contours,
    ink_strokes,
    texture,
    uniform,
)

VERSION = 1
"""Raised whenever the same seed would draw different images."""

GLYPHS, OUTLINES, FILLED = 420, 34, 34
PERIODS = 3
TEXTURED = len(TEXTURES) * PERIODS
CLASSES = GLYPHS + OUTLINES + FILLED + TEXTURED
STROKES, DABS, HARMONICS = 4, 20, 5
TILT = math.radians(25)


class Templates(NamedTuple):
    """The fixed shapes behind the classes, in a frame of about [-1, 1]."""

    strokes: Tensor
    """(GLYPHS + OUTLINES, STROKES, DABS, 2) pen positions."""
    pen_down: Tensor
    """(GLYPHS + OUTLINES, STROKES) which strokes exist."""
    harmonics: Tensor
    """(FILLED, HARMONICS, 2) contour coefficients."""


class Drawings(NamedTuple):
    """A batch of labelled drawings."""

    images: Tensor
    """(batch, 32, 32, 3) uint8."""
    labels: Tensor
    """(batch,) int64 in [0, CLASSES)."""
    pose: Tensor
    """(batch, 4) centre x and y in [-1, 1], log scale and tilt, each about unit range; zeros for textures."""
    touched: Tensor
    """(batch, 8, 8) bool: which 4x4 patches the shape touches (all of them for textures)."""


def _stroke(rng: torch.Generator, start: Tensor | None, curved: bool) -> Tensor:
    """Draw one template stroke, (DABS, 2): a segment unless `curved`, an arc, an S-curve or a loop."""
    t = torch.linspace(0, 1, DABS).unsqueeze(1)
    kind = int(torch.randint(3 if curved else 0, 10, (1,), generator=rng))
    heading, size = uniform(rng, 0, 2 * math.pi, 1), uniform(rng, 0.5, 1.0, 1)
    if kind < 3:  # segment
        turn = torch.zeros(DABS, 1)
        size = size * 1.4
    elif kind < 6:  # arc of up to three quarters of a turn
        turn = uniform(rng, 1.5, 4.7, 1) * t * (1 if kind % 2 else -1)
    elif kind < 8:  # S-curve
        turn = uniform(rng, 2.5, 4.5, 1) * torch.sin(2 * math.pi * t) / 2 * (1 if kind % 2 else -1)
        size = size * 1.3
    else:  # closed loop
        turn = 2 * math.pi * t * (1 if kind % 2 else -1)
        size = size * 1.5
    direction = torch.cat([torch.cos(heading + turn), torch.sin(heading + turn)], dim=1)
    path = torch.cumsum(direction, dim=0) / DABS * size * 2
    path = path * uniform(rng, 0.7, 1.0, 2)
    begin = uniform(rng, -0.8, 0.8, 2) if start is None else start
    return path - path[0] + begin


def _glyph(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one glyph template: strokes (STROKES, DABS, 2) fitted to [-1, 1], and which of them exist (STROKES,)."""
    count = 1 + int(torch.multinomial(torch.tensor([0.15, 0.4, 0.3, 0.15]), 1, generator=rng))
    strokes: list[Tensor] = []
    for _ in range(count):
        start = None
        if strokes and torch.rand(1, generator=rng) < 0.75:
            earlier = strokes[int(torch.randint(len(strokes), (1,), generator=rng))]
            joint = (0, DABS // 2, DABS - 1)[int(torch.randint(3, (1,), generator=rng))]
            start = earlier[joint]
        # A lone segment would tell nothing but its tilt, which drawings vary.
        strokes.append(_stroke(rng, start, curved=count == 1))
    ink = torch.cat(strokes)
    low, high = ink.amin(dim=0), ink.amax(dim=0)
    half = (high - low) / 2
    # Long, thin glyphs keep a part of their aspect ratio.
    fit = torch.maximum(half, 0.6 * half.max()).clamp_min(1e-3)
    points = torch.zeros(STROKES, DABS, 2)
    for index, stroke in enumerate(strokes):
        points[index] = (stroke - (low + high) / 2) / fit
    return points, (torch.arange(STROKES) < count).float()


def _outline(harmonics: Tensor) -> Tensor:
    """Lay a radial contour out as STROKES chained strokes, (STROKES, DABS, 2)."""
    angle = torch.linspace(0, 2 * math.pi, STROKES * (DABS - 1) + 1)
    k = torch.arange(1, HARMONICS + 1).view(-1, 1)
    waves = torch.cos(k * angle) * harmonics[:, 0:1] + torch.sin(k * angle) * harmonics[:, 1:2]
    radius = 0.75 + waves.sum(dim=0)
    points = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return torch.stack([points[i * (DABS - 1) : i * (DABS - 1) + DABS] for i in range(STROKES)])


def make_templates(seed: int = 0) -> Templates:
    """Draw the fixed templates of all classes; another seed gives another family of shapes."""
    rng = torch.Generator().manual_seed(seed)
    glyphs = [_glyph(rng) for _ in range(GLYPHS)]
    decay = 0.3 / torch.arange(1, HARMONICS + 1).sqrt().view(1, -1, 1)
    harmonics = torch.randn(OUTLINES + FILLED, HARMONICS, 2, generator=rng) * decay * 0.6
    strokes = torch.stack([points for points, _ in glyphs] + [_outline(h) for h in harmonics[:OUTLINES]])
    pen_down = torch.stack([down for _, down in glyphs] + [torch.ones(STROKES)] * OUTLINES)
    return Templates(strokes, pen_down, harmonics[OUTLINES:])


class DrawnClasses:
    """Endless seeded batches of labelled drawings.

    Args:
        seed: seed of the sequence of drawings. The same seed gives the same sequence.
        template_seed: seed of the class shapes.
    """

    def __init__(self, seed: int, template_seed: int = 0) -> None:
        self.templates = make_templates(template_seed)
        self._rng = torch.Generator().manual_seed(seed)

    def batch(self, size: int, difficulty: float = 1.0, labels: Tensor | None = None) -> Drawings:
        """Draw `size` images, of the given (size,) labels or of classes taken evenly at random.

        `difficulty` runs from 0 (centred upright shapes of one size on plain ground) to 1 (the full range).
        """
        rng = self._rng
        if labels is None:
            labels = torch.randint(CLASSES, (size,), generator=rng)
        matrix, centre, pose = self._poses(size, difficulty)
        ink = self._shape_ink(labels, matrix, centre)
        back, fore = colour_pairs(rng, size, 0.5 - 0.3 * difficulty, 0.9)
        image = background(rng, back, fore, difficulty)
        paint = self._paint(fore - back, difficulty) + back.view(size, 3, 1, 1)
        image = image + ink.unsqueeze(1) * (paint - image)
        textured = labels >= CLASSES - TEXTURED
        if textured.any():
            image[textured] = self._textured(labels[textured], back[textured], fore[textured])
        pose[textured] = 0
        patches = torch.nn.functional.max_pool2d(ink, 4) > 0.25
        patches[textured] = True
        return Drawings(finish(rng, image, 0.02 + 0.06 * difficulty), labels, pose, patches)

    def _poses(self, size: int, difficulty: float) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the matrix from template to pixel offsets (size, 2, 2), the centre (size, 2) and the pose (size, 4)."""
        rng = self._rng
        half = 11 + difficulty * uniform(rng, -5, 2, size)
        tilt = difficulty * uniform(rng, -TILT, TILT, size)
        stretch = torch.exp(difficulty * uniform(rng, -0.25, 0.25, size))
        shear = difficulty * uniform(rng, -0.25, 0.25, size)
        cos, sin = torch.cos(tilt), torch.sin(tilt)
        rotate = torch.stack([cos, -sin, sin, cos], dim=1).view(size, 2, 2)
        zeros = torch.zeros(size)
        skew = torch.stack([half * stretch, half * shear, zeros, half / stretch], dim=1).view(size, 2, 2)
        room = (SIZE / 2 - half).unsqueeze(1)
        shift = difficulty * uniform(rng, -1, 1, size, 2) * room
        pose = torch.stack([shift[:, 0] / 10, shift[:, 1] / 10, torch.log(half / 8.5) / 0.4, tilt / TILT], dim=1)
        return rotate @ skew, SIZE / 2 + shift, pose

    def _shape_ink(self, labels: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
        """Render the stroke glyphs, outlines and filled contours of a batch; textures stay blank."""
        ink = torch.zeros(len(labels), SIZE, SIZE)
        stroked = (labels < GLYPHS + OUTLINES).nonzero()[:, 0]
        if len(stroked):
            ink[stroked] = self._stroke_ink(labels[stroked], matrix[stroked], centre[stroked])
        filled = ((labels >= GLYPHS + OUTLINES) & (labels < CLASSES - TEXTURED)).nonzero()[:, 0]
        if len(filled):
            harmonics = self.templates.harmonics[labels[filled] - GLYPHS - OUTLINES]
            harmonics = harmonics + torch.randn(harmonics.shape, generator=self._rng) * 0.02
            sharpness = uniform(self._rng, 5, 16, len(filled))
            ink[filled] = ink_contours(harmonics, torch.linalg.inv(matrix[filled]), centre[filled], sharpness)
        return ink

    def _stroke_ink(self, labels: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
        """Render bent copies of stroke templates."""
        rng, count = self._rng, len(labels)
        points = self.templates.strokes[labels]
        # A smooth warp of the plane keeps joints joined; the small bend of each stroke loosens them as a hand does.
        wave = uniform(rng, 1.0, 2.2, count, 1, 1, 2)
        phase = uniform(rng, 0, 2 * math.pi, count, 1, 1, 2)
        reach = torch.randn(count, 1, 1, 2, generator=rng) * 0.1
        warped = points + reach * torch.sin(wave * points.flip(-1) + phase)
        t = torch.linspace(-1, 1, DABS).view(1, 1, DABS, 1)
        bend = torch.randn(3, count, STROKES, 1, 2, generator=rng)
        warped = warped + 0.05 * bend[0] + 0.05 * bend[1] * t + 0.04 * bend[2] * (t**2 - 0.5)
        placed = (warped.flatten(1, 2) @ matrix.transpose(1, 2)).view(points.shape) + centre.view(count, 1, 1, 2)
        size = torch.linalg.det(matrix).sqrt() * 2
        width = (size * uniform(rng, 0.05, 0.19, count)).clamp_min(1.0)
        return ink_strokes(placed, width, uniform(rng, 4, 16, count), self.templates.pen_down[labels])

    def _paint(self, contrast: Tensor, difficulty: float) -> Tensor:
        """Colour of the shape relative to the ground, (batch, 3, SIZE, SIZE): flat, or textured for some."""
        rng, size = self._rng, len(contrast)
        kind = torch.randint(len(TEXTURES), (size,), generator=rng)
        pattern = texture(rng, kind, uniform(rng, 2.5, 8, size), uniform(rng, 0, math.pi, size))
        strength = uniform(rng, -0.5, 0.35, size).clamp_min(0) * difficulty
        return contrast.view(size, 3, 1, 1) * (1 - strength.view(size, 1, 1, 1) * (1 - pattern.unsqueeze(1)))

    def _textured(self, labels: Tensor, back: Tensor, fore: Tensor) -> Tensor:
        """Images of the texture classes: each kind of texture at three repeat lengths, any tilt."""
        rng, size = self._rng, len(labels)
        index = labels - (CLASSES - TEXTURED)
        # Noise has no repeat length, so its classes look alike; they are too few to matter.
        period = (3.0 * 1.8 ** (index % PERIODS)) * torch.exp(uniform(rng, -0.15, 0.15, size))
        kind = torch.div(index, PERIODS, rounding_mode="floor")
        pattern = texture(rng, kind, period, uniform(rng, -TILT, TILT, size)).unsqueeze(1)
        mix = (pattern + 1) / 2
        return back.view(size, 3, 1, 1) * (1 - mix) + fore.view(size, 3, 1, 1) * mix
