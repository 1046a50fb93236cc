"""The sources of a report: run folders, bench files, ledgers, old demo results. One function each reads them as rows.

A new kind of file is one reader and one line in `KINDS`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paretune import formats
from paretune.checkpoint import TENSORS, read_config
from paretune.errors import UsageError
from paretune.ledger.compare import compare
from paretune.ledger.entries import ledger_entries
from paretune.ledger.text import provenance
from paretune.methods import Methods
from paretune.schema import parse, read, read_text, verify
from paretune.show.columns import SCORES
from paretune.timing.result import check_version
from paretune.train.runfolder import RECORD

AGAIN = "write it again"


@dataclass(frozen=True)
class Row:
    """One method in one setting.

    name: as the report calls it; recipe: as the source calls it
    figures {column: value}: see `columns.COLUMNS`; what is missing was not measured
    scored: on what its score was measured; scores with another `scored` or `data` (a fingerprint) do not compare
    tested: on how many images it was measured; 0 if it is a mean over data sets, or none
    identity: backbone, image size, adapters and reducer as JSON text; None where the source does not say
    tokens: (in attention, in the MLP) of every block, prefix included
    origin: the folder or file that it was read from, and the one that its times come from if that is another
    error: why something is missing
    """

    name: str
    recipe: str
    figures: dict[str, float]
    batch: int | None = None
    scored: str = ""
    tested: int = 0
    data: str = ""
    identity: str | None = None
    tokens: tuple[tuple[int, int], ...] = ()
    origin: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Source:
    """A folder or file: its kind, its rows, `facts` (name, value) on when, where and how it came about, its JSON."""

    path: Path
    kind: str
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...]
    content: dict = field(default_factory=dict)


def read_source(path: str | Path) -> Source:
    """A run folder, bench file, ledger (.jsonl) or demo's result. Raises UsageError, by name, for anything else."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"'{path}' does not exist: give run folders, JSON files of `paretune bench --json`, ledgers")
    if path.suffix == LEDGER:
        kind, content = "ledger", {}
    else:
        content = read_config(path) if path.is_dir() else parse(read_text(path, AGAIN), str(path), AGAIN)
        kind = "run" if path.is_dir() else kind_of(path, content)
    try:
        found = KINDS[kind](path, content)
        return replace(found, rows=tuple(replace(row, origin=(str(path),)) for row in found.rows))
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        raise UsageError(f"{path} looks like a {kind}, but lacks or misstates {problem}; write it again") from problem


def read_sources(paths: Sequence[str | Path]) -> list[Source]:
    """All sources in order, with distinct names. Raises UsageError for a path given twice or of none of the `KINDS`."""
    names = [str(Path(path)) for path in paths]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise UsageError(f"{twice[0]} is named twice: give every folder and file once")
    return told_apart([read_source(path) for path in paths])


