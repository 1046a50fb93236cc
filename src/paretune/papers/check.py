"""Compare the published tables of both papers with what paretune computes now."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretune import formats
from paretune.errors import UsageError
from paretune.papers import tables as published
from paretune.papers.computed import Workshop
from paretune.papers.means import Mean, means
from paretune.papers.tables import PrintedMean, PublishedTable
from paretune.papers.verdict import ACCURACY, CANNOT, VERDICTS, Finding, judge
from paretune.schema import read, verify
from paretune.timing.result import check_version

ROW = {"batch", "settings", "forward", "step", "memory"}  # of a bench file


@dataclass(frozen=True)
class Checked:
    """A table with a finding for each of its numbers."""

    key: str
    title: str
    arxiv: str
    findings: tuple[Finding, ...]
    means: tuple[Mean, ...]

    def counts(self) -> dict[str, int]:
        """The number of findings per verdict."""
        return {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in VERDICTS}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"counts": self.counts()}


def tables() -> list[str]:
    """The keys of all tables, such as "fpet-1"."""
    return list(published.tables())


def check(key: str, bench: dict[str, Any] | None = None, workshop: Workshop | None = None) -> Checked:
    """Compare a table with what paretune computes now.

    bench: the JSON of `paretune bench`, for ratios of times; workshop: keeps computed results for other tables.
    Raises UsageError for an unknown table.
    """
    return check_table(published.table(key), bench, workshop or Workshop())


def check_table(table: PublishedTable, bench: dict[str, Any] | None, workshop: Workshop) -> Checked:
    """The same as `check`, for a table that is already read."""
    found = [judge(number, table.heads, bench, workshop) for number in table.numbers]
    found += [_accuracy(mean) for mean in table.means]
    return Checked(table.key, table.title, table.arxiv, tuple(found), tuple(map(means, table.means)))


def _accuracy(mean: PrintedMean) -> Finding:
    why = f"Needs the weights and the data ({mean.label})."
    return Finding(mean.row, mean.label, ACCURACY, "", f"{mean.printed} %", "", "", CANNOT, "", why)


def read_bench(path: Path) -> dict[str, Any]:
    """The JSON that `paretune bench --json` wrote. Raises UsageError if the file is something else."""
    found = read(path, advice="give a file that `paretune bench --json` wrote")
    rows = found.get("rows") if found.get("kind") == "bench" else None
    whole = isinstance(rows, list) and rows and all(isinstance(row, dict) and row.keys() >= ROW for row in rows)
    if not whole or "model" not in found or "machine" not in found:
        raise UsageError(f"'{path}' has no measurements: give a file that `paretune bench --json` wrote")
    check_version(path, found)
    verify(found, formats.BENCH, str(path))
    return found
