"""A folder of `paretune train` as a source of a report: its score, its settings, its epochs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from paretune import formats
from paretune.checkpoint import TENSORS
from paretune.errors import UsageError
from paretune.methods import Methods
from paretune.schema import read
from paretune.show.columns import SCORES
from paretune.show.rows import Row, Source, identity, machine, named
from paretune.training.log import duration
from paretune.training.metrics import interval
from paretune.training.runfolder import RECORD

# Of the record, in this order: what is settled beside recipe, data and schedule, as it is called in the report.
SETTLED = {
    "seed": "seed", "choose": "kept epoch by", "patience": "patience", "mixed_precision": "mixed precision",
    "memory": "memory", "accumulate": "batches per update", "processes": "processes",
}  # fmt: skip


def read_run(folder: Path, config: dict) -> Source:
    """A folder that `paretune train` or `paretune.save` wrote; what only the model itself tells is added later."""
    record = read(folder / RECORD, formats.RECORD, "train again") if (folder / RECORD).exists() else {}
    figures: dict[str, float] = {"file_bytes": (folder / TENSORS).stat().st_size} if (folder / TENSORS).exists() else {}
    scored, data, intervals, tested, where = "", "", {}, 0, ""
    if score := next((score for score in SCORES if record.get(f"best_val_{score}") is not None), None):
        figures[score] = record[f"best_val_{score}"]
        val = record["data"]["val"]
        data, scored = str(val.get("fingerprint", "")), f"{val['images']:,} validation images of {named(val)}"
        if score == "accuracy":
            tested, intervals = val["images"], {score: interval(figures[score], val["images"])}
    if record:
        figures["seconds"], where = record["seconds"], machine(record["environment"])
    name = record.get("recipe") or folder.resolve().name
    who = identity(config["base_model_name_or_path"], config["preprocessing"]["input_size"][1:], config)
    row = Row(
        name, name, figures, scored=scored, intervals=intervals, tested=tested, data=data, identity=who, machine=where
    )
    return Source(
        folder, "run", (row,), tuple(_facts(record)), config,
        settings=dict(_settings(config, record)),
        history=tuple(record.get("history", ())), kept=record.get("best_epoch", 0),
    )  # fmt: skip


def _facts(record: dict) -> Iterator[tuple[str, str]]:
    if not record:
        yield "training", f"unknown: the folder has no {RECORD}"
        return
    data, epochs = record["data"], len(record.get("history", ())) or record["schedule"]["epochs"]
    yield "training", f"{data['train']['images']:,} images of {named(data['train'])}, seed {record['seed']}"
    yield "best epoch", f"{record['best_epoch']} of {epochs}, after {duration(record['seconds'])} in all"
    if isinstance(chosen := record.get("chosen"), dict) and isinstance(chosen.get("why"), str):
        yield "chosen", chosen["why"]
    yield "machine", machine(record["environment"])


def _settings(config: dict, record: dict) -> Iterator[tuple[str, str]]:
    """What was set, in the order of a forward: backbone, picture, methods, schedule, the rest."""
    seen = config["preprocessing"]
    yield "backbone", str(config["base_model_name_or_path"] or "a module")
    yield "input", " x ".join(str(side) for side in seen["input_size"][1:]) + " pixels"
    yield (
        "cropping",
        f"{seen['crop_mode']}, {seen['crop_pct']:g} of the picture"
        if seen["crop_mode"] != "squash"
        else ("none: the whole picture, squashed"),
    )
    yield "interpolation", seen["interpolation"]
    yield "mean, std", "; ".join(" ".join(f"{value:.3g}" for value in seen[key]) for key in ("mean", "std"))
    if record.get("recipe"):
        yield "recipe", " ".join([record["recipe"], *record.get("set", ())])
    yield "adapters", " + ".join(spoken(one) for one in config["adapters"]) or "none"
    yield "reducer", "none" if config["reducer"] is None else spoken(config["reducer"], "reducer")
    for key, value in record.get("schedule", {}).items():
        yield key.replace("_", " "), written(value)
    yield from ((name, written(record[key])) for key, name in SETTLED.items() if record.get(key) is not None)


def spoken(described: dict, role: str = "adapter") -> str:
    """A method in JSON as one writes it in Python, without what is left to its defaults; role: adapter, reducer."""
    alone = {"adapters": [described] if role == "adapter" else [], "reducer": described if role == "reducer" else None}
    try:
        methods = Methods.from_json(alone)
        usual = _defaults(methods.reducer or methods.adapters[0])
    except UsageError:  # a method that this paretune does not know: all that is said of it
        usual = {}
    given = {key: value for key, value in described.items() if key != "kind"}
    said = [f"{key}={written(value)}" for key, value in given.items() if key not in usual or usual[key] != value]
    return f"{described['kind']}({', '.join(said)})" if said else described["kind"]


def _defaults(config: Any) -> dict[str, Any]:
    """The defaults of a method's settings, as JSON has them."""
    found = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def written(value: object) -> str:
    """A setting's value for people."""
    if isinstance(value, bool) or not isinstance(value, (int, float, list, tuple)):
        return str(value)
    return f"{value:g}" if isinstance(value, (int, float)) else "(" + ", ".join(map(written, value)) + ")"
