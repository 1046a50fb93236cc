"""Output on stdout: one JSON object, or text and tables for people."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import indent

import typer

from paretune.errors import printable


def answer(value: dict, as_json: bool, text: Callable[[], object]) -> None:
    """Print `value` as JSON, or call `text` to print it for people; under accelerate only the first process prints."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        typer.echo(json.dumps(value, indent=2))
    else:
        text()


def stream(key: str, entries: Iterable[dict]) -> None:
    """Print {key: [entries]} as JSON, each entry as soon as it is there; the text is that of `answer`."""
    before = f'{{\n  "{key}": ['
    for entry in entries:
        typer.echo(f"{before}\n{indent(json.dumps(entry, indent=2), '    ')}", nl=False)
        before = ","
    typer.echo("\n  ]\n}")


def say(text: str, err: bool = False) -> None:
    """Print lines for people; terminal escapes in names are shown as text."""
    typer.echo(printable(text, keep="\n"), err=err)


@contextmanager
def interruptible(hint: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C ends the command with exit code 130 and a hint on how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nparetune: interrupted; {hint()}", err=True)
        raise typer.Exit(130) from None


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
    """A table with `words` columns of words, then columns of numbers. Plain text if stdout is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=_escaped(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        grid.add_column(_escaped(name), justify="left" if i < words else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(_escaped(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file has no width to fit into
    console.print(grid)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
