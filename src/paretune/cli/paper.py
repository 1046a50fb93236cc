"""`paretune paper`"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from paretune.cli import options
from paretune.cli.output import answer, say
from paretune.errors import UsageError

WIDTH = 120  # where stdout is no terminal
STYLES = {"reproduced": "green", "differs": "yellow"}


def paper(
    table: Annotated[
        str | None,
        typer.Argument(help="A table such as sparse-tuning-III or fpet-1, or all; without it the tables are listed."),
    ] = None,
    bench: Annotated[
        Path | None, typer.Option(help="File of `paretune bench --json`: compare the papers' ratios of times with it.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/papers.md.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare the papers' tables with what paretune computes now: parameters, MACs, memory, time.

    Every number is reproduced (the way of counting is given), differs (by how much), or cannot be reproduced (why).
    This needs no weights and no data.
    """
    from paretune.papers.check import read_bench
    from paretune.papers.text import markdown as page

    if markdown and as_json:
        raise UsageError("--markdown and --json are two formats of the same output: give only one of them")
    measured = None if bench is None else read_bench(bench)
    checked = _checked(table, measured)
    if markdown:
        return say(page(checked).removesuffix("\n"))
    if table is None:
        short = [{"key": c.key, "title": c.title, "counts": c.counts()} for c in checked]
        return answer({"tables": short}, as_json, lambda: _say_list(checked))
    if table == "all":
        return answer({"tables": [c.to_dict() for c in checked]}, as_json, lambda: _say(checked))
    return answer(checked[0].to_dict(), as_json, lambda: _say(checked))


def _checked(table: str | None, bench: dict[str, Any] | None) -> list:
    from rich.console import Console

    from paretune.papers.check import Workshop, check, tables
    from paretune.papers.tables import table as known

    keys = tables() if table in (None, "all") else [known(table).key]
    workshop = Workshop()
    with Console(stderr=True).status("") as status:
        found = []
        for key in keys:
            status.update(f"{key} ({len(found) + 1} of {len(keys)})")
            found.append(check(key, bench, workshop))
    return found


def _say_list(checked: list) -> None:
    from paretune.papers.text import LIST, listed

    rows = listed(checked)
    sums = [str(sum(int(row[i]) for row in rows)) for i in range(2, len(LIST))]
    _print(LIST, [*rows, ("all", "", *sums)], words=(0, 1))
    say("`paretune paper TABLE` shows one table, `paretune paper all` shows all of them")


def _say(checked: list) -> None:
    from paretune.papers.text import COMPUTED, MEANS, MISSING, computed, means, missing

    for one in checked:
        say(f"{one.key}: {one.title} (arXiv:{one.arxiv})")
        if rows := computed(one.findings):
            _print(COMPUTED, rows, words=(0, 1, 5))
        if rows := missing(one.findings):
            _print(MISSING, rows, words=(0, 1))
        if one.means:
            say("accuracies need the weights and the data; only the means of the printed accuracies are computed here")
            _print(MEANS, means(one.means), words=(0, 1, 5))


def _print(header: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        grid.add_column(name, justify="left" if i in words else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console.print(grid)


def _style(cell: str) -> str:
    return STYLES.get(cell.partition(":")[0], "")
