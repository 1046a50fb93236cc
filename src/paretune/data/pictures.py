"""The image files that a list of paths means: files, all images below folders, and the column `path` of CSV tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.data.dataset import some
from paretune.data.files import Tree
from paretune.data.table import each_row
from paretune.errors import UsageError


@dataclass(frozen=True)
class Pictures:
    """The paths of image files, in the same order whenever they are asked for; they are found on the way.

    A folder stands for all images below it, sorted; a file that ends in .csv for the paths in its column `path`, which
    start at the CSV's folder. Any other path stands for itself, whether there is a file or not.
    """

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[str]:
        """Raises UsageError for a folder or table that cannot be read, and for a folder that is met twice."""
        tree = Tree([path for path in self.paths if os.path.isdir(path)])
        for path in self.paths:
            if os.path.isdir(path):
                yield from map(str, tree.each(path))
            elif path.suffix.lower() == ".csv":
                yield from (str(path.parent / row["path"]) for row in each_row(path))
            else:
                yield str(path)

    def count(self) -> int:
        """How many there are. Raises UsageError if there are none, and as `__iter__`."""
        found = sum(1 for _ in self)
        if not found:
            raise UsageError(
                f"there is no image in {some(map(str, self.paths))}: name image files, or a folder of them"
            )
        return found
