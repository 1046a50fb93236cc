"""The pictures on which an artefact is checked: those of a folder, of the run's own data, or drawn ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from paretune import formats
from paretune.core.model import Adapted
from paretune.data.images import open_image
from paretune.data.pictures import Pictures as Paths
from paretune.data.preprocess import prepared
from paretune.deploy.parity import Pictures
from paretune.errors import UsageError, plain
from paretune.schema import read
from paretune.training.runfolder import RECORD

CHECK, CALIBRATE = 64, 32
DRAWN = "drawn by paretune, because nothing else was at hand: they say little about photographs"


def pictures_for(model: Adapted, run: Path | None = None, images: Sequence[Path] = (), check: int = CHECK) -> Pictures:
    """`check` pictures to check with and 32 others to calibrate with, prepared for the model.

    From `images`, files and folders, if any are given; otherwise from the data that the record in `run` names, if they
    are still there: validation pictures to check with, training pictures to calibrate with; otherwise drawn ones.
    Raises UsageError if `images` are fewer than two, and for files that cannot be read.
    """
    if images:
        paths = list(Paths(images))
        if len(paths) < 2:
            raise UsageError(f"{plain(images[0])} holds {len(paths)} image: give at least two, better {check}")
        chosen = spread(paths, check + CALIBRATE)
        calibrate = chosen[:: max(2, len(chosen) // CALIBRATE)]
        rest = [path for path in chosen if path not in set(calibrate)]
        return _made(model, map(open_image, rest), map(open_image, calibrate), "of --images")
    found = None if run is None else recorded(model, run, check)
    return found or drawn(model, check)


def recorded(model: Adapted, run: Path, check: int) -> Pictures | None:
    """Pictures of the data on which the run was trained; None if it has no record, or no files are there any more."""
    if not (run / RECORD).is_file():
        return None
    data = read(run / RECORD, formats.RECORD, "train again")["data"]
    val, train = (_files(data.get(split, {}).get("path")) for split in ("val", "train"))
    checked = spread(val, check)
    others = [path for path in train if path not in set(checked)]
    if not checked or not others:
        return None
    return _made(model, map(open_image, checked), map(open_image, spread(others, CALIBRATE)), "of the run's own data")


def _files(where: str | None) -> list[str]:
    """The image files at a place that a record names."""
    path = Path(where or "")
    if not where or not (path.is_dir() or (path.suffix == ".csv" and path.is_file())):
        return []
    try:
        return list(Paths([path]))
    except UsageError:  # the data have changed since then
        return []


def drawn(model: Adapted, check: int) -> Pictures:
    """Drawn textures, if there is nothing better."""
    from paretune.drawn.offline import offline_parts

    found = offline_parts("textures")["test"].through(lambda image: prepared(image, model.preprocessing))
    images = [np.asarray(found[i][0]) for i in spread(range(len(found)), check + CALIBRATE)]
    return _stacked(images[CALIBRATE:], images[:CALIBRATE], DRAWN)


def spread(things: Sequence, count: int) -> list:
    """`count` of the things, evenly from first to last; all of them if they are fewer."""
    picked = np.unique(np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int))
    return [things[i] for i in picked]


def _made(model: Adapted, check: Iterable[Image.Image], calibrate: Iterable[Image.Image], source: str) -> Pictures:
    held, other = ([prepared(one, model.preprocessing) for one in some] for some in (check, calibrate))
    return _stacked(held, other, source)


def _stacked(check: Sequence[np.ndarray], calibrate: Sequence[np.ndarray], source: str) -> Pictures:
    held, other = np.stack(check), np.stack(calibrate)
    hashes = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in held)
    return Pictures(held, other, source, hashes)
