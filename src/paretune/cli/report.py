"""`paretune report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of `paretune train`, files of `paretune bench --json`, export.json of `paretune export`, "
            "ledgers of `paretune suite`, `demo` and `ablate`."
        ),
    ],
    image: Annotated[list[Path] | None, typer.Option(help="Images to draw token maps of; several may follow.")] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "paretune report",
    block: Annotated[
        int | None, typer.Option(min=0, help="Block whose attention is shown; the last one by default.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write one self-contained HTML page that compares runs and benchmarks.

    It shows a table of all figures, accuracy against cost with the Pareto front, tokens per block, and for every
    --image which patches each model keeps, merges and drops, and its attention. A run and a benchmark with the same
    settings become one row.
    """
    from paretune.files import written
    from paretune.show.report import report

    page = report(sources, image or [], title, block)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written(out) as new:
        new.write_text(page, encoding="utf-8")
    size = out.stat().st_size
    answer({"out": str(out), "bytes": size}, as_json, lambda: say(f"saved in {out}, {size / 1000:,.0f} kB"))
