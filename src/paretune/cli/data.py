"""`paretune data`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.errors import plain

app = typer.Typer(help="Check data sets before you train on them, and convert them to another form.",
                  no_args_is_help=True)  # fmt: skip


@app.command()
def verify(
    path: Annotated[str, typer.Argument(help="Data of any form that --data takes, or the folder of VTAB-1K's tasks.")],
    as_json: options.AsJson = False,
) -> None:
    """Read every image and report the content and its problems: exit code 0 if the data are sound, 1 if not.

    Reports missing, damaged and duplicate images, images in two splits, wrong counts of well-known sets, lossy JPEG or
    lossless pixels, sizes, and a hash of the content. Exit code 2: the data were not found.
    """
    from paretune.data.verify import verify, verify_vtab
    from paretune.data.vtab import task_folders

    if task_folders(Path(path)):
        reports = verify_vtab(path)
        sound = all(report is not None and report.sound for report in reports.values())
        found = {name: report and report.to_dict() for name, report in reports.items()}
        answer({"sound": sound, "tasks": found}, as_json, lambda: _say_tasks(path, reports))
    else:
        report = verify(path)
        sound = report.sound
        answer(report.to_dict(), as_json, lambda: _say(report))
    if not sound:
        raise typer.Exit(1)


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="Data of any form that --data takes.")],
    dest: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[str, typer.Option(help="shards, or folder: one folder per class.")],
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    size: Annotated[
        int | None, typer.Option(min=1, help="Shrink images until the shorter side has this many pixels.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="png or jpg (quality 95); unchanged by default.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write data as tar shards, which webdataset can read too, or as a folder of class folders.

    Without --size and --format, files are copied byte for byte. DEST appears only at the end, when it is complete.
    """
    from paretune.data.convert import convert

    counts = convert(src, dest, to, shard_size=shard_size, size=size, format=format_)
    said = ", ".join(f"{count:,} images of {split}" for split, count in counts.items())
    answer({"out": str(dest), "images": counts}, as_json, lambda: say(f"{said} in {plain(dest)}"))


def _say(report) -> None:
    answers = f"{report.task}, {len(report.classes)} {_columns(report)}" if report.task else "nothing that can be read"
    say(f"{plain(report.path)}: {report.layout}, {answers}")
    rows = [(part.name, f"{part.images:,}", *_extremes(part.balance), part.content_hash[:16]) for part in report.splits]
    table("", ("split", "images", "smallest class", "largest class", "content hash"), rows)
    say(_look(report))
    say(f"content hash {report.content_hash}")
    _tell("remark", report.remarks)
    _tell("problem", report.problems)
    say(_state(report))


def _say_tasks(path: str, reports: dict) -> None:
    table(
        f"tasks in {plain(path)}",
        ("task", "train800", "val200", "test", "classes", "files", "content hash", "state"),
        [_task_row(name, report) for name, report in reports.items()],
    )
    for name, report in reports.items():
        _tell(name, () if report is None else (*report.remarks, *report.problems))
    missing = [name for name, report in reports.items() if report is None]
    if missing:
        say(f"missing: {', '.join(missing)}")


def _task_row(name: str, report) -> tuple[str, ...]:
    if report is None:
        return (name, *["-"] * 6, "missing")
    counts = {part.name: f"{part.images:,}" for part in report.splits}
    return (name, *(counts.get(split, "-") for split in ("train", "val", "test")), str(len(report.classes)),
            _files(report), report.content_hash[:16], _state(report))  # fmt: skip


def _state(report) -> str:
    return "sound" if report.sound else f"problems: {len(report.problems)}"


def _columns(report) -> str:
    return {"multilabel": "labels", "regression": "numbers"}.get(report.task, "classes")


def _extremes(balance: dict) -> tuple[str, str]:
    """The smallest and the largest class with its number of images; empty for a regression."""
    counts = balance.get("per_class")
    if not counts:
        return "-", "-"
    ends = min(counts, key=counts.get), max(counts, key=counts.get)
    smallest, largest = (f"{plain(name)} ({counts[name]:,})" for name in ends)
    return smallest, largest


def _look(report) -> str:
    if report.sizes is None:
        return "no readable images"
    (w, h), (wide, high) = report.sizes
    size = f"{w} x {h}" if (w, h) == (wide, high) else f"{w} x {h} to {wide} x {high}"
    return f"{_files(report)}; {size} pixels"


def _files(report) -> str:
    """Such as "lossy: JPEG, quality 75"."""
    if report.lossy is None:
        return "-"
    if report.jpeg_quality is None:
        return f"{report.lossy}: {', '.join(report.formats)}"
    low, middle, high = report.jpeg_quality
    quality = str(middle) if low == high else f"{low} to {high}, half of them up to {middle}"
    return f"{report.lossy}: {', '.join(report.formats)}, quality {quality}"


def _tell(what: str, sentences) -> None:
    for sentence in sentences:
        say(f"{what}: {sentence}")
