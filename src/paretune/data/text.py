"""Lists and labels in text and JSON files that anyone may have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from paretune.errors import UsageError, plain, quoted

LIST_BYTES = 1 << 28  # 256 MiB: more than the list of any data set


def read_text(file: Path) -> str:
    """The content of a text file in UTF-8. Raises UsageError where it is none, not there, or too long."""
    if not file.is_file():
        raise UsageError(f"there is no {plain(file)}")
    if file.stat().st_size > LIST_BYTES:
        raise UsageError(f"{plain(file)} has more than {LIST_BYTES >> 20} MiB: no list of images is so long")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{plain(file)} is not in UTF-8: {problem.reason} at byte {problem.start:,}") from None


def read_json(file: Path) -> object:
    """The value in a JSON file. Raises UsageError where it is none."""
    return parsed(file, read_text(file))


def read_entries(file: Path, expected: str, good: Callable[[object], bool]) -> dict:
    """The object in a JSON file, not empty, whose values are all `good`. Raises UsageError for another one."""
    content = read_json(file)
    if not isinstance(content, dict) or not content or not all(map(good, content.values())):
        raise UsageError(f"{plain(file)}: expected {expected}, found {quoted(content)}")
    return content


def parsed(name: object, text: str) -> object:
    """The value of a JSON text, which `name` says the place of. Raises UsageError where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UsageError(f"{plain(name)} is no JSON that can be read: too deep") from None
    except ValueError as problem:  # a number of thousands of digits is one too
        raise UsageError(f"{plain(name)} is no JSON that can be read: {plain(problem)}") from None
