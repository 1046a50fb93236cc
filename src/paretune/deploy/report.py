"""The report beside an artefact: export.json, and the same as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from paretune.deploy.clock import ARTEFACT, TORCH, UNREDUCED
from paretune.deploy.description import Description
from paretune.deploy.parity import LIMITS, Agreement, to_json
from paretune.timing.table import digits

VERSION = 1


@dataclass(frozen=True)
class Report:
    """What was written, and how it compares with torch.

    facts: the description inside the artefact; rows: the checks; failures: what is beyond the limits, in words
    precision: what the runtime says that it computes in; pictures: which ones the checks used
    times: {batch: {side: times}}; empty if nothing was timed
    sensitivities: {layer: relative change of the outputs with 8 bits in this layer alone}
    lint: operations that the target computes wrong; bytes: of the artefact's files; environment: the machine
    """

    facts: Description
    rows: tuple[Agreement, ...]
    failures: tuple[str, ...]
    precision: str
    pictures: dict[str, Any]
    times: dict[str, dict[str, dict]]
    sensitivities: dict[str, float]
    lint: tuple[str, ...]
    bytes: int
    environment: dict[str, Any]

    @property
    def verdict(self) -> str:
        """ "passed" or "failed"."""
        return self.facts.verdict

    @property
    def ratio_macs(self) -> float | None:
        """How the time of the artefact compares with the same without its reducer, at the largest timed batch."""
        if not self.times or UNREDUCED not in (last := self.times[max(self.times, key=int)]):
            return None
        return last[ARTEFACT]["median"] / last[UNREDUCED]["median"]

    def to_json(self) -> dict[str, Any]:
        """The content of export.json."""
        largest, least = LIMITS[self.facts.dtype]
        return {
            "kind": "export",
            "version": VERSION,
            "verdict": self.verdict,
            "failures": list(self.failures),
            "limits": {"largest_error": largest, "smallest_agreement": least},
            "artefact": asdict(self.facts),
            "precision": self.precision,
            "bytes": self.bytes,
            "pictures": self.pictures,
            "parity": to_json(self.rows),
            "times": self.times,
            "sensitivities": self.sensitivities,
            "lint": list(self.lint),
            "environment": self.environment,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        facts = self.facts
        yield Text(
            f"{facts.runtime}, {facts.dtype} (the runtime computes in {self.precision}), {self.bytes / 1e6:,.1f} MB, "
            f"batch {facts.batch[0]} to {facts.batch[1]}"
        )
        if facts.kept_fp32:
            yield Text(f"float32 in {len(facts.kept_fp32)} of the blocks' layers: {', '.join(facts.kept_fp32)}")
        yield Text(f"checked on {self.pictures['images']} pictures, {self.pictures['source']}")
        yield self._parity()
        if self.times:
            yield self._times()
        yield Text("\n".join([self.verdict, *self.failures]), style="bold" if self.failures else "")

    def _parity(self) -> Table:
        grid = Table(box=box.SIMPLE_HEAD, title="against torch in float32", title_justify="left")
        grid.add_column("images")
        for name in ("batch", "number", "max error", "p99 error", "same answer", "same groups", "same patches"):
            grid.add_column(name, justify="right")
        for row in self.rows:
            shares = (row.agreement, row.same_groups, row.same_patches)
            grid.add_row(
                row.pictures, str(row.batch), f"{row.images:,}", f"{row.max_error:.1e}", f"{row.p99_error:.1e}",
                *(f"{share:.1%}" for share in shares),
            )  # fmt: skip
        return grid

    def _times(self) -> Table:
        grid = Table(box=box.SIMPLE_HEAD, title=f"ms per image, {self.environment['threads']} threads",
                     title_justify="left")  # fmt: skip
        grid.add_column("batch", justify="right")
        names = [name for name in (ARTEFACT, UNREDUCED, TORCH) if name in next(iter(self.times.values()))]
        for name in (*names, "speed-up over torch"):
            grid.add_column(name, justify="right")
        for size, sides in self.times.items():
            shown = [digits(sides[name]["ms_per_image"]) for name in names]
            grid.add_row(size, *shown, f"{1 / sides[ARTEFACT]['ratio']:.2f}x")
        return grid
