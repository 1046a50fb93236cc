"""Remember the SHA-256 of images and whether they could be decoded, so that they need not be read again.

CACHE/pictures/PLACE.json     {"version": ..., "pictures": {name: [[bytes, times, ...], SHA-256, decoded]}}

CACHE is the folder of `paretune.files.cache_folder`; PLACE is made of where the data lie. Only a picture whose stamp is
still the same is recalled. The files may be removed at any time; where they cannot be read or written, everything is
read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import PIL

from paretune.files import cache_folder

VERSION = f"1, Pillow {PIL.__version__}"
SETTLED = 2.0  # seconds: what was changed so lately may change once more without getting another time


class Memory:
    """What is known of the pictures at one place. `save` writes what was learnt."""

    def __init__(self, where: str):
        name = hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:32]
        self.file = cache_folder() / "pictures" / f"{name}.json"
        self.known, self.new = _loaded(self.file), {}

    def recall(self, name: str, stamp: list[int] | None, decoded: bool) -> str | None:
        """The SHA-256 of a picture, if it is known by this stamp and, where `decoded`, could be decoded."""
        entry = self.known.get(name)
        if stamp is None or entry is None or entry[0] != stamp or (decoded and not entry[2]):
            return None
        return entry[1]

    def learn(self, name: str, stamp: list[int] | None, digest: str, decoded: bool) -> None:
        """Keep a picture's SHA-256 for the next time, if it has a stamp that is not too young."""
        if stamp is not None and max(stamp[1:]) < (time.time() - SETTLED) * 1e9:
            self.new[name] = [stamp, digest, decoded]

    def save(self) -> None:
        """Write what was learnt, in one step; without a word where that is not possible."""
        if not self.new:
            return
        content = {"version": VERSION, "pictures": self.known | self.new}
        beside = None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=self.file.parent)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(beside, self.file)
        except OSError:
            if beside is not None:
                Path(beside).unlink(missing_ok=True)


def _loaded(file: Path) -> dict[str, list]:
    """The pictures of a file that this version wrote; none where there is no such file, or another one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        pictures = content["pictures"] if content["version"] == VERSION else {}
        return {name: entry for name, entry in pictures.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], list)
        and isinstance(entry[1], str)
        and len(entry[1]) == 64
    )
