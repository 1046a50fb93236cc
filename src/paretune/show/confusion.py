"""Draw the confusion matrix. Needs matplotlib.

A row is a true class, a column a predicted class, the colour is the share of the row: blue on the diagonal, where the
answer is right, orange elsewhere. Counts and names are written if they fit, so ten classes and five hundred both work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretune.show.figure import INK, PALE, STYLE, check_plot, save

CELL, SIDES = 0.46, (1.4, 10.0)  # inches: of a cell where there is room, and of the whole square
SMALLEST, LARGEST = 4.5, 10.0  # points of a text
LETTER = 0.6  # a letter's width, in parts of its size
LONGEST = 24  # letters of a name that are shown
EMPTY = (0.93, 0.93, 0.93)  # the row of a class without images
BAR = 0.95  # inches right of the square that the scale takes
TITLE_LETTER = 0.095  # inches
POWER = 0.5  # of the share, so that a class's few errors are seen beside its many right answers


@dataclass(frozen=True)
class Plan:
    """Sizes: of the square, its cells and margins in inches; of names and counts in points, 0 where they do not fit.
    `level`: the names below the square need not be turned."""

    side: float
    cell: float
    names: float
    counts: float
    level: bool
    below: float
    left: float


def plan(confusion: np.ndarray, names: Sequence[str]) -> Plan:
    """The sizes that fit for a picture of these counts (C, C)."""
    side = float(np.clip(CELL * len(names), *SIDES))
    cell = side / len(names)
    size = _fitting(72 * cell * 0.85)
    longest = max(map(len, names)) * LETTER * size / 72 if size else 0.4
    level = size > 0 and longest < 0.9 * cell
    digits = len(str(confusion.max()))
    counts = _fitting(min(72 * cell * 0.5, 72 * cell * 0.9 / (LETTER * digits)))
    return Plan(side, cell, size, counts, level, below=0.65 + (0.1 if level else longest), left=0.55 + longest)


def _fitting(points: float) -> float:
    return min(points, LARGEST) if points >= SMALLEST else 0.0


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str, path: Path) -> None:
    """Draw [true class][answered class] -> images into `path`, a .png, .svg or .pdf; equal input gives equal bytes.

    It appears complete or not at all. Raises UsageError if it cannot be drawn there.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    counts, names = np.asarray(confusion), [_short(name) for name in classes]
    sizes, shares = plan(counts, names), _shares(counts)
    width = max(sizes.left + sizes.side + BAR, 0.25 + TITLE_LETTER * len(title))
    height = sizes.below + sizes.side + 0.5
    bar = min(sizes.side, 2.2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=160)

        def place(left: float, bottom: float, wide: float, high: float) -> Any:
            """Axes whose corner and size are given in inches."""
            return figure.add_axes((left / width, bottom / height, wide / width, high / height))

        axes = place(sizes.left, sizes.below, sizes.side, sizes.side)
        axes.imshow(_colours(shares), interpolation="none", aspect="auto")
        _write_counts(axes, counts, shares, sizes)
        _label(axes, names, sizes)
        _scale(place(sizes.left + sizes.side + 0.2, sizes.below + sizes.side - bar, 0.24, bar))
        figure.text(0.12 / width, 1 - 0.3 / height, title, fontsize=11, weight="bold", va="center")
        save(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _shares(counts: np.ndarray) -> np.ndarray:
    """The counts as shares of their rows; NaN in the row of a class without images."""
    images = counts.sum(1, keepdims=True).astype(float)
    return counts / np.where(images == 0, np.nan, images)


def _colours(shares: np.ndarray) -> np.ndarray:
    """Shares (C, C) -> colours (C, C, 3)."""
    right = np.eye(len(shares), dtype=bool)[..., None]
    colours = np.where(right, _shade(shares, "Blues"), _shade(shares, "Oranges"))
    return np.where(np.isnan(shares)[..., None], EMPTY, colours)


def _shade(shares: np.ndarray, name: str) -> np.ndarray:
    """White for 0, then the colours of matplotlib's map `name`."""
    from matplotlib import colormaps

    known = np.nan_to_num(shares)[..., None]
    return np.where(known == 0, 1.0, colormaps[name](0.08 + 0.82 * known[..., 0] ** POWER)[..., :3])


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray, sizes: Plan) -> None:
    """The counts that are not 0, in white where the cell is dark."""
    if not sizes.counts:
        return
    for i, j in np.argwhere(counts):
        colour = "white" if shares[i, j] ** POWER > 0.6 else INK
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=sizes.counts, color=colour)


def _label(axes: Any, names: Sequence[str], sizes: Plan) -> None:
    ticks = range(len(names))
    if sizes.names:
        axes.set_xticks(ticks, names, fontsize=sizes.names, rotation=0 if sizes.level else 90)
        axes.set_yticks(ticks, names, fontsize=sizes.names)
    else:
        axes.tick_params(labelsize=8)
    axes.tick_params(length=0 if sizes.names else 3, pad=3)
    axes.set_xlabel("answer" if sizes.names else "answer, by the number of the class from 0")
    axes.set_ylabel("true class")
    if sizes.cell >= 0.12:
        edges = np.arange(0.5, len(names) - 1)
        axes.hlines(edges, -0.5, len(names) - 0.5, color="#e6e6e6", lw=0.6)
        axes.vlines(edges, -0.5, len(names) - 0.5, color="#e6e6e6", lw=0.6)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(PALE)


def _scale(axes: Any) -> None:
    """What the colours say: a column for right answers, one for wrong ones."""
    steps = np.linspace(1, 0, 200) ** 2  # even steps of colour, as the shares are drawn
    both = np.stack([_shade(steps, "Blues"), _shade(steps, "Oranges")], 1)
    axes.imshow(both, interpolation="none", aspect="auto", extent=(0, 2, 0, 1))
    ticks = (0, 0.01, 0.05, 0.2, 0.5, 1)
    axes.set_yticks([share**POWER for share in ticks], [f"{share:.0%}" for share in ticks], fontsize=8)
    axes.yaxis.tick_right()
    axes.set_xticks((0.5, 1.5), ("right", "wrong"), fontsize=8, rotation=90)
    axes.tick_params(length=0)
    axes.set_xlabel("of the\nrow", fontsize=8)
    axes.spines[:].set_visible(False)