def told_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources with the path in names that rows of several of them have, and the fingerprint in data that differ.

    What a bench timed of a trained method keeps its name: it becomes one row with the run's.
    """
    trained, homes, data = identities(sources), defaultdict(set), defaultdict(set)
    for source in sources:
        for row in source.rows:
            data[row.scored].add(row.data)
            if source.kind == "run" or row.identity not in trained:
                homes[row.name].add(source.path)

    def apart(row: Row) -> Row:
        name = f"{row.name} ({row.origin[0]})" if len(homes[row.name]) > 1 else row.name
        scored = f"{row.scored} [{row.data[:8]}]" if row.scored and len(data[row.scored]) > 1 else row.scored
        return replace(row, name=name, scored=scored)

    return [replace(source, rows=tuple(map(apart, source.rows))) for source in sources]


def identities(sources: Sequence[Source]) -> set[str]:
    """What the runs among the sources have trained."""
    return {row.identity for source in sources if source.kind == "run" for row in source.rows if row.identity}


def kind_of(path: Path, content: Any) -> str:
    """Which of `KINDS` a JSON file is. Raises UsageError for none of them."""
    if isinstance(content, dict):
        if content.get("kind") in KINDS:
            return content["kind"]
        if {"pixels", "columns", "rows", "epochs"} <= content.keys():  # the demo's result names no kind
            return "demo"
    raise UsageError(
        f"{path} is nothing that a report is made from: give folders of `paretune train`, files of "
        "`paretune bench --json`, ledgers of `paretune suite`, `demo` and `ablate`"
    )


def read_run(folder: Path, config: dict) -> Source:
    """A folder that `paretune train` or `paretune.save` wrote; what only the model itself tells is added later."""
    record = read(folder / RECORD, formats.RECORD, "train again") if (folder / RECORD).exists() else {}
    figures: dict[str, float] = {"file_bytes": (folder / TENSORS).stat().st_size} if (folder / TENSORS).exists() else {}
    scored, data, tested = "", "", 0
    if score := next((score for score in SCORES if record.get(f"best_val_{score}") is not None), None):
        figures[score] = record[f"best_val_{score}"]
        val = record["data"]["val"]
        data, tested = str(val.get("fingerprint", "")), val["images"]
        scored = f"{val['images']:,} validation images of {named(val)}"
    name = record.get("recipe") or folder.resolve().name
    who = identity(config["base_model_name_or_path"], config["preprocessing"]["input_size"][1:], config)
    row = Row(name, name, figures, scored=scored, tested=tested, data=data, identity=who)
    return Source(folder, "run", (row,), tuple(_run_facts(config, record)), config)


def _run_facts(config: dict, record: dict):
    yield "backbone", str(config["base_model_name_or_path"] or "a module")
    if not record:
        yield "training", f"unknown: the folder has no {RECORD}"
        return
    schedule, data = record["schedule"], record["data"]
    if record.get("set"):
        yield "settings", " ".join(record["set"])
    yield "training", f"{data['train']['images']:,} images of {named(data['train'])}, seed {record['seed']}"
    yield "schedule", ", ".join(f"{key.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else
                                f"{key} {value}" for key, value in schedule.items())  # fmt: skip
    yield "best epoch", f"{record['best_epoch']} of {schedule['epochs']}, after {record['seconds']:.0f} s in all"
    yield "machine", machine(record["environment"])


def read_bench(path: Path, content: dict) -> Source:
    """A file that `paretune bench --json` wrote."""
    check_version(path, content)
    verify(content, formats.BENCH, str(path))
    rows = tuple(_bench_row(content, row) for row in content["rows"])
    height, width = content["image_size"]
    flags = [name for name in ("compile", "merged") if content.get(name)]
    facts = (
        ("date", str(content["date"])),
        (
            "backbone",
            f"{content['model']} at {height} x {width}, {content['dtype']}" + "".join(f", {f}" for f in flags),
        ),
        ("baseline", f"{content['baseline']}: ratios are to this row at the same batch size"),
        ("rounds", f"{content['rounds']}" + ("" if content["complete"] else ", interrupted")),
        ("machine", machine(content["machine"])),
    )
    return Source(path, "bench", rows, facts, content)


def _bench_row(content: dict, row: dict) -> Row:
    cost, memory = row["cost"], row.get("memory") or {}
    forward, step = row.get("forward") or {}, row.get("step") or {}
    figures = {
        "macs_ratio": row["macs_ratio"],
        "ms_per_image": forward.get("ms_per_image"),
        "wall_ratio": forward.get("ratio"),
        "wall_per_macs": row["wall_per_macs"],
        "step_ms": step.get("ms_per_image"),
        "step_ratio": step.get("ratio"),
        **{key: memory.get(key) for key in
           ("saved_bytes", "saved_ratio", "peak_rss", "cuda_peak_forward", "cuda_peak_step")},
    }  # fmt: skip
    return Row(
        row["recipe"],
        row["recipe"],
        known(costs(cost) | figures),
        batch=row["batch"],
        identity=identity(content["model"], content["image_size"], row["settings"]),
        tokens=tuple(map(tuple, cost["tokens"])),
        error=row.get("error") or "",
    )


def read_demo(path: Path, content: dict) -> Source:
    """The result.json that `paretune demo` wrote before it wrote a ledger."""
    verify(content, formats.DEMO, str(path))
    images = content["images"]
    scored = f"{images['test']:,} test images of the demo's digits"
    keys = ("trained", "trained_without_head", "file_bytes", "macs", "accuracy")
    rows = []
    for row in content["rows"]:
        figures = {key: row[key] for key in keys} | {"ms_per_image": 1e3 / row["images_per_second"]}
        name, data = row["method"], f"demo, seed {content['seed']}"
        rows.append(Row(name, name, known(figures), batch=64, scored=scored, tested=images["test"], data=data))
    facts = (
        (
            "training",
            f"{images['train']:,} images of the demo's digits, seed {content['seed']}, {content['epochs']} epochs",
        ),
        ("times", "best of three passes, batches of 64, one method after the other"),
        ("machine", machine(content["environment"])),
    )
    return Source(path, "demo", tuple(rows), facts, content)


def read_ledger(path: Path, content: dict) -> Source:
    """A ledger of results: a row per recipe, with the flat mean over its tasks as accuracy. Raises UsageError where
    its protocols differ, as `paretune compare` does."""
    found = compare(ledger_entries(path))
    first = found.rows[0].entry.results[0]
    several = f"{len(found.groups)} tasks of {first.suite}, flat mean"
    scored = several if len(found.groups) > 1 else f"{first.task} of {first.suite}"
    terms = {term: sorted(values) for term, values in found.rows[0].entry.terms.items()}
    data = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()
    rows = []
    for row in found.rows:
        entry, means = row.entry, row.means
        figures = {"trained_without_head": entry.trained, "macs": entry.macs, "tokens": entry.tokens}
        figures |= {"accuracy": means.flat.mean, "group_mean": means.group.mean}
        rows.append(Row(entry.name, entry.recipe, known(figures), scored=scored, data=data))
    facts = [*provenance(found), *(("note", note) for note in (*found.traps, *found.notes))]
    return Source(path, "ledger", tuple(rows), tuple(facts), content)


KINDS = {"run": read_run, "bench": read_bench, "demo": read_demo, "ledger": read_ledger}
LEDGER = ".jsonl"  # the suffix of ledgers, whose content is no JSON object


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
