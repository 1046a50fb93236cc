"""One HTML file that compares methods: table, frontier, tokens per block, maps. It needs nothing but a browser."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from paretune.data.images import probe
from paretune.errors import printable
from paretune.show.charts import Steps, steps
from paretune.show.columns import SCORES, Column, present
from paretune.show.curves import curves
from paretune.show.models import Maps, asked, joined
from paretune.show.panels import legend
from paretune.show.rows import Row
from paretune.show.scatters import scatters
from paretune.show.settings import settings
from paretune.show.sources import read_sources


@dataclass(frozen=True)
class Cell:
    """A figure in the table: the number to sort by, what is written, its interval and a remark below it."""

    value: float | None
    text: str
    sure: str = ""
    remark: str = ""


def report(
    paths: Sequence[str | Path],
    images: Sequence[str | Path] = (),
    title: str = "paretune report",
    block: int | None = None,
) -> str:
    """The page for run folders, bench files and ledgers, with token maps of `images` by every model at hand.

    block: whose attention the maps show, the last one by default. The same input gives the same page. Raises UsageError
    for a path that is none of these, UnreadableImage for an image that is none.
    """
    sources = read_sources(paths)
    for image in images:
        probe(image)
    sources, maps = asked(sources, images, block)
    rows = joined(sources)
    series = {name: i for i, name in enumerate(dict.fromkeys(row.name for row in rows))}
    columns, on = present([row.figures | batch(row) for row in rows]), scored(rows)
    staircases = tokens_per_block(rows, series)
    whole = [name for name in series if any(row.name == name and constant(row.tokens) for row in rows)]
    return render(
        title=title,
        sources=sources,
        columns=columns,
        table=[(row, [cell(row, column, len(on) > 1) for column in columns]) for row in rows],
        series=series,
        remarks=remarks(rows, on, [] if staircases else whole),
        places=places([path for row in rows for path in row.origin]),
        scatters=scatters(rows, series),
        curves=curves(sources, series),
        settings=settings(sources),
        steps=staircases,
        constant=whole,
        images=by_image(maps, [Path(path).name for path in images]),
        widest=max([6, *(len(one.panels.rows[0]) for one in maps if one.panels)]),
        notes=notes(maps),
        legend=[(as_data(swatch), words) for swatch, words in legend((), signs(maps)) if swatch],
    )


def render(**content) -> str:
    """The template with its content; everything is escaped, what a terminal would obey too."""
    page = Environment(
        loader=PackageLoader("paretune.show", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return printable(page.get_template("report.html").render(**content), keep="\n\t\r\xa0\u00ad")


def cell(row: Row, column: Column, mixed: bool) -> Cell:
    """One figure; accuracy has its interval of 95 %, scores say on what they were measured where that differs."""
    value = (row.figures | batch(row)).get(column.key)
    if value is None:
        return Cell(None, "–")
    if column.key == "tokens" and row.tokens:
        return Cell(value, f"{row.tokens[0][0]} → {column.write(value)}")
    low, high = row.intervals.get(column.key, (0.0, 0.0))
    sure = f"{100 * low:.1f} to {100 * high:.1f}" if column.key in row.intervals else ""
    return Cell(value, column.write(value), sure, row.scored if mixed and column.key in SCORES else "")


def batch(row: Row) -> dict[str, float]:
    """The batch size as a figure, where something was timed."""
    return {"batch": row.batch} if row.batch else {}


def scored(rows: Sequence[Row]) -> list[str]:
    """On what scores were measured."""
    return list(dict.fromkeys(row.scored for row in rows if row.scored))


def remarks(rows: Sequence[Row], on: Sequence[str], whole: Sequence[str]) -> list[str]:
    """What must be known beside the table: what intervals are of, on what scores were measured, which methods keep all
    tokens if no chart says it, what is missing and why."""
    kinds = {bool(row.tested) for row in rows if row.intervals}
    of = " and ".join(words for kind, words in ((True, "over the images"), (False, "over the seeds of a "
                      "ledger")) if kind in kinds)  # fmt: skip
    missing = dict.fromkeys(f"{row.name}: {row.error}" for row in rows if row.error)
    return [
        *([f"Scored on {on[0]}."] if len(on) == 1 else []),
        *([f"Below a score: its interval of 95 %, {of}."] if kinds else []),
        *([f"All tokens stay in {', '.join(whole)}."] if whole else []),
        *missing,
    ]


def places(paths: Sequence[str]) -> dict[str, str]:
    """A short name for every path: without the folders that all of them are in."""
    distinct = list(dict.fromkeys(paths))
    common = os.path.commonpath([str(Path(path).parent) for path in distinct]) if distinct else ""
    return {path: os.path.relpath(path, common) if common else path for path in distinct}


def tokens_per_block(rows: Sequence[Row], series: dict[str, int]) -> list[Steps]:
    """A chart for every method that lets tokens leave, all with the same axis."""
    found = {row.name: row.tokens for row in rows if row.tokens}
    most = max((count for tokens in found.values() for pair in tokens for count in pair), default=0)
    return [steps(name, tokens, most, series[name]) for name, tokens in found.items() if not constant(tokens)]


def constant(tokens: Sequence[tuple[int, int]]) -> bool:
    """Whether all tokens stay."""
    return len({count for pair in tokens for count in pair}) == 1


def by_image(maps: Sequence[Maps], names: Sequence[str]) -> list[dict]:
    """For every image the pictures of every model."""
    return [
        {
            "name": name,
            "models": [
                {
                    "name": one.name,
                    "why": one.why,
                    "panels": [_figure(one.name, panel) for panel in one.panels.rows[i]] if one.panels else (),
                }
                for one in maps
            ],
        }
        for i, name in enumerate(names)
    ]


def notes(maps: Sequence[Maps]) -> list[str]:
    """The notes on the pictures, each once, with the models that it is about unless it is about all."""
    drawn = [(one.name, one.panels) for one in maps if one.panels]
    about: dict[str, list[str]] = {}
    for name, panels in drawn:
        for note in panels.notes:
            about.setdefault(note, []).append(name)
    return [
        note[0].upper() + note[1:] + ("" if len(names) == len(drawn) else f" ({', '.join(names)})")
        for note, names in about.items()
    ]


def signs(maps: Sequence[Maps]) -> frozenset[str]:
    """Which signs the pictures have that a legend explains."""
    return frozenset().union(*(one.panels.signs for one in maps if one.panels))


def _figure(model: str, panel) -> dict:
    width, height = panel.picture.size
    return {"data": as_data(panel.picture), "width": width, "height": height, "title": panel.title,
            "caption": panel.caption, "alt": f"{model}: {panel.alt}"}  # fmt: skip


def as_data(picture: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
