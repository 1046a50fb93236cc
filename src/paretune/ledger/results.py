"""The ledger of results: a file with one JSON object per line, to which any number of processes may append.

A line is the result of one recipe on one task with one seed. It contains everything that decides whether it can be
compared with another one: data hashes, the images used for choosing, normalisation, protocol, backbone, versions, cost.
`Result` lists the keys of a line. Lines are added and never changed; another result needs another protocol.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from paretune import formats
from paretune.errors import UsageError, quoted
from paretune.files import locked
from paretune.schema import MOST_BYTES, parse, verify

KIND, VERSION = "result", 1
LOSSY = ("lossless", "lossy", "mixed", "unknown")
NUMBER = (int, float)
# Every key that a line must have, and its type; "a.b" is the key b of the object at a.
NEEDED: dict[str, Any] = {
    "suite": str, "task": str, "group": str, "recipe": str, "seed": int, "metric": str, "test": NUMBER,
    "val": (*NUMBER, type(None)), "chosen": dict, "candidates": list, "seconds": NUMBER, "date": str,
    "settings.adapters": list, "settings.reducer": (dict, type(None)), "settings.schedule": dict,
    "backbone.name": (str, type(None)), "backbone.source": str, "backbone.fingerprint": str,
    "protocol.name": str, "protocol.train": str, "protocol.selection": str, "protocol.grid": dict,
    "protocol.epoch": str, "protocol.test_used": str, "protocol.schedule": dict,
    "protocol.preprocessing.mean": list, "protocol.preprocessing.std": list,
    "data.train": str, "data.val": str, "data.test": str, "data.images": dict, "data.lossy": str,
    "cost.trained": int, "cost.trained_without_head": int, "cost.macs": int, "cost.tokens_last": int,
    "environment": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A line of a ledger.

    group: the group of the task, such as "natural"; test, val: the metric, a share of 0 to 1
    settings {adapters, reducer, schedule}: the trained setting, in the JSON of config files, with the chosen values
    chosen, candidates: the tuned values, and every value that was tried, with its score
    backbone {name, source, options, fingerprint}; protocol {name, train, selection, grid, epoch, test_used, schedule,
    preprocessing ...}; data {train, val, test: content hashes; images: counts; lossy: lossless | lossy | mixed |
    unknown}
    cost {trained, trained_without_head, macs of an image, tokens_last}; seconds: duration of the training
    line: its line number in the file, from 1
    """

    suite: str
    task: str
    group: str
    recipe: str
    settings: dict
    seed: int
    metric: str
    test: float
    val: float | None
    chosen: dict
    candidates: list
    backbone: dict
    protocol: dict
    data: dict
    cost: dict
    seconds: float
    environment: dict
    date: str
    line: int


