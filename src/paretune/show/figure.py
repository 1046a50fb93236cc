"""The style of plots, and how they are written to files. Needs matplotlib, from the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.errors import UsageError
from paretune.files import written

SUFFIXES = (".png", ".svg", ".pdf")
INK, PALE = "#222222", "#9a9a9a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#6a4c93", "#404040", "#9aa000")
STYLE = {
    "font.size": 10, "axes.edgecolor": PALE, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "paretune",
    "svg.fonttype": "none",
}  # fmt: skip
NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # so that equal figures are equal files


def check_plot(path: Path) -> None:
    """Raise UsageError if no plot can be written there."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"'{path}' cannot be drawn: name a file that ends in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"'{path}' cannot be drawn: there is no folder '{path.parent}'; make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("plots need matplotlib: `pip install paretune[plot]`, or leave the plot out") from error


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as .png, .svg or .pdf; it appears complete or not at all."""
    with written(path) as new:
        figure.savefig(new, format=path.suffix[1:], metadata=NO_DATE.get(path.suffix))
