"""`paretune predict`"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, stream
from paretune.errors import UsageError, printable


def predict(
    run: options.Saved,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Image files, folders of images, CSV files with a column path."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a row per image into this .csv, .jsonl or .parquet. The same command "
            "goes on after an interruption.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Number of classes per image, 5 by default; for labels all above 50 % by default."),
    ] = None,
    batch_size: options.BatchSize = 32,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    checkpoint: options.ItsCheckpoint = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in --out, and rows of another command.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Predict the most likely classes of each image, or its labels or numbers if the model was trained for these.

    A folder stands for all images below it. An image that cannot be read gets an error instead of an answer; only if
    none can be read, the exit code is 2. With --out, --json prints the file and how many images it is about.
    """  # fmt: skip
    from paretune.checkpoint import CONFIG, TENSORS, load
    from paretune.data.pictures import Pictures
    from paretune.train.answers import Table, entry, line
    from paretune.train.predict import names_of, predictions
    from paretune.train.predicted import check_out, write_predictions

    if out is not None:
        check_out(out, overwrite)
    elif overwrite:
        raise UsageError("--overwrite is for the file of --out: name one, or leave --overwrite out")
    pictures = Pictures(paths)
    count = Count(pictures.count())
    model = load(run, checkpoint=checkpoint)

    def answers(images: Iterable[str]) -> Iterator:
        return count.over(
            predictions(model, images, top, batch_size, device, workers), bar=out is not None or not sys.stdout.isatty()
        )

    def further(images: Iterator[str], done: int, unreadable: int) -> Iterator:
        count.start_at(done, unreadable)
        return answers(images)

    if out is not None:
        table = Table(model.task, names_of(model), top)
        write_predictions([run / CONFIG, run / TENSORS], table, pictures, out, overwrite, further)
        answer({"out": str(out), **count.value()}, as_json, lambda: say(f"saved in {out}"))
    elif as_json:
        stream("predictions", (entry(model.task, one) for one in answers(pictures)))
    else:
        for one in answers(pictures):
            say(printable(line(model.task, one)))
    count.tell()


class Count:
    """Counts the answers of `total` images as they pass, and their time."""

    def __init__(self, total: int):
        self.total, self.before, self.done, self.unreadable, self.seconds = total, 0, 0, 0, 0.0

    def start_at(self, done: int, unreadable: int) -> None:
        """So many images were answered by an earlier command."""
        self.before, self.done, self.unreadable = done, done, unreadable
        if done:
            say(f"{done:,} of {self.total:,} images are done, going on behind them", err=True)

    def over(self, answers: Iterable, bar: bool) -> Iterator:
        """The same answers; with `bar` a progress bar shows how many have passed."""
        start = perf_counter()
        with _progress(self.done, self.total, bar) as show:
            for one in answers:
                self.done += 1
                self.unreadable += bool(one.error)
                yield one
                self.seconds = perf_counter() - start
                show(self.done)

    def value(self) -> dict:
        """For JSON; the speed is None if nothing was left to do."""
        new = self.done - self.before
        speed = new / self.seconds if new else None
        return {"images": self.done, "unreadable": self.unreadable, "images_per_second": speed}

    def tell(self) -> None:
        """Say on stderr how many could be read and how fast it went. Raises UsageError if none could be read."""
        new = self.done - self.before
        speed = f", {new / self.seconds:,.0f} images/s" if new else ""
        say(f"{self.done:,} images{speed}", err=True)
        if self.unreadable == self.done:
            raise UsageError(f"none of {self.done:,} images could be read: their errors say why")
        if self.unreadable:
            say(f"{self.unreadable:,} of {self.done:,} images could not be read: their errors say why", err=True)


@contextmanager
def _progress(done: int, total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr if that is a terminal, and nothing else is printed to a terminal meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    off = not (wanted and console.is_terminal)
    with Progress(
        *columns, console=console, transient=True, disable=off, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task("images", completed=done, total=total)
        yield lambda done: bar.update(task, completed=done)
