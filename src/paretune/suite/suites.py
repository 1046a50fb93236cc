"""The tasks of a suite and where their images are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from paretune import formats
from paretune.data.folder import folder_task
from paretune.data.samples import ImageSet
from paretune.data.vtab import VTAB, is_vtab_task, vtab_task
from paretune.drawn.offline import OFFLINE, offline_parts
from paretune.errors import UsageError, unknown
from paretune.schema import read

GROUPS = "suite.json"
REAL = {
    "elpv": "industry", "textile": "industry", "icons": "symbols", "typefaces": "symbols", "letters": "writing",
    "digits": "writing",
}  # fmt: skip
"""The tasks that scripts/real_material.py makes from public packages, with their groups."""


class Source(NamedTuple):
    """Where images come from: `read(*given, task)` returns the parts of a task, {name: data set}.

    A source is equal to its copy in another process, so that data which were read once are found again.
    """

    read: Callable[..., Mapping[str, ImageSet]]
    given: tuple = ()


@dataclass(frozen=True)
class Suite:
    """A suite. `groups` {task: group}; `source` reads the images of a task."""

    name: str
    groups: dict[str, str] = field(hash=False)
    source: Source

    def parts(self, task: str) -> Mapping[str, ImageSet]:
        """The data sets of a task, such as train800, val200 and test."""
        return _parts(self.source, task)

    def only(self, tasks: list[str]) -> Suite:
        """The suite with only these tasks. Raises UsageError for a task that it does not have."""
        for task in tasks:
            if task not in self.groups:
                raise unknown(f"task of the suite {self.name}", task, list(self.groups))
        return replace(self, groups={task: self.groups[task] for task in tasks})


@lru_cache(maxsize=2)
def _parts(source: Source, task: str) -> Mapping[str, ImageSet]:
    return source.read(*source.given, task)


def read_task(root: Path, task: str) -> Mapping[str, ImageSet]:
    """The parts of a task in `root`, in the layout of VTAB-1K, or as class folders in train/, val/ and test/."""
    folder = root / task
    in_classes = (folder / "train").is_dir() and not is_vtab_task(folder)
    return folder_task(folder) if in_classes else vtab_task(root, task)


def open_suite(name: str, root: str | Path | None = None) -> Suite:
    """The suite "offline", which is drawn; "vtab1k" or "real", with the folder `root` of its tasks; or your own folder.

    Your own folder has the layout of VTAB-1K: FOLDER/TASK/train800.txt, val200.txt, train800val200.txt, test.txt and
    images. FOLDER/suite.json may contain {"groups": {"TASK": "GROUP"}}. Raises UsageError if something is missing.
    """
    if name == "offline":
        if root is not None:
            raise UsageError("the suite offline is drawn and needs no data: leave --data out")
        return Suite("offline", {task: drawn.group for task, drawn in OFFLINE.items()}, Source(offline_parts))
    if name == "vtab1k":
        if root is None:
            raise UsageError("the suite vtab1k needs the folder of its 19 tasks: --data FOLDER")
        return _vtab(Path(root))
    if name == "real" and root is not None:
        return _real(Path(root))
    return _own(Path(name))


def _vtab(root: Path) -> Suite:
    if missing := [task for task in VTAB if not (root / task).is_dir()]:
        raise UsageError(
            f"{root} lacks {', '.join(missing)} of VTAB-1K's 19 tasks: `paretune data verify {root}` reports details; "
            "to run only some tasks, give the folder as --suite and the tasks with --tasks"
        )
    return Suite("vtab1k", {task: known.group for task, known in VTAB.items()}, Source(read_task, (root,)))


def _real(root: Path) -> Suite:
    if missing := [task for task in REAL if not (root / task / "train").is_dir()]:
        raise UsageError(
            f"{root} lacks {', '.join(missing)} of the suite real: `python scripts/real_material.py --out {root}` "
            "makes these tasks"
        )
    return Suite("real", dict(REAL), Source(read_task, (root,)))


def _own(root: Path) -> Suite:
    tasks = sorted(path.parent.name for path in root.glob("*/train800.txt")) if root.is_dir() else []
    if not tasks:
        raise UsageError(
            f"unknown suite '{root}': use offline, vtab1k or real with --data FOLDER, or a folder with "
            "TASK/train800.txt, val200.txt, train800val200.txt and test.txt as in VTAB-1K"
        )
    groups = read(root / GROUPS, formats.GROUPS).get("groups", {}) if (root / GROUPS).exists() else {}
    known = {task: one.group for task, one in VTAB.items()}
    groups = {task: groups.get(task, known.get(task, "all")) for task in tasks}
    return Suite(root.resolve().name, groups, Source(read_task, (root,)))
