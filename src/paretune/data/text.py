"""Read lists and labels from text and JSON files of unknown origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from paretune.errors import UsageError, plain, quoted

LIST_BYTES = 1 << 28  # limit, 256 MiB: the list of any data set is shorter


def read_text(file: Path) -> str:
    """The content of a text file. Raises UsageError if it is missing, too long, or not in UTF-8."""
    if not file.is_file():
        raise UsageError(f"there is no {plain(file)}")
    if file.stat().st_size > LIST_BYTES:
        raise UsageError(f"{plain(file)} has more than {LIST_BYTES >> 20} MiB, so it is not a list of images")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{plain(file)} is not in UTF-8: {problem.reason} at byte {problem.start:,}") from None


def read_json(file: Path) -> object:
    """The value in a JSON file. Raises UsageError if it is not valid JSON."""
    return parsed(file, read_text(file))


def read_entries(file: Path, expected: str, good: Callable[[object], bool]) -> dict:
    """The object in a JSON file. Raises UsageError unless it is not empty and all of its values are `good`."""
    content = read_json(file)
    if not isinstance(content, dict) or not content or not all(map(good, content.values())):
        raise UsageError(f"{plain(file)}: expected {expected}, found {quoted(content)}")
    return content


def parsed(name: object, text: str) -> object:
    """The value of a JSON text; name: its place, for errors. Raises UsageError if it is not valid JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UsageError(f"{plain(name)} is not valid JSON: nested too deep") from None
    except ValueError as problem:  # also for a number with thousands of digits
        raise UsageError(f"{plain(name)} is not valid JSON: {plain(problem)}") from None
