"""`paretune compare`"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.errors import UsageError


def compare(
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B ...]",
            help="Ledgers, FILE or FILE:RECIPE; or rows of published VTAB-1K tables, published:TABLE, "
            "published:TABLE:ROW or published:ROW, such as published:fpet-2:FPET-LoRA.",
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Reference of the differences; the first entry by default.")
    ] = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="Also a table with every task.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compare although the protocols differ; the output says so.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw accuracy over multiply-accumulates into this .png, .svg or .pdf; needs paretune[plot]."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown page.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare the results of recipes: flat and group mean with 95 % intervals over seeds, differences paired by seed
    and task.

    Refuses results whose protocols, data or backbones differ, and names every difference. Warns of the known traps:
    lossy images, wrong normalisation, mixed kinds of means, selection on the test images.
    """  # fmt: skip
    if markdown and as_json:
        raise UsageError("--markdown and --json are two ways to print the same: choose one")
    from paretune.ledger.compare import compare
    from paretune.ledger.entries import read_entries
    from paretune.ledger.text import markdown as page
    from paretune.papers.vtab_rows import published_entries

    if plot is not None:
        from paretune.show.figure import check_plot

        check_plot(plot)
    found = compare(read_entries(entries, published_entries), baseline, force)
    if plot is not None:
        from paretune.show.tradeoff import draw

        draw(found, plot)
    if markdown:
        asked = [*entries, "--baseline", found.baseline, *(["--tasks"] * tasks), *(["--force"] * force), "--markdown"]
        return say(page(found, tasks, shlex.join(["paretune", "compare", *asked])).removesuffix("\n"))
    return answer(found.to_dict(), as_json, lambda: _say(found, tasks, plot))


def _say(found, tasks: bool, plot: Path | None) -> None:
    from paretune.ledger.text import by_task, overview, title, warnings

    table(title(found), *overview(found))
    if tasks:
        table("", *by_task(found), words=2)
    for sentence in warnings(found):
        say(sentence)
    if plot is not None:
        say(f"drawn: {plot}")
