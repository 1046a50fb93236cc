"""Checks for JSON that is read from a file. They run before anything is built from it.

A check is a function (value, name) -> sentences that say what is wrong with the value. Checks can be combined:

    CONFIG = record(needed={"format": one_of(2), "rank": whole(1, 64)}, optional={"note": text()})
    config = read(path, CONFIG, "save the model again")

Whatever the check, a file is refused if it is too large, nested too deep, or contains numbers that are not finite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paretune.errors import UsageError, quoted

Check = Callable[[Any, str], Iterator[str]]

MOST_BYTES = 256 * 2**20  # size limit of a file; the largest one written is a record with all class names and epochs
DEEPEST = 40  # nesting limit of lists and objects
LARGEST = 2**64  # limit of whole numbers: paretune writes none that does not fit into 64 bits
TOLD = 5  # number of problems of one file that an error lists


def read(path: Path, check: Check | None = None, advice: str = "write it again") -> dict:
    """The JSON object in the file `path`. Raises UsageError, with `advice`, if it is not a JSON object or not valid."""
    value = parse(read_text(path, advice), str(path), advice)
    verify(value, check or an_object, str(path), advice)
    return value


def read_text(path: Path, advice: str) -> str:
    """The text of a JSON file. Raises UsageError if it is not a regular file, too large, or not UTF-8."""
    if not path.is_file():
        raise UsageError(f"{path} is missing or not a regular file; {advice}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise UsageError(f"{path} has {size:,} bytes; the limit is {MOST_BYTES:,}; {advice}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid JSON: it is not text in UTF-8; {advice}") from error


def parse(text: str, where: str, advice: str = "write it again") -> Any:
    """The value of a JSON text. Raises UsageError, which begins with `where`, if it is not valid or breaks a limit."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UsageError(f"{where} is nested too deep, more than {DEEPEST} levels; {advice}") from error
    except ValueError as error:  # also for an integer with more digits than Python reads
        raise UsageError(f"{where} is not valid JSON ({str(error)[:100]}); {advice}") from error
    if problem := _unsound(value):
        raise UsageError(f"{where} {problem}; {advice}")
    return value


def verify(value: Any, check: Check, where: str, advice: str = "write it again") -> None:
    """Raise UsageError, which begins with `where` and lists up to five problems, if `value` does not pass the check."""
    problems = []
    for problem in check(value, ""):
        problems.append(problem)
        if len(problems) > TOLD:
            problems[TOLD:] = ["and more"]
            break
    if problems:
        raise UsageError(f"{where} has missing or wrong entries: {'; '.join(problems)}; {advice}")


def _unsound(value: Any) -> str:
    """The limit that `value` breaks, or "". Works without recursion, which a deeply nested value would exhaust."""
    level, depth = [value], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            return f"is nested too deep, more than {DEEPEST} levels"
        inner = []
        for one in level:
            if isinstance(one, float) and not math.isfinite(one):
                return f"holds {one}, which is not a finite number"
            if isinstance(one, int) and abs(one) >= LARGEST:
                return "holds a whole number of more than 64 bits"
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        level = inner
    return ""


# ------------------------------------------------------------------------------------------------ checks of one value


def anything(value: Any, name: str) -> Iterator[str]:
    """Accepts every value."""
    yield from ()


def an_object(value: Any, name: str) -> Iterator[str]:
    """A JSON object."""
    if not isinstance(value, dict):
        yield _wrong(name, value, "an object")


def text(most: int = 1000, like: str = "", least: int = 0) -> Check:
    """A text of `least` to `most` characters. All of it must match the regular expression `like`, if there is one."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, str) or not least <= len(value) <= most:
            yield _wrong(name, value, f"a text of {least} to {most:,} characters")
        elif any("\ud800" <= c <= "\udfff" for c in value):
            yield _wrong(name, value, "text without surrogates")
        elif like and not re.fullmatch(like, value):
            yield _wrong(name, value, f"a text that matches {like}")

    return check


def whole(least: int, most: int) -> Check:
    """A whole number in a range."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            yield _wrong(name, value, f"a whole number from {least:,} to {most:,}")

    return check


def number(least: float = -math.inf, most: float = math.inf, above: bool = False) -> Check:
    """A finite number in a range; above=True excludes the lowest value."""

    def check(value: Any, name: str) -> Iterator[str]:
        inside = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not inside or not least <= value <= most or (above and value == least):
            yield _wrong(name, value, f"a number {'above' if above else 'from'} {least:g} to {most:g}")

    return check


def flag(value: Any, name: str) -> Iterator[str]:
    """true or false."""
    if not isinstance(value, bool):
        yield _wrong(name, value, "true or false")


def one_of(*choices: Any) -> Check:
    """One of some values, of the same type."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            yield _wrong(name, value, " or ".join(map(str, choices)))

    return check


def maybe(inner: Check) -> Check:
    """null, or a value that `inner` accepts."""
    return lambda value, name: iter(()) if value is None else inner(value, name)


def either(*options: Check) -> Check:
    """A value that any of the checks accepts; the problems reported are those of the first check."""

    def check(value: Any, name: str) -> Iterator[str]:
        if all(any(True for _ in option(value, name)) for option in options):
            yield from options[0](value, name)

    return check


def array(inner: Check, least: int = 0, most: int = 10_000) -> Check:
    """A list of `least` to `most` values, each of which `inner` accepts."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            said = least if least == most else f"{least:,} to {most:,}"
            yield _wrong(name, value, f"a list of {said} values")
            return
        for i, one in enumerate(value):
            yield from inner(one, f"{name}[{i}]")

    return check


def table(inner: Check, most: int = 10_000, key: Check | None = None) -> Check:
    """An object with any names that `key` accepts and with values that `inner` accepts."""
    key = key or text()

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, dict) or len(value) > most:
            yield _wrong(name, value, f"an object of at most {most:,} entries")
            return
        for entry, one in value.items():
            yield from key(entry, f"a name in {name or 'it'}")
            yield from inner(one, _join(name, entry))

    return check


def record(needed: dict[str, Check], optional: dict[str, Check] | None = None, others: Check | None = None) -> Check:
    """An object with all `needed` and any `optional` entries; `others` checks further entries, None forbids them."""
    optional = optional or {}

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield _wrong(name, value, "an object")
            return
        yield from (f"{_join(name, entry)} is missing" for entry in needed if entry not in value)
        for entry, one in value.items():
            inner = needed.get(entry) or optional.get(entry) or others
            if inner is None:
                yield f"{_join(name, quoted(entry))} is unknown"
            else:
                yield from inner(one, _join(name, entry))

    return check


def _join(name: str, entry: str) -> str:
    return f"{name}.{entry}" if name else entry


def _wrong(name: str, value: Any, wanted: str) -> str:
    return f"{name or 'it'} is {quoted(value)}, but must be {wanted}"
