"""Verdicts on printed numbers: reproduced, differs, or cannot be reproduced.

    reproduced              a way of counting ("reading") rounds to the printed digits; the verdict names it
    differs                 no reading does; the verdict shows the nearest one and the difference
    cannot be reproduced    paretune does not have the method, or the number is seconds or bytes on another machine

Memory and time are never compared directly, only the ratio of two rows of one table. The ratio is reproduced if it is
within 5 % of the printed one, because machines differ more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from paretune.errors import UsageError
from paretune.methods import absent
from paretune.papers.computed import MAC_READINGS, WEIGHTS_ONLY, Workshop
from paretune.papers.tables import MEASURED, UNITS, Printed, Setting, decimals, spread

REPRODUCED, DIFFERS, CANNOT = "reproduced", "differs", "cannot be reproduced"
VERDICTS = (REPRODUCED, DIFFERS, CANNOT)
ACCURACY = "accuracy"  # a quantity that is never computed here
TOLERANCE = Fraction(5, 100)  # for a ratio of memories or times
BATCH = 64  # for memory, if the paper does not state the batch size
ON_THEIR_GPU = {
    "inference memory": "GB on their GPU; pass --bench with a file measured on a GPU to compare ratios",
    "training time": "seconds on their GPU; pass --bench to compare ratios",
    "inference time": "seconds on their GPU; pass --bench to compare ratios",
    "throughput": "images/s on their GPU; pass --bench to compare ratios",
}


@dataclass(frozen=True)
class Finding:
    """A printed number, our number, and the verdict.

    column: as printed; to: the other row of a ratio or difference, or ""
    printed, ours, difference: texts with units; how: the reading; why: the reason why a number is not reproduced, and
    errors of the printed number itself
    """

    row: str
    column: str
    quantity: str
    to: str
    printed: str
    ours: str
    difference: str
    verdict: str
    how: str
    why: str


def judge(
    number: Printed, heads: dict[str, tuple[int, ...]], bench: dict[str, Any] | None, workshop: Workshop
) -> Finding:
    """The verdict on one printed number."""
    setting = number.setting
    if setting is None:
        return _cannot(number, number.reason)
    if missing := absent(setting.adapters, setting.reducer):
        return _cannot(number, f"paretune has no {' and no '.join(missing)}")
    try:
        if number.quantity in MEASURED:
            return _judge_ratio(number, bench, workshop)
        if number.quantity == "parameters":
            return _judge_count(number, workshop.parameters(setting, heads))
        if number.against is not None:
            return _judge_change(number, setting, workshop)
        return _judge_count(number, _macs(setting, workshop))
    except UsageError as error:
        return _cannot(number, str(error))


def _macs(setting: Setting, workshop: Workshop) -> Iterator[tuple[str, Fraction]]:
    for reading in MAC_READINGS:
        yield str(reading), Fraction(workshop.macs(setting, reading))


def _judge_count(number: Printed, readings: Iterable[tuple[str, Fraction]]) -> Finding:
    assert number.value is not None, "a count has a printed value"
    scaled = ((name, count / UNITS[number.unit]) for name, count in readings)
    how, ours, fits = best(number.value, scaled)
    return _found(number, f"{number.value} {number.unit}", how, ours, number.value, fits, number.unit)


def _judge_change(number: Printed, setting: Setting, workshop: Workshop) -> Finding:
    """A difference of multiply-accumulates in percent, from our counts, and from our counts rounded as in the paper."""
    readings, against = [], number.against
    if number.change is None or against is None or against.setting is None or against.value is None:
        return _cannot(number, "the number that this is a change to is missing")
    settings, digits = (setting, against.setting), decimals(against.value)
    for reading in MAC_READINGS:
        one, other = (Fraction(workshop.macs(each, reading), UNITS[number.unit]) for each in settings)
        readings.append((str(reading), 100 * (one / other - 1)))
        readings.append((f"{reading}, from rounded counts", 100 * (round(one, digits) / round(other, digits) - 1)))
    how, ours, fits = best(number.change, readings)
    return _found(number, f"{number.change} %", how, ours, number.change, fits, "%")


def best(printed: str, readings: Iterable[tuple[str, Fraction]]) -> tuple[str, Fraction, bool]:
    """The first reading that rounds to the printed digits, or else the nearest: its name, its value, whether it fits.

    Papers hardly ever count weights without biases, so this reading is never the nearest.
    """
    low, high = map(Fraction, spread(printed))
    nearest = None
    for name, value in readings:
        if low <= value <= high:
            return name, value, True
        off = abs(value - Fraction(printed))
        if name != WEIGHTS_ONLY and (nearest is None or off < abs(nearest[1] - Fraction(printed))):
            nearest = name, value
    assert nearest is not None, "there is another reading than weights without biases"
    return (*nearest, False)


def _found(number: Printed, shown: str, how: str, ours: Fraction, printed: str, fits: bool, unit: str) -> Finding:
    digits = decimals(printed) + 1
    return Finding(
        row=number.row,
        column=number.column,
        quantity=number.quantity,
        to=_to(number),
        printed=shown,
        ours=f"{float(ours):.{digits}f} {unit}",
        difference="" if fits else f"{float(ours - Fraction(printed)):+.{digits}f}",
        verdict=REPRODUCED if fits else DIFFERS,
        how=how,
        why=_sentences(number.note, contradiction(number)),
    )


def _cannot(number: Printed, reason: str) -> Finding:
    value = f"{number.value} {number.unit}" if number.value else ""
    change = f"{number.change} %" if number.change else ""
    shown = f"{value} ({change})" if value and change else value or change
    why = _sentences(reason, number.note, contradiction(number))
    return Finding(number.row, number.column, number.quantity, _to(number), shown, "", "", CANNOT, "", why)


def _to(number: Printed) -> str:
    return "" if number.against is None else number.against.row


def _sentences(*parts: str) -> str:
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def _judge_ratio(number: Printed, bench: dict[str, Any] | None, workshop: Workshop) -> Finding:
    """A ratio of memories or times of two rows."""
    setting, against = number.setting, number.against
    if setting is None or against is None:
        return _cannot(
            number, "only ratios can be compared, and this is the row that the ratios of this table refer to"
        )
    if against.setting is None:
        return _cannot(number, against.reason)
    printed = printed_ratio(number)
    readings = _ratios(number, (setting, against.setting), bench, workshop)
    if not readings:
        lacking = f"the bench file has no {number.quantity} of this row or of {against.row}"
        return _cannot(number, ON_THEIR_GPU[number.quantity] if bench is None else lacking)
    nearest = min(readings, key=lambda reading: abs(reading[1] - printed))
    how, ours = next((reading for reading in readings if within(reading[1], printed)), nearest)
    shown = f"{float(printed):.2f}"
    return _found(number, f"{shown} x", how, ours, shown, within(ours, printed), "x")


def _ratios(
    number: Printed, settings: tuple[Setting, Setting], bench: dict[str, Any] | None, workshop: Workshop
) -> list[tuple[str, Fraction]]:
    """The memory or time of this row divided by that of the other row, for every reading."""
    if bench is not None and (timed := workshop.timed(bench, *settings, number.quantity, number.batch)):
        return [timed]
    if number.quantity != "training memory":
        return []
    one, other = (workshop.memory(setting, number.batch or BATCH) for setting in settings)
    return [(name, Fraction(one[name], other[name])) for name in one]


def within(ours: Fraction, printed: Fraction) -> bool:
    """Whether a ratio is within the tolerance for different machines."""
    return abs(ours / printed - 1) <= TOLERANCE


def printed_ratio(number: Printed) -> Fraction:
    """The printed ratio of this row to the other row."""
    if number.change is not None:
        return 1 + Fraction(number.change) / 100
    base, other = Fraction(number.base or 0), None if number.against is None else number.against.value
    assert number.value is not None, "the number has a change or a value"
    assert other is not None, "a ratio needs the number of the other row"
    return (base + Fraction(number.value)) / (base + Fraction(other))


def contradiction(number: Printed) -> str:
    """A sentence if a printed change does not follow from the two printed numbers, whatever their rounding. Else ""."""
    if number.change is None or number.against is None or number.value is None or number.against.value is None:
        return ""
    (low, high), (from_low, from_high) = spread(number.value), spread(number.against.value)
    least, greatest = spread(number.change)
    if 100 * (low / from_high - 1) <= greatest and least <= 100 * (high / from_low - 1):
        return ""
    given = 100 * (Decimal(number.value) / Decimal(number.against.value) - 1)
    return f"{number.change} % is printed, but {number.value} is {given:+.1f} % of {number.against.value}."
