"""`paretune predict`"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, stream
from paretune.errors import printable


def predict(
    run: options.Answering,
    images: Annotated[
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
    from paretune.training.answers import entry, line
    from paretune.verbs.predicting import Job

    job = Job(run, images, out, top, batch_size, workers, device, overwrite, checkpoint)
    bar = partial(_progress, wanted=out is not None or not sys.stdout.isatty())

    def further(done: int) -> None:
        if done:
            say(f"{done:,} of {job.total:,} images are done, going on behind them", err=True)

    if out is not None:
        counted = job.write(lambda left: job.answers(left, bar), further)
        answer({"out": str(out), **counted}, as_json, lambda: say(f"saved in {out}"))
    elif as_json:
        stream("predictions", (entry(job.model.task, one) for one in job.answers(progress=bar)))
    else:
        for one in job.answers(progress=bar):
            say(printable(line(job.model.task, one)))
    speed = job.value()["images_per_second"]
    say(f"{job.done:,} images" + (f", {speed:,.0f} images/s" if speed else ""), err=True)
    job.check()
    if job.unreadable:
        say(f"{job.unreadable:,} of {job.done:,} images could not be read: their errors say why", err=True)


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
