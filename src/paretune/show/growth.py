"""The growth of cost with image size, drawn. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.counts import MacUnit, mac_unit
from paretune.measure.growth import Growth
from paretune.show.figure import COLOURS, INK, PALE, STYLE, check_plot, save


def draw(rows: Sequence[Growth], model: str, path: Path) -> None:
    """Two panels: GMACs over the image side, dashed with all tokens, and what is left of them, recipe by recipe.

    path: .png, .svg or .pdf; appears complete or not at all. Raises UsageError as `check_plot` does.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.4), dpi=160, layout="constrained")
        figure.suptitle(f"{model}: cost of one image", x=0.008, ha="left", fontsize=12.5, weight="bold")
        grown, left = figure.subplots(1, 2)
        unit = mac_unit(row.macs_all_tokens for row in rows)
        by_recipe = {
            name: [row for row in rows if row.recipe == name] for name in dict.fromkeys(r.recipe for r in rows)
        }
        for i, (name, own) in enumerate(by_recipe.items()):
            _lines(grown, left, name, own, unit, COLOURS[i % len(COLOURS)])
        _finish(grown, left, unit, sorted({row.image_size[0] for row in rows}))
        save(figure, path)


def _lines(grown: Any, left: Any, name: str, rows: Sequence[Growth], unit: MacUnit, colour: str) -> None:
    sides = [row.image_size[0] for row in rows]
    grown.plot(sides, [row.macs_all_tokens / unit.size for row in rows], color=PALE, lw=1.2, ls=(0, (4, 3)), zorder=1)
    grown.plot(sides, [row.macs / unit.size for row in rows], color=colour, marker="o", ms=4.5, lw=1.8, label=name)
    left.plot(sides, [100 * row.ratio for row in rows], color=colour, marker="o", ms=4.5, lw=1.8)


def _finish(grown: Any, left: Any, unit: MacUnit, sides: list[int]) -> None:
    from matplotlib.ticker import LogLocator

    grown.set_title(unit.name, loc="left", fontsize=10, color=INK)
    grown.set_yscale("log")
    grown.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    grown.plot([], [], color=PALE, lw=1.2, ls=(0, (4, 3)), label="the same with all tokens")
    grown.legend(frameon=False, loc="upper left")
    left.set_title("% of the same model with all its tokens", loc="left", fontsize=10, color=INK)
    left.set_ylim(0, 104)
    for axes in (grown, left):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(axis="y", color="#e6e6e6", lw=0.8)
        axes.margins(x=0.04)
        axes.set_axisbelow(True)
        axes.set_xlabel("side of the image, pixels")
