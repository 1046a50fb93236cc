"""Draw the images on which a model is most wrong, as one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path

from PIL import Image

from paretune.errors import UsageError, plain, printable
from paretune.files import written
from paretune.show.sheet import GROUND, sheet
from paretune.training.worst import Mistake

SIDE = 160  # screen pixels of the square that a picture is fitted into
WIDEST = 10  # pictures in a row
MOST = 1000  # pictures on a sheet


def check_sheet(path: Path, worst: int) -> None:
    """Raise UsageError if no sheet of so many pictures can be written there."""
    if not worst:
        raise UsageError("--sheet draws the images of --worst: say how many, as in --worst 20")
    if worst > MOST:
        raise UsageError(f"--worst {worst:,} with --sheet: a sheet has room for {MOST:,} images")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--sheet {plain(path)}: the sheet is a PNG, name a file that ends in .png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--sheet {plain(path)}: there is no folder {plain(path.parent)}; make it first")


def draw_worst(pictures: Sequence[Image.Image], captions: Sequence[str], note: str, path: Path) -> None:
    """Draw pictures of any sizes, the worst first, each above the lines of its caption, into a PNG file.

    It appears complete or not at all; equal input gives equal bytes.
    """
    columns = min(ceil(sqrt(len(pictures))), WIDEST)
    empty = -len(pictures) % columns
    shown = [*map(_fitted, pictures), *[Image.new("RGB", (SIDE, SIDE), GROUND)] * empty]
    words = [*captions, *[""] * empty]
    starts = range(0, len(shown), columns)
    rows = [shown[i : i + columns] for i in starts]
    below = [words[i : i + columns] for i in starts]
    with written(path) as new:
        sheet([""] * columns, rows, below, [(None, note)]).save(new, format="PNG")


def caption(name: str, mistake: Mistake) -> str:
    """Lines for people: the image's name, what is true, what the model said."""
    name, facts = printable(name), {k: printable(v) if isinstance(v, str) else v for k, v in mistake.facts.items()}
    if "probability" in facts:
        return f"{name}\nis: {facts['class']}\nanswer: {facts['answer']}, {facts['probability']:.1%}"
    return f"{name}\n{facts['number']}: {facts['target']:.4g}\nanswer: {facts['answer']:.4g}"


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a square; small ones are enlarged by whole pixels."""
    longer = max(picture.size)
    if longer <= SIDE:
        scale = SIDE // longer
        small = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    else:
        size = (max(1, round(side * SIDE / longer)) for side in picture.size)
        small = picture.resize((next(size), next(size)), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), GROUND)
    square.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return square
