"""`paretune predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer


def predict(
    out: options.Saved,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes per image.")] = 5,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """The most likely classes of each image."""
    from paretune.checkpoint import load
    from paretune.train.predict import predict

    found = predict(load(out), images, top, batch_size, device)
    answer({"predictions": [_entry(path, best) for path, best in found]}, as_json, lambda: _say(found))


def _entry(path: str, best: list[tuple[str, float]]) -> dict:
    return {"path": path, "classes": [{"class": name, "probability": p} for name, p in best]}


def _say(found: list) -> None:
    for path, best in found:
        typer.echo(f"{path}: " + ", ".join(f"{name} {p:.1%}" for name, p in best))