def key(row: dict) -> str:
    """A key that is equal for rows of the same experiment; it is known before the experiment is run.

    row: suite, task, recipe, seed, settings {adapters, reducer}, backbone, protocol and data {train, val, test}, as in
    a line of the ledger; other entries, such as tuned values, are ignored.
    """
    settings, data = row["settings"], row["data"]
    asked = [row[name] for name in ("suite", "task", "recipe", "seed", "protocol")]
    asked += [weights(row["backbone"]), settings["adapters"], settings["reducer"]]
    asked += [data["train"], data["val"], data["test"]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def weights(backbone: dict) -> dict:
    """The parts of a backbone's description that affect results; the source of its weights does not."""
    return {name: value for name, value in backbone.items() if name != "source"}


class Ledger:
    """The results in a file, which need not exist yet. Several processes may use it at the same time."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = self.path.with_name(self.path.name + ".lock")  # locked during `append`; reading needs no lock

    def append(self, row: dict) -> None:
        """Add a complete line or nothing, also if other processes add lines at the same time.

        A last line that was cut off, by a crash or a full disk, is removed first, and a warning says so. Raises
        UsageError for a row that lacks something.
        """
        check(row, "a row for the ledger")
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._lock), _appending(self.path) as file:
            self._mend(file)
            end = os.fstat(file).st_size
            if os.write(file, line) < len(line):
                os.ftruncate(file, end)
                raise OSError(errno.ENOSPC, "the disk is full; the last result was not written", str(self.path))
            os.fsync(file)

    def rows(self) -> list[Result]:
        """All results in the order of their lines; a repeated line counts once. Without a file there are none.

        A last line that was cut off is left out, and a warning says so. Raises UsageError for any other line that
        cannot be read, and for two lines of the same experiment with different results.
        """
        return list(self._checked().values())

    def _checked(self) -> dict[str, Result]:
        found: dict[str, Result] = {}
        for number, text in self._lines():
            row = _parsed(text, f"{self.path}, line {number}")
            first = found.setdefault(key(row), _result(row, number))
            if (first.test, first.val) != (row["test"], row["val"]):
                raise UsageError(
                    f"{self.path}: lines {first.line} and {number} are the same recipe, task, seed and protocol "
                    f"({first.recipe}, {first.task}, seed {first.seed}) but have different results, {first.test:g} and "
                    f"{row['test']:g}: remove the wrong one"
                )
        return found

    def _lines(self) -> Iterator[tuple[int, str]]:
        content = self._content()
        if _torn(content) and self._lock.exists():
            with locked(self._lock):  # another process may be writing this line now
                content = self._content()
        if end := _torn(content):
            warnings.warn(f"{self.path}: the last line was cut off and is left out", stacklevel=5)
        try:
            lines = content[: len(content) - end].decode().split("\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is not a ledger: it is not text") from error
        return ((number, line) for number, line in enumerate(lines, 1) if line.strip())

    def _content(self) -> bytes:
        if not self.path.exists():
            return b""
        if not self.path.is_file() or self.path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{self.path} is not a ledger: not a regular file, or more than {MOST_BYTES:,} bytes")
        return self.path.read_bytes()

    def _mend(self, file: int) -> None:
        """Make the file end with a complete line."""
        content = self.path.read_bytes()
        if end := _torn(content):
            warnings.warn(f"{self.path}: the last line was cut off and is removed", stacklevel=3)
            os.ftruncate(file, len(content) - end)
        elif content and not content.endswith(b"\n"):
            os.write(file, b"\n")


@contextmanager
def _appending(path: Path) -> Iterator[int]:
    """The file open for appending."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _torn(content: bytes) -> int:
    """The length of a last line that was cut off; 0 if the line is complete, also if it has no line break."""
    last = content.rpartition(b"\n")[2]
    try:
        json.loads(last or b"{}")
    except (ValueError, RecursionError):  # also for bytes that are not UTF-8
        return len(last)
    return 0


def _parsed(text: str, where: str) -> dict:
    row = parse(text, where, "every line of a ledger must be a JSON object")
    check(row, where)
    return row


def check(row: Any, where: str) -> None:
    """Raise UsageError, which says `where` and names everything at once, unless `row` is a line of a ledger."""
    if not isinstance(row, dict) or row.get("kind") != KIND:
        raise UsageError(f'{where} is not a result: a line of a ledger has "kind": "{KIND}"')
    if row.get("version") != VERSION:
        raise UsageError(f"{where} has version {quoted(row.get('version'))}; this paretune reads version {VERSION}")
    if problems := [problem for path, kind in NEEDED.items() if (problem := _problem(row, path, kind))]:
        raise UsageError(f"{where}: {'; '.join(problems)}")
    verify(json.loads(json.dumps(row)), formats.RESULT, where)
    if row["data"]["lossy"] not in LOSSY:
        raise UsageError(f"{where}: data.lossy is {quoted(row['data']['lossy'])}; it must be one of {', '.join(LOSSY)}")


def _problem(row: dict, path: str, kind: Any) -> str:
    """What is wrong with the value at a path, if anything is."""
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return f"{path} is missing"
        value = value[part]
    if isinstance(value, tuple):
        value = list(value)  # as after a round trip through JSON
    wrong = not isinstance(value, kind) or isinstance(value, bool)
    infinite = isinstance(value, float) and not math.isfinite(value)
    return f"{path} is {quoted(value)}" if wrong or infinite else ""


def _result(row: dict, line: int) -> Result:
    return Result(**{field.name: row[field.name] for field in fields(Result) if field.name != "line"}, line=line)
