"""The pictures that show what a model does with an image, from left to right:

    as the model sees it | after each reduction ... | attention of the backbone alone | attention of this model

The last two are Sparse-Tuning's Figure 4 (Liu et al. 2024, arXiv:2405.14700).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from paretune.core.model import Adapted
from paretune.data.images import open_image
from paretune.data.transforms import evaluation
from paretune.errors import UsageError
from paretune.show.evidence import Evidence, Stage, gather, original
from paretune.show.heat import bar, heat
from paretune.show.merged import merged
from paretune.show.sheet import Legend, sheet

STAGES = 6  # reductions shown at most
SMALL, LARGE = 192, 512  # screen pixels that the longer side of a picture has at least and at most
CAPTION = "below a block: tokens before it, to tokens of one patch + tokens of several patches after it"
SIGNS = ("own", "shared", "dropped", "attention")
SUMMARIES = ("all patches, on average", "the class token", "the class and the distillation token")


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture: a short `title`, the `caption` below it, and `alt`, a sentence for those who do not see it."""

    picture: Image.Image
    title: str
    caption: str
    alt: str


@dataclass(frozen=True, eq=False)
class Panels:
    """`rows`: the panels of every image; `notes`: sentences that hold for all of them; `signs`: of `SIGNS`, what is
    to be seen in them."""

    rows: list[list[Panel]]
    notes: tuple[str, ...]
    signs: frozenset[str]


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image (H, W, 3) to draw on: its patch grid, and how many screen pixels one of its pixels gets."""

    name: str
    image: NDArray[np.uint8]
    grid: tuple[int, int]
    scale: int

    def plain(self) -> Image.Image:
        """The image alone."""
        rows, columns = self.grid
        height, width = self.image.shape[0] // rows * rows, self.image.shape[1] // columns * columns
        size = (width * self.scale, height * self.scale)
        return Image.fromarray(self.image).resize(size, Image.Resampling.NEAREST)


def panels(model: Adapted, paths: Sequence[str | Path], block: int | None = None) -> Panels:
    """What `model` does with the images in some files.

    block: whose attention is shown, the last one by default. Raises UsageError for a block that the model does not
    have, UnreadableImage for a file that cannot be decoded.
    """
    depth = len(model.backbone.blocks)
    block = depth - 1 if block is None else block
    if not 0 <= block < depth:
        raise UsageError(f"block {block} was asked for: the backbone has blocks 0 to {depth - 1}")
    images = seen(model, paths)
    after, start = gather(model, images, [block]), original(model)
    before = None if start is None else gather(start, images, [block])
    pixels = as_pixels(images, model.preprocessing)
    rows = []
    for i, path in enumerate(paths):
        canvas = comfortable(Path(path).name, pixels[i], after.grid)
        stages = [_stage(canvas, stage, i) for stage in spread(after.stages)]
        old, new = None if before is None else before.attention[block][i], after.attention[block][i]
        rows.append([_first(canvas, model, after.logits[i]), *stages, *_attention(canvas, old, new)])
    shown = [stage.groups for stage in spread(after.stages)]
    return Panels(rows, _notes(after, before, block), _signs(shown))


def seen(model: Adapted, paths: Sequence[str | Path]) -> Tensor:
    """The images (B, 3, H, W) as the model takes them."""
    transform = evaluation(model.preprocessing)
    images = torch.stack([transform(open_image(path)) for path in paths])
    return images.to(next(model.parameters()).device)


def as_pixels(images: Tensor, preprocessing: dict) -> NDArray[np.uint8]:
    """Normalised images (B, 3, H, W) as pictures (B, H, W, 3)."""
    mean, std = (torch.tensor(preprocessing[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    pixels = images.cpu() * std + mean
    return (255 * pixels.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def comfortable(name: str, image: NDArray[np.uint8], grid: tuple[int, int]) -> Canvas:
    """A canvas that is pleasant to look at: small images enlarged by whole pixels, very large ones made smaller."""
    longer = max(image.shape[:2])
    if longer > LARGE:
        cell = max(LARGE // max(grid), 2)
        small = Image.fromarray(image).resize((cell * grid[1], cell * grid[0]), Image.Resampling.LANCZOS)
        return Canvas(name, np.asarray(small), grid, 1)
    return Canvas(name, image, grid, -(-SMALL // longer))


def spread(stages: Sequence[Stage], most: int = STAGES) -> list[Stage]:
    """At most this many stages, evenly spread, including the first and the last."""
    chosen = np.unique(np.linspace(0, len(stages) - 1, min(most, len(stages))).round().astype(int))
    return [stages[i] for i in chosen]


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The share of attention that two maps give to the same patches, 0 to 1: the sum of the smaller of the two, each
    map scaled to a sum of 1; NaN counts as none."""
    a, b = np.nan_to_num(one), np.nan_to_num(other)
    return float(np.minimum(a / a.sum(), b / b.sum()).sum())


