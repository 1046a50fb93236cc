"""`paretune predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say


def predict(
    out: options.Saved,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Number of classes per image, 5 by default; for labels all above 50 % by default."),
    ] = None,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Predict the most likely classes of each image, or its labels or numbers if the model was trained for these."""
    from paretune.checkpoint import load
    from paretune.train.predict import predict

    model = load(out)
    found = predict(model, images, top, batch_size, device)
    entry, spoken = _ANSWERS[model.task]
    value = {"predictions": [{"path": path, **entry(best)} for path, best in found]}
    answer(value, as_json, lambda: [say(f"{path}: {spoken(best)}") for path, best in found])


def _classes(best: list[tuple[str, float]]) -> dict:
    return {"classes": [{"class": name, "probability": p} for name, p in best]}


def _labels(best: list[tuple[str, float]]) -> dict:
    return {"labels": [{"label": name, "probability": p} for name, p in best]}


def _numbers(values: list[tuple[str, float]]) -> dict:
    return {"numbers": dict(values)}


def _shares(best: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {p:.1%}" for name, p in best) or "no label above 50 %"


def _units(values: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values)


_ANSWERS = {"multiclass": (_classes, _shares), "multilabel": (_labels, _shares), "regression": (_numbers, _units)}
