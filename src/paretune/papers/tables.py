"""The published tables as data: the numbers of both papers for parameters, multiply-accumulates, memory and time.

A file `published/*.json` contains one paper: its tables with columns and rows as printed. Every row also has either the
setting that paretune runs for it, in the JSON of its config files, or the reason why there is none. A cell is written
as in the paper: "13.3", or "13.3 (-24.4%)" if the paper also prints the change to another row.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files

from paretune.errors import unknown
from paretune.methods import Methods

UNITS = {"M": 10**6, "G": 10**9}  # units of counts; measured quantities keep the unit of the paper
MEASURED = ("training memory", "inference memory", "training time", "inference time", "throughput")
CELL = re.compile(r"([+-]?[\d.]+)?\s*(?:\(([+-][\d.]+)%\))?")


@dataclass(frozen=True)
class Setting:
    """The setting that paretune runs: a timm name, and adapters and reducer as `config.from_json` reads them."""

    backbone: str
    adapters: tuple[dict, ...]
    reducer: dict | None

    @property
    def methods(self) -> Methods:
        """Adapters and reducer. Raises UsageError for a method that paretune does not have."""
        return Methods.from_json({"adapters": self.adapters, "reducer": self.reducer})

    def key(self) -> str:
        """A string that is equal for equal settings."""
        return json.dumps([self.backbone, self.adapters, self.reducer], sort_keys=True)


@dataclass(frozen=True)
class Printed:
    """A printed number of a row, and the setting that computes it.

    setting: None if paretune cannot run the row; `reason` says why
    against: the number of another row that this one is compared with, or None
    change: the printed difference to `against` in percent; base: what the printed value is a difference to
    """

    row: str
    column: str
    quantity: str
    unit: str
    value: str | None
    setting: Setting | None
    reason: str = ""
    note: str = ""
    batch: int | None = None
    against: Printed | None = None
    change: str | None = None
    base: str | None = None


@dataclass(frozen=True)
class PrintedMean:
    """A printed mean accuracy, and the numbers of the same row that were averaged; None if they are missing."""

    row: str
    label: str
    printed: str
    of: tuple[float, ...] | None
    reason: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    heads: {name: numbers of classes} of the heads that its parameter counts may include
    settings: the setting that paretune runs for a row; accuracies: those of a row, or the differences to the first row
    """

    key: str
    title: str
    arxiv: str
    heads: dict[str, tuple[int, ...]]
    settings: dict[str, Setting]
    accuracies: dict[str, tuple[float, ...]]
    numbers: tuple[Printed, ...]
    means: tuple[PrintedMean, ...]


@cache
def tables() -> dict[str, PublishedTable]:
    """All tables by their keys, such as "sparse-tuning-III" or "fpet-1", in the order of the papers."""
    found = {}
    for path in sorted((files("paretune") / "papers" / "published").iterdir(), key=lambda path: path.name):
        paper = json.loads(path.read_text(encoding="utf-8"))
        for described in paper["tables"]:
            one = read_table(described, paper)
            found[one.key] = one
    return found


def table(key: str) -> PublishedTable:
    """A table by its key, in upper or lower case. Raises UsageError for an unknown key, with suggestions."""
    by_lower = {name.lower(): name for name in tables()}
    if key.lower() not in by_lower:
        raise unknown("table", key, list(tables()))
    return tables()[by_lower[key.lower()]]


def read_table(described: dict, paper: dict) -> PublishedTable:
    """The table that a paper's JSON describes."""
    columns, rows = described["columns"], described["rows"]
    backbone = described.get("backbone", paper["backbone"])
    settings = {row["row"]: _setting(row, backbone) for row in rows if row["setting"]}
    cells = [
        (row, column, _number(row, column, columns[column], _setting(row, backbone) if row["setting"] else None))
        for row in rows
        for column in row["values"]
    ]
    # A row may occur more than once, each time with its own setting and compared with another row. Other rows refer to
    # its first occurrence.
    named: dict[tuple[str, str], Printed] = {}
    for row, column, number in cells:
        named.setdefault((row["row"], column), number)
    numbers = []
    for row, column, number in cells:
        against = row.get("against", columns[column].get("against"))
        held = against is not None and against != row["row"]
        numbers += _split(replace(number, against=named[against, column] if held else None))
    return PublishedTable(
        key=f"{paper['key']}-{described['name']}",
        title=described["title"],
        arxiv=paper["arxiv"],
        heads={name: tuple(paper["heads"][name]) for name in described.get("heads", [])},
        settings=settings,
        accuracies={row["row"]: tuple(row["accuracies"]) for row in rows if "accuracies" in row},
        numbers=tuple(numbers),
        means=tuple(_mean(row["row"], mean) for row in rows for mean in row.get("means", [])),
    )


def _setting(row: dict, backbone: str) -> Setting:
    described = row["setting"]
    return Setting(row.get("backbone", backbone), tuple(described["adapters"]), described["reducer"])


def _number(row: dict, column: str, about: dict, setting: Setting | None) -> Printed:
    cell = CELL.fullmatch(row["values"][column])
    assert cell is not None, "a cell is a number, a change in percent, or both"
    value, change = cell.groups()
    return Printed(
        row=row["row"],
        column=column,
        quantity=about["quantity"],
        unit=about["unit"],
        value=value,
        setting=None if "reason" in about else setting,
        reason=about.get("reason", row.get("reason", "")),
        note=row.get("notes", {}).get(column, ""),
        batch=about.get("batch"),
        change=change,
        base=about.get("base"),
    )


def _split(number: Printed) -> list[Printed]:
    """The numbers of a cell: value and change of a count; a measured quantity is only compared as a ratio."""
    if number.quantity in MEASURED:
        return [number]
    alone = [replace(number, against=None, change=None)] if number.value is not None else []
    return alone + ([replace(number, value=None)] if number.change is not None else [])


def _mean(row: str, described: dict) -> PrintedMean:
    of = described["of"]
    return PrintedMean(
        row, described["label"], described["printed"], None if of is None else tuple(of), described.get("reason", "")
    )


def spread(printed: str) -> tuple[Decimal, Decimal]:
    """The smallest and the largest number that round to the printed one, ties in either direction; "0" is exact."""
    value = Decimal(printed)
    if printed == "0":
        return value, value
    half = Decimal(5).scaleb(-decimals(printed) - 1)
    return value - half, value + half


def decimals(printed: str) -> int:
    """The number of digits after the decimal point."""
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int), "only infinity and NaN have another type"
    return -exponent