def picture_of(found: Panels) -> Image.Image:
    """All panels in one picture, a row per image, with a legend."""
    pictures = [[panel.picture for panel in row] for row in found.rows]
    captions = [[panel.caption for panel in row] for row in found.rows]
    return sheet([panel.title for panel in found.rows[0]], pictures, captions, legend(found.notes, found.signs))


def legend(notes: Sequence[str], signs: Collection[str] = SIGNS) -> Legend:
    """What the colours mean that are to be seen, and the notes."""
    grey = np.full((1, 2, 3), 225, np.uint8)
    swatches = {
        "own": (merged(grey, np.array([0, 1]), (1, 2), 14), "a token of its own"),
        "shared": (merged(grey, np.array([2, 2]), (1, 2), 14), "patches that share a token"),
        "dropped": (merged(grey, np.array([-1, -1]), (1, 2), 14), "dropped"),
        "attention": (bar(84, 14), "attention, from none to the most of both maps"),
    }
    return [*(swatch for sign, swatch in swatches.items() if sign in signs), *((None, note) for note in notes)]


def _signs(stages: Sequence[NDArray[np.int64]]) -> frozenset[str]:
    """What is to be seen after these reductions, each (B, patches), and beside them."""
    found = {"attention"}
    for groups in (group for stage in stages for group in stage):
        members = np.unique(groups[groups >= 0], return_counts=True)[1]
        found |= {sign for sign, there in (("own", 1 in members), ("shared", members.max(initial=0) > 1),
                                           ("dropped", bool((groups < 0).any()))) if there}  # fmt: skip
    return frozenset(found)


def _first(canvas: Canvas, model: Adapted, logits: Tensor) -> Panel:
    height, width = canvas.image.shape[:2]
    answer = ""
    if model.classes and model.task == "multiclass":
        probability, best = logits.softmax(-1).max(-1)
        answer = f": {model.classes[int(best)]} ({float(probability):.0%})"
    alt = f"{canvas.name} as the model sees it, {width} x {height} pixels"
    return Panel(canvas.plain(), "image", canvas.name + answer, alt + (answer and f", recognised as{answer[1:]}"))


def _stage(canvas: Canvas, stage: Stage, i: int) -> Panel:
    groups = stage.groups[i]
    members = np.unique(groups[groups >= 0], return_counts=True)[1]
    own, shared, dropped = int((members == 1).sum()), int((members > 1).sum()), int((groups < 0).sum())
    caption = f"{stage.tokens[0]} to {own}" + f" + {shared}" * (shared > 0) + f", {dropped} dropped" * (dropped > 0)
    title = f"before block {stage.block}" if stage.when == "before" else f"block {stage.block}"
    alt = (
        f"{canvas.name}, {'' if stage.when == 'before' else 'after the reduction in '}{title}: of {len(groups)} "
        f"patches {own} have a token of their own, {int(members.sum()) - own} share {shared}, {dropped} are dropped"
    )
    picture = merged(canvas.image, groups, canvas.grid, canvas.scale)
    return Panel(picture, title, caption, alt)


def _attention(canvas: Canvas, before: NDArray | None, after: NDArray) -> list[Panel]:
    """One panel, or two with the same scale of colours."""
    most = float(np.nanmax(after if before is None else [before, after]))

    def panel(title: str, found: NDArray, caption: str) -> Panel:
        strongest = f"strongest patch {np.nanmax(found):.1%}"
        alt = f"{canvas.name}, {title}: {strongest}" + (caption and f", {caption}")
        return Panel(heat(canvas.image, found, canvas.grid, most, canvas.scale), title, caption or strongest, alt)

    if before is None:
        return [panel("attention", after, "")]
    same = f"overlap {overlap(before, after):.0%}"
    return [panel("attention before", before, ""), panel("attention after", after, same)]


def _notes(after: Evidence, before: Evidence | None, block: int) -> tuple[str, ...]:
    notes = [CAPTION] if after.stages else []
    if len(after.stages) > STAGES:
        notes.append(f"{STAGES} of {len(after.stages)} reductions are shown")
    whose = f"attention of {SUMMARIES[after.readers]} in block {block}"
    if before is None:
        return (*notes, f"{whose}; the backbone as it was before training is not at hand")
    return (*notes, f"{whose}, of the backbone alone and of this model; overlap: how much falls on the same patches")
