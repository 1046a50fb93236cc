"""A comparison as text: tables for the terminal, and the same as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from paretune.counts import mac_unit
from paretune.ledger.averages import CONFIDENCE, Estimate
from paretune.ledger.compare import Compared, Comparison
from paretune.ledger.remarks import machines, seeds

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header and rows
UNLIKE = " !"  # after the name of a row whose protocol differs from the baseline's
NONE = "-"
NAMED = ("name", "train", "selection", "grid", "epoch", "test_used", "schedule", "preprocessing")  # of a protocol


def overview(found: Comparison) -> Table:
    """A row per recipe: cost, means of the groups, both means with intervals, differences to the baseline."""
    groups = list(dict.fromkeys(found.groups.values()))
    unit = mac_unit(row.entry.macs for row in found.rows)
    header = ["recipe", "trained", unit.name, "tokens", *(groups if len(groups) > 1 else ())]
    header += ["flat mean ± CI", "group mean ± CI"]
    if len(found.rows) > 1:
        header += [f"flat minus {found.baseline}", f"group minus {found.baseline}", "better/equal/worse"]
    rows: list[tuple[str, ...]] = []
    for row in found.rows:
        macs = NONE if row.entry.macs is None else unit.write(row.entry.macs)
        cells = [_name(row), _count(row.entry.trained), macs, _count(row.entry.tokens)]
        cells += [f"{100 * row.means.groups[group].mean:.2f}" for group in groups if len(groups) > 1]
        cells += [_percent(row.means.flat), _percent(row.means.group)]
        if len(found.rows) > 1:
            cells += _apart(row)
        rows.append((*cells, f"{len(seeds(row.entry)) or '?'} x {len(found.groups)}"))
    return (*header, "seeds x tasks"), rows


def _name(row: Compared) -> str:
    return row.entry.name + UNLIKE * row.unlike


def _count(number: int | None) -> str:
    return NONE if number is None else f"{number:,}"


def _percent(score: Estimate, sign: str = "") -> str:
    """A share in percent or points: "91.30 ± 0.42"."""
    half = "" if score.half is None else f" ± {100 * score.half:.2f}"
    return f"{100 * score.mean:{sign}.2f}{half}"


def _apart(row: Compared) -> list[str]:
    if row.difference is None:
        return [NONE] * 3
    apart = row.difference
    return [_percent(apart.flat, "+"), _percent(apart.group, "+"), "/".join(map(str, apart.record))]


def by_task(found: Comparison) -> Table:
    """A row per task, a column per recipe."""
    rows: list[tuple[str, ...]] = [
        (task, group, *(_percent(row.means.tasks[task]) for row in found.rows)) for task, group in found.groups.items()
    ]
    return ("task", "group", *map(_name, found.rows)), rows


def title(found: Comparison) -> str:
    """The meaning of the numbers."""
    metrics = {row.metric for one in found.rows for row in one.entry.results} or {"accuracy"}
    return f"{' and '.join(sorted(metrics))} in %, differences in points; ± {CONFIDENCE:.0%} interval over seeds"


def warnings(found: Comparison) -> list[str]:
    """All sentences, the most important first."""
    loud = [f"PROTOCOLS DIFFER: {sentence}" for sentence in found.differences]
    if any(row.unlike for row in found.rows):
        loud.append(f"rows with{UNLIKE} were trained, tuned or tested unlike {found.baseline}: their ranks mean little")
    return loud + [f"trap, {sentence}" for sentence in found.traps] + [f"note: {sentence}" for sentence in found.notes]


def markdown(found: Comparison, tasks: bool, command: str) -> str:
    """The page: the tables, the origin of the numbers, and every warning. `command`: the command that made it."""
    parts = ["# Results", f"Written by `{command}`.", f"{title(found).capitalize()}."]
    parts.append(_grid(*overview(found), words=1))
    if tasks:
        parts.append(_grid(*by_task(found), words=2))
    if said := warnings(found):
        parts.append("\n".join(f"- {sentence}." for sentence in said))
    if facts := provenance(found):
        parts.append("## How they came about\n\n" + "\n".join(f"- **{name}**: {fact}." for name, fact in facts))
    return "\n\n".join(parts) + "\n"


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    rule = ["---" if i < words else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def provenance(found: Comparison) -> list[tuple[str, str]]:
    """Names and sentences on protocols, backbones, seeds, numbers of trainings, dates and machines of own results."""
    entries = [row.entry for row in found.rows]
    results = [row for entry in entries for row in entry.results]
    if not results:
        return []
    tuned = {(entry.name, row.task): len(row.candidates) for entry in entries for row in entry.results}
    dates = sorted({row.date for row in results})
    trainings = f"{len(results)} results in {sum(row.seconds for row in results) / 3600:.1f} h"
    trainings += f", their settings chosen among {sum(tuned.values())} candidates" if any(tuned.values()) else ""
    return [
        *(("protocol", words) for words in dict.fromkeys(protocol_in_words(row.protocol) for row in results)),
        ("backbone", "; ".join(sorted({f"{r.backbone['name']}, {r.backbone['fingerprint'][:12]}" for r in results}))),
        ("seeds", " ".join(map(str, sorted({row.seed for row in results})))),
        ("trainings", trainings),
        ("dates", " to ".join(dict.fromkeys((dates[0], dates[-1])))),
        ("machines", "; ".join(machines(entries))),
    ]


def protocol_in_words(protocol: dict[str, Any]) -> str:
    """A protocol on one line, with all of its settings."""
    rest = {key: value for key, value in protocol.items() if key not in NAMED}
    chooser = protocol["selection"]
    parts = [
        f"{protocol['name']}: trained on {protocol['train']}",
        "nothing is chosen" if chooser == "none" else f"chosen on {chooser} from {_values(protocol['grid'])}",
        f"epoch: {protocol['epoch']}",
        f"test used {protocol['test_used']}",
        *map(_values, (rest, protocol["schedule"], protocol["preprocessing"])),
    ]
    return "; ".join(part for part in parts if part)


def _values(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_values(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_values, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
