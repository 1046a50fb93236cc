"""Draw docs/offline.png: two test images of every class of every task of the offline suite.

python scripts/offline_sheet.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from paretune.data.arrays import ImageArrays
from paretune.drawn.offline import OFFLINE, offline_parts
from paretune.show.sheet import GAP, GROUND, INK, TITLE, font, sheet

ROOT = Path(__file__).resolve().parents[1]
SCALE, ROWS = 3, 2


def task_sheet(test: ImageArrays) -> Image.Image:
    """A column per class with ROWS images below its name."""
    columns = [np.flatnonzero(test.targets == label)[:ROWS] for label in range(len(test.classes))]
    pictures = [[Image.fromarray(test.images[i]) for i in column] for column in columns]
    large = [[p.resize((p.width * SCALE, p.height * SCALE), Image.Resampling.NEAREST) for p in c] for c in pictures]
    return sheet(test.classes, list(zip(*large, strict=True)))


def offline_sheet() -> Image.Image:
    """The sheets of all tasks below each other, each under the task's name, group and question."""
    sheets = {name: task_sheet(offline_parts(name)["test"]) for name in OFFLINE}
    headed = 2 * TITLE + GAP
    size = max(s.width for s in sheets.values()), sum(s.height + headed for s in sheets.values())
    canvas, top = Image.new("RGB", size, GROUND), 0
    pen = ImageDraw.Draw(canvas)
    for name, drawn in sheets.items():
        task = OFFLINE[name]
        pen.text((GAP, top + GAP), f"{name} ({task.group}): {task.about}", fill=INK, font=font(TITLE + 4))
        canvas.paste(drawn, (0, top + headed))
        top += drawn.height + headed
    return canvas


def main() -> None:
    """Draw the sheet into a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/offline.png")
    args = parser.parse_args()
    offline_sheet().quantize(256).save(args.out, optimize=True)  # a third of the bytes


if __name__ == "__main__":
    main()
