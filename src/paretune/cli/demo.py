"""`paretune demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.counts import MMACS
from paretune.errors import UsageError


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trained adapters, the table and the picture.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, max=options.MOST_SEED, help="Seed of the data and of training.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, max=10**6, help="Epochs per method; 10 by default.")] = None,
    images: Annotated[Path | None, typer.Option(help="Only write the demo's images into this new folder.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare the methods on real handwritten digits in drawn clutter, with the embedded backbone and no network.

    Writes table.md, result.json and merged.png, a picture of which patches share a token.
    """
    try:
        from paretune.demo import EPOCHS, demo
        from paretune.drawn.digit_sets import write_digits

        if images is not None:
            counts = write_digits(images, seed)
            text = f"{counts['train']} images in {images}/train, {counts['test']} in {images}/test"
            return answer(counts, as_json, lambda: say(text))
        result = demo(out, seed, epochs or EPOCHS, tell=lambda line: say(line, err=True))
    except ImportError as error:
        if "paretune[demo]" not in str(error):
            raise
        raise UsageError(str(error)) from error
    write(result, out)
    return answer(result, as_json, lambda: _say(result, out))


def write(result: dict, out: Path) -> None:
    """Write result.json and table.md into `out`."""
    from paretune.files import write_json, written

    write_json(out / "result.json", result)
    with written(out / "table.md") as new:
        new.write_text(_markdown(result), encoding="utf-8")


def _cells(row: dict) -> list[str]:
    before, after = row["tokens"]
    return [
        row["method"],
        f"{before} to {after}" if row["reduced"] else str(before),
        f"{row['accuracy']:.1%}",
        f"{row['trained']:,}",
        f"{row['file_bytes'] / 1000:.0f}",
        MMACS.write(row["macs"]),
        f"{row['train_seconds']:.1f}",
        f"{row['images_per_second']:.0f}",
    ]


def _baseline(result: dict) -> list[str]:
    plain, drawn = result["pixels"]["plain"], result["pixels"]["drawn"]
    return [
        f"logistic regression on pixels: {plain:.1%} on the plain scans, {drawn:.1%} on the demo's images of them",
        f"guessing: 10%; every method below trained {result['epochs']} epochs on {result['images']['train']} images, "
        f"seed {result['seed']}, {result['environment']['cores']} cores",
    ]


def _legend(result: dict) -> list[str]:
    return [f"{name}: {meaning}" for name, meaning in result["columns"].items()]


def _say(result: dict, out: Path) -> None:
    say("\n".join(_baseline(result)))
    table("", list(result["columns"]), map(_cells, result["rows"]))
    say("\n".join(_legend(result)))
    say(f"\n{result['seconds']:.0f} s in all; {out}/merged.png shows which patches share a token")


def _markdown(result: dict) -> str:
    head = list(result["columns"])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(_cells, result["rows"])]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([*_baseline(result), grid, "\n".join(f"- {line}" for line in _legend(result))]) + "\n"
