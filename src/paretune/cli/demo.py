"""`paretune demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, interruptible, say, table
from paretune.counts import MMACS
from paretune.errors import UsageError

_OUT, _OUT_REAL = Path("demo"), Path("demo-real")


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the trainings, the ledger, the table and the picture; by default demo, or demo-real."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=options.MOST_SEED, help="Seed of the data and of training.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Epochs per method; 10 by default, 5 with --real.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Only write the demo's images into this new folder.")] = None,
    real: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The same with DINOv2-S on photographs of textile, in the folder that `make real` made.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare the methods on real handwritten digits in drawn clutter, with the embedded backbone and no network.

    Writes ledger.jsonl, table.md and merged.png, a picture of which patches share a token. The same command again goes
    on where it was.
    """
    if real is not None and images is not None:
        raise UsageError("--images writes the drawn digits, --real trains on photographs: leave one of them out")
    try:
        from paretune.demo import demo, planned
        from paretune.demo import real as on_photographs
        from paretune.drawn.digit_sets import write_digits

        if images is not None:
            counts = write_digits(images, seed)
            text = f"{counts['train']} images in {images}/train, {counts['test']} in {images}/test"
            return answer(counts, as_json, lambda: say(text))
        out = out or (_OUT if real is None else _OUT_REAL)
        plan = planned(out, seed, epochs) if real is None else on_photographs(real, out, seed, epochs)
        with interruptible(lambda: f"the same command goes on with the trainings in {out}"):
            found = demo(plan, lambda line: say(line, err=True))
    except ImportError as error:
        if "paretune[demo]" not in str(error):
            raise
        raise UsageError(str(error)) from error
    write(found, out)
    return answer(found, as_json, lambda: _say(found, out))


def write(found: dict, out: Path) -> None:
    """table.md in `out`."""
    from paretune.files import written

    with written(out / "table.md") as new:
        new.write_text(_markdown(found), encoding="utf-8")


def _cells(row: dict) -> list[str]:
    measured, cost = row["measured"], row["cost"]
    before, after = measured["tokens"]
    return [
        row["recipe"],
        f"{before} to {after}" if row["settings"]["reducer"] else str(before),
        f"{row['test']:.1%}",
        f"{cost['trained']:,}",
        f"{measured['file_bytes'] / 1000:.0f}",
        MMACS.write(cost["macs"]),
        f"{row['seconds']:.1f}",
        f"{measured['images_per_second']:.0f}",
    ]


def _baseline(found: dict) -> list[str]:
    pixels, row = found["pixels"], found["rows"][0]
    epochs, images, cores = row["protocol"]["schedule"]["epochs"], row["data"]["images"], row["environment"]["cores"]
    trained = (
        f"every method below trained {epochs} epochs on {images['train']} images, seed {row['seed']}, {cores} cores"
    )
    if pixels is None:
        return [f"{row['task']}: {images['test']:,} photographs to test on; {trained}"]
    return [
        f"logistic regression on pixels: {pixels['plain']:.1%} on the plain scans, {pixels['drawn']:.1%} on the demo's "
        "images of them",
        f"guessing: 10%; {trained}",
    ]


def _columns() -> tuple[list[str], list[str]]:
    """The names of the columns, and a line on each."""
    from paretune.demo import COLUMNS

    return list(COLUMNS), [f"{name}: {meaning}" for name, meaning in COLUMNS.items()]


def _say(found: dict, out: Path) -> None:
    head, legend = _columns()
    say("\n".join(_baseline(found)))
    table("", head, map(_cells, found["rows"]))
    say("\n".join(legend))
    say(
        f"\n{found['seconds']:.0f} s in all; {out}/merged.png shows which patches share a token, "
        f"`paretune compare {found['ledger']}` compares the methods"
    )


def _markdown(found: dict) -> str:
    head, legend = _columns()
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(_cells, found["rows"])]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([*_baseline(found), grid, "\n".join(f"- {line}" for line in legend)]) + "\n"
