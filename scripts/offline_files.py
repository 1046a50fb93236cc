"""Write the offline suite as files, so that other codes can train on it: laid out as VTAB-1K, with PNG for JPEG.

    python scripts/offline_files.py FOLDER

FOLDER/tissue/train800.txt  val200.txt  train800val200.txt  test.txt     a line: images/train800/000000.png 5
FOLDER/tissue/images/train800/000000.png  ...  images/test/000999.png
FOLDER/suite.json                                                        which task belongs to which group
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from PIL import Image

from paretune.data.arrays import ImageArrays
from paretune.drawn.offline import OFFLINE, offline_parts
from paretune.errors import UsageError


def write_offline(folder: str | Path, seed: int = 0) -> dict[str, int]:
    """Write every task into a new folder; returns how many images each has, train800val200 counted once.

    A folder appears when all of it is written. Raises UsageError if it holds anything, and as offline_parts does.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is already there and not an empty folder: name a new one for the offline suite")
    new = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(new, ignore_errors=True)
    counts = {}
    for name in OFFLINE:
        parts = offline_parts(name, seed)
        for part, data in parts.items():
            _write_part(new / name, part, data)
        counts[name] = len(parts["train800val200"]) + len(parts["test"])
    groups = {"groups": {name: task.group for name, task in OFFLINE.items()}}
    (new / "suite.json").write_text(json.dumps(groups, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    new.rename(folder)
    return counts


def _write_part(task: Path, part: str, data: ImageArrays) -> None:
    (task / "images" / part).mkdir(parents=True)
    paths = [f"images/{part}/{i:06}.png" for i in range(len(data))]
    for path, image in zip(paths, data.images, strict=True):
        Image.fromarray(image).save(task / path)
    lines = [f"{path} {target}\n" for path, target in zip(paths, data.targets, strict=True)]
    (task / f"{part}.txt").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write the suite into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a new or empty folder")
    for name, count in write_offline(parser.parse_args().folder).items():
        print(f"{name}: {count:,} images")


if __name__ == "__main__":
    main()
