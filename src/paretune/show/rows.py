"""What a report is made of: sources, and their rows. What readers of several kinds share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from paretune.errors import UsageError
from paretune.methods import Methods


@dataclass(frozen=True)
class Row:
    """One method in one setting.

    name: as the report calls it; recipe: as the source calls it
    figures {column: value}: see `columns.COLUMNS`; what is missing was not measured
    scored: on what its score was measured; scores with another `scored` or `data` (a fingerprint) do not compare
    intervals {figure: (low, high)}: of 95 %, where it can be said: over the `tested` images, over seeds if that is 0
    identity: backbone, image size, adapters and reducer as JSON text; None where the source does not say
    tokens: (in attention, in the MLP) of every block, prefix included
    machine: where it was trained; seconds of training compare only on one machine
    origin: the folder or file that it was read from, and the one that its times come from if that is another
    error: why something is missing
    """

    name: str
    recipe: str
    figures: dict[str, float]
    batch: int | None = None
    scored: str = ""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    tested: int = 0
    data: str = ""
    identity: str | None = None
    tokens: tuple[tuple[int, int], ...] = ()
    machine: str = ""
    origin: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Source:
    """A folder or file: its kind, its rows, `facts` (name, value) on when, where and how it came about, its JSON.

    settings {name: value}: of a training, for people; history: its epochs, each with epoch, train_loss, val_loss and a
    val_SCORE where it was validated; kept: the epoch whose weights the folder holds, 0 if unknown
    """

    path: Path
    kind: str
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...]
    content: dict = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    history: tuple[dict, ...] = ()
    kept: int = 0


def costs(cost: dict) -> dict[str, float]:
    """The figures in `Cost.to_dict()`."""
    figures = {key: cost[key] for key in ("trained", "trained_without_head", "macs")}
    return figures | {"tokens": cost["tokens"][-1][1]}


def known(figures: dict[str, float | None]) -> dict[str, float]:
    """The figures that were measured."""
    return {key: value for key, value in figures.items() if value is not None}


def identity(model: str | None, image_size: list[int], settings: dict | None) -> str | None:
    """What a row is, equal for equal backbones, image sizes and methods, whatever older files leave to defaults; None
    where that cannot be said."""
    if model is None or settings is None:
        return None
    try:
        return json.dumps([model, list(image_size), Methods.from_json(settings).to_json()])
    except UsageError:  # a method that this paretune does not know
        return None


def named(data: dict) -> str:
    """The name of a data set in a training record."""
    return str(data.get("name") or Path(data.get("path", "unnamed data")).name)


def machine(environment: dict) -> str:
    """One line on a machine and its software."""
    name = environment.get("name") or environment.get("device_name")
    versions = [f"{key} {environment[key]}" for key in ("python", "torch", "timm", "paretune") if environment.get(key)]
    cores = f"{environment['threads']} of {environment['cores']} cores"
    return ", ".join([f"{name} ({environment['device']})", cores, str(environment["platform"]), *versions])
