"""All image files that a list of paths stands for: files, images below folders, and the column `path` of CSV tables."""

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
    """The paths of image files, in the same order every time. They are found during the iteration.

    A folder stands for all images below it, sorted. A file that ends in .csv stands for the paths in its column `path`,
    which start at the folder of the CSV. Any other path stands for itself, even if there is no such file.
    """

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[str]:
        """Raises UsageError for a folder or table that cannot be read, and for a folder that is found twice."""
        tree = Tree([path for path in self.paths if os.path.isdir(path)])
        for path in self.paths:
            if os.path.isdir(path):
                yield from map(str, tree.each(path))
            elif path.suffix.lower() == ".csv":
                yield from (str(path.parent / row["path"]) for row in each_row(path))
            else:
                yield str(path)

    def count(self) -> int:
        """The number of image files. Raises UsageError if there are none, and in the cases of `__iter__`."""
        found = sum(1 for _ in self)
        if not found:
            raise UsageError(
                f"there is no image in {some(map(str, self.paths))}: give image files, or a folder of them"
            )
        return found
