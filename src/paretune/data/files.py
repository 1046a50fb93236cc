"""Image files below a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from paretune.data.dataset import Source
from paretune.data.images import file_bytes

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Files(Source):
    """Pictures as files below `root`; a key is the path from there, with forward slashes."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root.resolve())

    def name(self, key: str) -> str:
        return key

    def size(self, key: str) -> int:
        return (self.root / key).stat().st_size

    def encoded(self, key: str) -> bytes:
        return file_bytes(self.root / key)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, and not if it is hidden."""
    base = name.rpartition("/")[2]
    return base.lower().endswith(IMAGE_ENDINGS) and not base.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, sorted."""
    found = [Path(where) / name for where, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(path for path in found if is_image(path.name))


def missing_files(root: Path, keys: list[str]) -> list[str]:
    """Those of the paths below `root` where there is no file."""
    return [key for key in dict.fromkeys(keys) if not (root / key).is_file()]
