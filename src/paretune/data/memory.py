"""Remember the SHA-256 of images and whether they could be decoded, so that they need not be read again.

CACHE/pictures/PLACE.json     {"version": ..., "pictures": {name: [[bytes, times, ...], SHA-256, decoded]}}

CACHE is the folder of `paretune.files.cache_folder`. PLACE is a hash of the place of the data. A picture is recalled
only if its stamp is still the same. The files may be removed at any time. If they cannot be read or written, all images
are read again.
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
SETTLED = 2.0  # seconds: a file that changed less long ago may change again without getting another time


class Memory:
    """What is known about the pictures at one place. `save` writes what `learn` added."""

    def __init__(self, where: str):
        name = hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:32]
        self.file = cache_folder() / "pictures" / f"{name}.json"
        self.known, self.new = _loaded(self.file), {}

    def recall(self, name: str, stamp: list[int] | None, decoded: bool) -> str | None:
        """The SHA-256 of a picture, if it is known with this stamp and, with `decoded`, could be decoded. Else None."""
        entry = self.known.get(name)
        if stamp is None or entry is None or entry[0] != stamp or (decoded and not entry[2]):
            return None
        return entry[1]

    def learn(self, name: str, stamp: list[int] | None, digest: str, decoded: bool) -> None:
        """Remember the SHA-256 of a picture, if it has a stamp and did not change in the last two seconds."""
        if stamp is not None and max(stamp[1:]) < (time.time() - SETTLED) * 1e9:
            self.new[name] = [stamp, digest, decoded]

    def save(self) -> None:
        """Write what `learn` added, in one step. If that is not possible, nothing happens."""
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
    """The pictures in a file that this version wrote; {} if there is no file, or another version wrote it."""
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
