"""`paretune.predict`: what `paretune predict` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from paretune.errors import UsageError

if TYPE_CHECKING:
    from paretune.training.answers import Answer

Show = Callable[[int], object]
"""Is told how many images are done."""


def predict(
    run: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    top: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    overwrite: bool = False,
) -> list[dict[str, Any]] | dict[str, Any]:
    """Predict the most likely classes of each image, or its labels or numbers if the model was trained for these.

    The arguments are those of `paretune predict`, with the same names and defaults.

    Args:
        run: folder of a trained model, or an artefact of `export`, which needs no torch
        images: files, folders of images, CSV files with a column `path`; one or several
        out: a .csv, .jsonl or .parquet to write a row per image into; for any number of images, and the same call goes
            on after an interruption
        checkpoint: weights of the backbone, if they are not where training found them
        top: number of classes per image, 5 by default; for labels all above 50 % by default

    Returns:
        What `--json` prints. Without `out` a list, in the order of the images: {"path", "classes": [{"class",
        "probability"}]}, {"path", "labels": [{"label", "probability"}]} or {"path", "numbers": {name: value}}; for an
        image that cannot be read {"path", "error"}. With `out` {"out", "images", "unreadable", "images_per_second"}.

    Raises:
        UsageError: no such run or images; an `out` that is in use; not one image that can be read.
    """
    from paretune.training.answers import entry

    job = Job(run, images, out, top, batch_size, workers, device, overwrite, checkpoint)
    if out is not None:
        found: list | dict = {"out": str(out), **job.write()}
    else:
        found = [entry(job.model.task, one) for one in job.answers()]
    job.check()
    return found


class Answering(Protocol):
    """A model that answers: a run in torch, or an artefact. `files` are those that make it what it is."""

    @property
    def task(self) -> str:
        """As of a model."""
        ...

    @property
    def classes(self) -> list[str]:
        """The names of the outputs."""
        ...

    @property
    def files(self) -> list[Path]:
        """What is compared before rows of an interrupted command are kept."""
        ...

    def predictions(self, pictures: Iterable[str], top: int | None, batch_size: int) -> Iterator[Answer]:
        """The answers one by one."""
        ...


class _Run:
    """The model of a run."""

    def __init__(self, run: Path, workers: int, device: str, checkpoint: str | Path | None):
        from paretune.checkpoint import CONFIG, TENSORS, load
        from paretune.training.predict import names_of

        model = load(run, checkpoint=checkpoint)
        self.model, self.workers, self.device, self.task, self.classes = (
            model,
            workers,
            device,
            model.task,
            names_of(model),
        )
        self.files = [run / CONFIG, run / TENSORS]

    def predictions(self, pictures: Iterable[str], top: int | None, batch_size: int) -> Iterator[Answer]:
        from paretune.training.predict import predictions

        return predictions(self.model, pictures, top, batch_size, self.device, self.workers)


def answering(run: str | Path, workers: int, device: str, checkpoint: str | Path | None) -> Answering:
    """The run or the artefact that a path means. Raises UsageError for options that an artefact does not have."""
    from paretune.deploy.runtimes import artefact_file

    if artefact_file(run) is None:
        return _Run(Path(run), workers, device, checkpoint)
    from paretune.deploy.artefact import Artefact

    if checkpoint is not None or device not in ("auto", "cpu"):
        raise UsageError("an artefact holds its weights and runs on the CPU: leave out --checkpoint and --device")
    return Artefact(run)


class Job:
    """The answers of a model on images, counted as they pass. Raises UsageError before anything is computed."""

    def __init__(
        self,
        run: str | Path,
        images: str | Path | Sequence[str | Path],
        out: str | Path | None,
        top: int | None,
        batch_size: int,
        workers: int,
        device: str,
        overwrite: bool,
        checkpoint: str | Path | None,
    ):
        from paretune.data.pictures import Pictures
        from paretune.training.predicted import check_out

        self.out = None if out is None else Path(out)
        if self.out is not None:
            check_out(self.out, overwrite)
        elif overwrite:
            raise UsageError("--overwrite is for the file of --out: name one, or leave --overwrite out")
        paths = [images] if isinstance(images, (str, Path)) else images
        self.pictures = Pictures([Path(path) for path in paths])
        self.total, self.before, self.done, self.unreadable, self.seconds = self.pictures.count(), 0, 0, 0, 0.0
        self.top, self.batch_size, self.overwrite = top, batch_size, overwrite
        self.model = answering(run, workers, device, checkpoint)

    def answers(
        self,
        images: Iterable[str] | None = None,
        progress: Callable[[int, int], AbstractContextManager[Show]] = lambda done, total: nullcontext(lambda done: 0),
    ) -> Iterator[Answer]:
        """The answers one by one, of all images by default; `progress` shows (done, total) meanwhile."""
        start, pictures = perf_counter(), self.pictures if images is None else images
        with progress(self.done, self.total) as show:
            for one in self.model.predictions(pictures, self.top, self.batch_size):
                self.done += 1
                self.unreadable += bool(one.error)
                yield one
                self.seconds = perf_counter() - start
                show(self.done)

    def write(
        self,
        answers: Callable[[Iterator[str]], Iterator[Answer]] | None = None,
        further: Callable[[int], object] = lambda done: None,
    ) -> dict[str, Any]:
        """Write the rows of `out`, and return `value`; `further` is told how many an interrupted call has written."""
        from paretune.training.answers import Table
        from paretune.training.predicted import write_predictions

        def go_on(images: Iterator[str], done: int, unreadable: int) -> Iterator[Answer]:
            self.before, self.done, self.unreadable = done, done, unreadable
            further(done)
            return (answers or self.answers)(images)

        assert self.out is not None, "a file to write to"
        table = Table(self.model.task, self.model.classes, self.top)
        write_predictions(self.model.files, table, self.pictures, self.out, self.overwrite, go_on)
        return self.value()

    def value(self) -> dict[str, Any]:
        """For JSON; the speed is None if nothing was left to do."""
        new = self.done - self.before
        return {
            "images": self.done,
            "unreadable": self.unreadable,
            "images_per_second": new / self.seconds if new else None,
        }

    def check(self) -> None:
        """Raise UsageError if no image could be read."""
        if self.unreadable == self.done:
            raise UsageError(f"none of {self.done:,} images could be read: their errors say why")
