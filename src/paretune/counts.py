"""How multiply-accumulates are written: one rule for every table, picture and page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class MacUnit(NamedTuple):
    """A unit of multiply-accumulates: what columns call it, how many make one, and how many decimals are shown."""

    name: str
    size: int
    decimals: int

    @property
    def meaning(self) -> str:
        """What the name stands for."""
        many = {10**9: "thousand million", 10**6: "million"}[self.size]
        return f"{many} multiply-accumulates per image"

    def write(self, macs: float) -> str:
        """17_560_000_000 -> "17.56" in GMACs, "17,560.0" in MMACs. Below one it has three significant digits."""
        value = macs / self.size
        decimals = 2 - math.floor(math.log10(value)) if 0 < value < 1 else self.decimals
        return f"{value:,.{decimals}f}"


GMACS, MMACS = MacUnit("GMACs", 10**9, 2), MacUnit("MMACs", 10**6, 1)
PARTS = MacUnit("MMACs", 10**6, 2)  # of parts of a model, which can be a thousandth of the whole


def mac_unit(counts: Iterable[float | None]) -> MacUnit:
    """The unit for models that stand side by side: MMACs if all of them are below 10^9, else GMACs; None is skipped."""
    known = [count for count in counts if count is not None]
    return MMACS if known and max(known) < GMACS.size else GMACS
