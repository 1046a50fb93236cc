"""The output of a run: a progress bar on a terminal, plain lines elsewhere, and TensorBoard files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from time import perf_counter
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from paretune.training.metrics import told

ENOUGH = 3.0  # seconds of training after which the whole time can be told


class Batches(Sized, Iterable, Protocol):
    """Batches whose number is known, such as a DataLoader."""


class Log:
    """Reports a run on stderr and in TensorBoard files; reports nothing if `show` is False."""

    def __init__(self, folder: Path, epochs: int, show: bool, quiet: bool):
        self.folder, self.epochs, self.show, self.quiet = folder, epochs, show, quiet or not show
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.board: SummaryWriter | None = None
        self.seconds: list[float] = []  # of the epochs of this process
        self.estimated = False
        self.waited = self.trained = 0.0  # seconds of the last epoch: for batches, and in all without validation

    def start(self, first_epoch: int) -> None:
        """Open the TensorBoard files; what an interrupted run wrote from `first_epoch` on is left out."""
        self.board = SummaryWriter(self.folder, purge_step=first_epoch) if self.show else None

    def line(self, text: str) -> None:
        """One line for people."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def follow(self, batches: Batches, title: str, images_each: int = 0) -> Iterator:
        """The same batches, with a progress bar where stderr is a terminal.

        images_each: images per batch, for a column with images per second; 0 = no such column
        """
        if self.quiet or not self.console.is_terminal:
            yield from batches
            return
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        if images_each:
            columns.append(TextColumn("{task.fields[rate]}"))
        with Progress(*columns, console=self.console, transient=True) as progress:
            task, start = progress.add_task(title, total=len(batches), rate=""), perf_counter()
            for done, batch in enumerate(batches, start=1):
                yield batch
                rate = images_each * done / (perf_counter() - start)
                progress.update(task, completed=done, rate=f"{rate:,.0f} images/s")

    def track(self, batches: Batches, epoch: int, batch_size: int) -> Iterator:
        """The training batches of an epoch; early in the first one it tells how long all epochs will take."""
        start, count, self.waited = perf_counter(), len(batches), 0.0
        asked = start
        for done, batch in enumerate(self.follow(batches, f"epoch {epoch + 1}/{self.epochs}", batch_size)):
            self.waited += perf_counter() - asked
            took = perf_counter() - start
            if not self.seconds and not self.estimated and done >= 2 and took > ENOUGH:
                whole = took / done * count * (self.epochs - epoch)
                self.line(f"{batch_size * done / took:.0f} images/s: training will take about {duration(whole)}")
                self.estimated = True
            yield batch
            asked = perf_counter()
        self.trained = perf_counter() - start

    def epoch(self, row: dict) -> None:
        """One finished epoch; `row` is an entry of the history."""
        named = {name: value for name, value in row.items() if name.startswith("train_") or name == "val_loss"}
        scores = {name: value for name, value in row.items() if name.startswith("val_") and name not in named}
        losses = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in named.items())
        self.seconds.append(row["seconds"])
        left = (self.epochs - row["epoch"]) * sum(self.seconds) / len(self.seconds)
        self.line(
            f"epoch {row['epoch']}/{self.epochs}  lr {row['lr']:.2e}  {losses}  "
            f"{'  '.join(told(name, value) for name, value in scores.items())}  {self._waiting()}{row['seconds']:.1f} s"
            + (f", {duration(left)} left" if left else "")
        )
        if self.board:
            for name, value in {"lr": row["lr"], **named, **scores}.items():
                if value is not None:
                    self.board.add_scalar(name, value, row["epoch"])
            self.board.flush()

    def _waiting(self) -> str:
        """How much of the training time passed in waiting for pictures."""
        return f"waiting for data {self.waited / self.trained:.0%}  " if self.trained else ""

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self.board:
            self.board.close()


def duration(seconds: float) -> str:
    """Such as "8 s", "3 min", "1 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
