"""Whether a reducer pays off: it must be faster than the same adapters with all tokens, not only save MACs."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.timing.rounds import times
from paretune.timing.row import Row


def unpaid(rows: Sequence[Row], baseline: str) -> list[str]:
    """A sentence for every reducer whose forward is not faster in three of four rounds than the same adapters with all
    tokens, or, if these were not measured, than the baseline."""
    return [sentence for row in rows if (sentence := _unpaid(row, rows, baseline))]


def _unpaid(row: Row, rows: Sequence[Row], baseline: str) -> str:
    if row.forward is None or not row.settings or not row.settings["reducer"]:
        return ""
    adapters = row.settings["adapters"]
    beside = [one for one in rows if one.batch == row.batch and one.forward is not None and one is not row]
    whole = [one for one in beside if one.settings and not one.settings["reducer"]]
    same = [one for one in whole if one.settings and one.settings["adapters"] == adapters]
    other = next(iter(same or [one for one in beside if one.recipe == baseline]), None)
    if other is None or other.forward is None:
        return ""
    paired = times(row.forward.seconds, row.batch, other.forward.seconds)
    if paired.ratio is None or paired.ratio_quartiles is None or paired.ratio_quartiles[1] < 1:
        return ""
    low, high = paired.ratio_quartiles
    return (
        f"{row.recipe}, batch {row.batch}: the reducer does not pay here: {paired.ratio:.2f} of the time of "
        f"{other.recipe} (quartiles {low:.2f}-{high:.2f}) at {row.cost.macs / other.cost.macs:.2f} of its "
        "multiply-accumulates; try larger images or batches, `--merge`, or fewer and stronger reductions"
    )
