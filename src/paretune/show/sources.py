"""The sources of a report: run folders, bench files, ledgers, old demo results. One function each reads them as rows.

A new kind of file is one reader and one line in `KINDS`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune import formats
from paretune.checkpoint import read_config
from paretune.errors import UsageError
from paretune.ledger.averages import Estimate
from paretune.ledger.compare import compare
from paretune.ledger.entries import Entry, ledger_entries
from paretune.ledger.text import provenance
from paretune.schema import parse, read_text, verify
from paretune.show.rows import Row, Source, costs, identity, known, machine
from paretune.show.runs import read_run
from paretune.timing.result import check_version
from paretune.training.metrics import interval

AGAIN = "write it again"


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
        "`paretune bench --json`, export.json of `paretune export`, ledgers of `paretune suite`, `demo` and `ablate`"
    )


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
        sure = {"accuracy": interval(row["accuracy"], images["test"])}
        rows.append(
            Row(name, name, known(figures), batch=64, scored=scored, intervals=sure, tested=images["test"], data=data)
        )
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
        sure, images = over_seeds({"accuracy": means.flat, "group_mean": means.group}), _tested(entry)
        sure = {"accuracy": interval(means.flat.mean, images)} if images else sure
        about = {"scored": scored, "intervals": sure, "tested": images, "data": data}
        rows.append(Row(entry.name, entry.recipe, known(figures), **about))
    facts = [*provenance(found), *(("note", note) for note in (*found.traps, *found.notes))]
    return Source(path, "ledger", tuple(rows), tuple(facts), content)


def over_seeds(estimates: dict[str, Estimate]) -> dict[str, tuple[float, float]]:
    """The intervals of means over seeds; none for those of a single seed."""
    return {key: (one.mean - one.half, one.mean + one.half) for key, one in estimates.items() if one.half is not None}


def _tested(entry: Entry) -> int:
    """On how many images an entry of a single result was measured; 0 if that is not said."""
    images = entry.results[0].data.get("images")
    count = images.get("test") if isinstance(images, dict) and len(entry.results) == 1 else None
    return count if isinstance(count, int) else 0


def read_export(path: Path, content: dict) -> Source:
    """The report beside an artefact: a row for every batch size that was timed, or one if none was."""
    verify(content, formats.EXPORT, str(path))
    facts, rows = content["artefact"], [row for row in content["parity"] if row["pictures"] == "pictures"]
    name = f"{facts['runtime']} {facts['dtype']}"
    shares = {key: min((row[key] for row in rows), default=None) for key in ("agreement", "same_patches")}
    figures = {**shares, "artefact_bytes": content["bytes"], "tokens": facts["tokens"][-1][1]}
    same = identity(facts["backbone"], facts["preprocessing"]["input_size"][1:], facts["methods"])
    plain = Row(name, name, known(figures), identity=same, tokens=tuple(map(tuple, facts["tokens"])),
                error="; ".join(content["failures"]))  # fmt: skip
    timed = {int(size): sides["artefact"]["ms_per_image"] for size, sides in content["times"].items()}
    found = [replace(plain, batch=size, figures=plain.figures | {"ms_per_image": ms}) for size, ms in timed.items()]
    about = (
        ("check", f"{content['verdict']}, on {content['pictures']['images']} pictures {content['pictures']['source']}"),
        ("precision", f"the runtime says {content['precision']}"),
        ("machine", machine(content["environment"])),
    )
    return Source(path, "export", tuple(found) or (plain,), about, content)


KINDS = {"run": read_run, "bench": read_bench, "export": read_export, "demo": read_demo, "ledger": read_ledger}
LEDGER = ".jsonl"  # the suffix of ledgers, whose content is no JSON object
