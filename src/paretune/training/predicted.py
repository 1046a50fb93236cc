"""Predictions in a file: CSV, JSON lines or Parquet. An interrupted run goes on behind the last row that it wrote."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from paretune.errors import UsageError, plain
from paretune.files import written
from paretune.training.answers import Answer, Csv, JsonLines, Table
from paretune.training.growing import Growing, growing

ENDINGS = (".csv", ".jsonl", ".parquet")
ROWS = 4096  # of a Parquet file that are in memory at once

Predict = Callable[[Iterator[str], int, int], Iterator[Answer]]
"""(paths, how many of them were answered before, how many of those could not be read) -> the answers for the paths."""


def check_out(out: Path, overwrite: bool) -> None:
    """Raise UsageError if predictions cannot be written there, before anything is computed."""
    if out.suffix not in ENDINGS:
        raise UsageError(f"--out {plain(out)}: name a file that ends in {', '.join(ENDINGS)}")
    if out.is_dir():
        raise UsageError(f"--out {plain(out)} is a folder: name a file to write")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {plain(out)}: there is no folder {plain(out.parent)}; make it first")
    if out.exists() and not overwrite:
        raise UsageError(f"{plain(out)} exists already: name another file, or add --overwrite to replace it")
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(
                "Parquet files need pyarrow: `pip install paretune[hf]`, or name a file that ends in .csv or .jsonl"
            ) from None


def write_predictions(
    model: Sequence[Path], table: Table, pictures: Iterable[str], out: Path, overwrite: bool, predict: Predict
) -> None:
    """Write what `predict` says of every picture into `out`, which appears when it is complete.

    model: the files that make the model what it is. Rows that an earlier, interrupted call wrote are kept if they were
    made by the same model, for the same columns and pictures; `overwrite` throws away those that were not. Raises
    UsageError for them otherwise.
    """
    form = JsonLines(table) if out.suffix == ".jsonl" else Csv(table)
    head = {"format": 1, "model": digest(model), "top": table.top, "columns": list(table.columns)}
    with growing(out, head, overwrite) as file:
        paths = iter(pictures)
        done, unread = _kept(file, form, paths)
        header = "" if file.file.tell() else form.header
        for answer in predict(paths, done, unread):
            file.add(header + form.line(answer))
            header = ""
        file.file.close()
        if out.suffix == ".parquet":
            _to_parquet(file.path, out, table)
            file.path.unlink()
        else:
            os.replace(file.path, out)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over the files that make a model what it is."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _kept(file: Growing, form: Csv | JsonLines, paths: Iterator[str]) -> tuple[int, int]:
    """How many rows are there already, and how many of these are of files that could not be read.

    Takes as many of the paths. Raises UsageError for rows that are damaged or of other paths.
    """
    lines, done, unread = file.kept(), 0, 0
    begin = f"remove the folder {plain(file.path.parent)} to begin anew"
    if form.header and next(lines, form.header) != form.header:
        raise UsageError(f"{plain(file.path)} has a damaged header: {begin}")
    for line in lines:
        done += 1
        try:
            path, good = form.read(line)
        except ValueError:
            raise UsageError(f"row {done} of {plain(file.path)} is damaged: {begin}") from None
        if path != form.path(now := next(paths, "")):
            now = f"is now {plain(now)}" if now else "is not there any more"
            raise UsageError(
                f"the images have changed since {plain(file.path)}: image {done}, {plain(path)}, {now}; {begin}"
            )
        unread += not good
    return done, unread


def _to_parquet(lines: Path, out: Path, table: Table) -> None:
    """Write the rows of a CSV file as Parquet, a few at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in table.columns.items()])
    with written(out) as new, pq.ParquetWriter(new, schema) as writer, lines.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)  # the header
        while some := list(islice(rows, ROWS)):
            columns = zip(zip(*some, strict=True), schema, table.columns.values(), strict=True)
            found = [pa.array([kind(v) if v else None for v in values], one.type) for values, one, kind in columns]
            writer.write_batch(pa.record_batch(found, schema=schema))
