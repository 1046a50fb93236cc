"""The output of a run: a progress bar on a terminal, plain lines elsewhere, and TensorBoard files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from torch.utils.tensorboard import SummaryWriter

from paretune.train.metrics import told


class Log:
    """Reports a run on stderr and in TensorBoard files; reports nothing if `show` is False."""

    def __init__(self, folder: Path, epochs: int, first_step: int, show: bool, quiet: bool):
        self.epochs, self.quiet = epochs, quiet or not show
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.board = SummaryWriter(folder, purge_step=first_step) if show else None

    def line(self, text: str) -> None:
        """One line for people."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def track(self, batches: Iterable, epoch: int) -> Iterator:
        """The same batches, with a progress bar where stderr is a terminal."""
        if self.quiet or not self.console.is_terminal:
            return iter(batches)
        title = f"epoch {epoch + 1}/{self.epochs}"
        return track(batches, title, console=self.console, transient=True)

    def epoch(self, row: dict) -> None:
        """One finished epoch; `row` is an entry of the history."""
        named = {name: value for name, value in row.items() if name.startswith("train_") or name == "val_loss"}
        scores = {name: value for name, value in row.items() if name.startswith("val_") and name not in named}
        losses = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in named.items())
        self.line(
            f"epoch {row['epoch']}/{self.epochs}  lr {row['lr']:.2e}  {losses}  "
            f"{'  '.join(told(name, value) for name, value in scores.items())}  {row['seconds']:.1f} s"
        )
        if self.board:
            for name, value in {"lr": row["lr"], **named, **scores}.items():
                if value is not None:
                    self.board.add_scalar(name, value, row["epoch"])
            self.board.flush()

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self.board:
            self.board.close()
