"""The five fine-grained sets of VPT (Jia et al. 2022, arXiv:2203.12119), as their authors packed them.

cub200      ROOT/images.txt  image_class_labels.txt  train_test_split.txt  classes.txt  images/CLASS/*.jpg
nabirds     the same files; classes.txt also names groups of species, only those with images are classes
flowers102  ROOT/jpg/image_00001.jpg  imagelabels.mat  setid.mat
dogs        ROOT/Images/CLASS/*.jpg  train_list.mat  test_list.mat (below lists/ or splits/ too)
cars        ROOT/cars_train/*.jpg  cars_test/*.jpg  devkit/cars_train_annos.mat  cars_test_annos_withlabels.mat

VPT's own lists, ROOT/train.json, val.json and test.json with {path: class number}, are taken where they are: only they
say which images VPT validates on. ROOT may also be the folder that holds CUB_200_2011, nabirds, flowers-102, ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paretune.data.dataset import Images
from paretune.data.files import Files
from paretune.data.splitting import Parts
from paretune.data.table import sorted_names
from paretune.data.text import read_entries, read_text
from paretune.errors import UsageError, plain, quoted

Lists = dict[str, list[tuple[str, str]]]
"""Of each split: (path below the root, name of the class)."""


def fgvc_parts(name: str, root: Path, download: bool = False) -> Parts:
    """The splits of one of the five; only flowers102 can be downloaded. Raises UsageError where files are missing."""
    layout = LAYOUTS[name]
    if download and name == "flowers102":
        from torchvision.datasets import Flowers102

        Flowers102(root, download=True)
    folder = next((here for here in (root, *(root / folder for folder in layout.folders)) if layout.fits(here)), None)
    if folder is None:
        raise UsageError(
            f"{plain(root)} does not hold {name}: expected {layout.mark} there or in {' or '.join(layout.folders)}"
        )
    lists = _json_lists(folder, layout) or _packed_lists(folder, layout)
    classes = sorted_names({label for pairs in lists.values() for _, label in pairs})
    return {split: partial(_images, folder, pairs, classes, split) for split, pairs in lists.items()}


def _images(folder: Path, pairs: list[tuple[str, str]], classes: tuple[str, ...], split: str) -> Images:
    place = {name: i for i, name in enumerate(classes)}
    targets = np.array([place[label] for _, label in pairs], dtype=np.int64)
    return Images(Files(folder), tuple(path for path, _ in pairs), targets, classes, split=split)


def _json_lists(folder: Path, layout: Layout) -> Lists:
    """VPT's lists, if they are there; their paths start at the folder of images."""
    found = {}
    for split in ("train", "val", "test"):
        file = folder / f"{split}.json"
        if file.is_file():
            numbers = read_entries(file, "{path: class number}", lambda number: type(number) in (int, str))
            found[split] = [(layout.images + path, str(number)) for path, number in numbers.items()]
    return found


def _packed_lists(folder: Path, layout: Layout) -> Lists:
    """The authors' lists. Raises UsageError where files are missing, or at odds with each other."""
    try:
        return layout.read(folder)
    except (LookupError, ValueError, TypeError) as problem:
        if isinstance(problem, UsageError):
            raise
        raise UsageError(
            f"{plain(folder)}: the lists are damaged or at odds with each other ({plain(problem)}): fetch them again"
        ) from problem


def _birds(folder: Path) -> Lists:
    """CUB and NABirds: lines of an image's number and its path, class, or 1 for training."""
    paths, labels, trained = (
        _numbered(folder / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    names = _numbered(folder / "classes.txt")
    for what, known in (("class", labels), ("split", trained)):
        if unknown := paths.keys() - known.keys():
            raise UsageError(f"{plain(folder)}: image {quoted(min(unknown))} of images.txt has no {what}")
    if unknown := {labels[image] for image in paths} - names.keys():
        raise UsageError(f"{plain(folder)}: class {quoted(min(unknown))} has no name in classes.txt")
    lists: Lists = {"train": [], "test": []}
    for image, path in paths.items():
        lists["train" if trained[image] == "1" else "test"].append((f"images/{path}", _called(labels[image], names)))
    return lists


def _called(number: str, names: dict[str, str]) -> str:
    """A class's name, with its number in front where two classes may share the name, as in NABirds."""
    name = names[number]
    return name if name.startswith(number.zfill(3)) else f"{number.zfill(4)}.{name}"


def _numbered(file: Path) -> dict[str, str]:
    """{number: rest of the line}. Raises UsageError for a line without a space."""
    lines = [line.strip().partition(" ") for line in read_text(file).splitlines() if line.strip()]
    if any(not rest for _, _, rest in lines):
        raise UsageError(f"{plain(file)}: expected a number and a word in every line")
    return {number: rest for number, _, rest in lines}


def _flowers(folder: Path) -> Lists:
    labels = np.atleast_1d(_mat(folder / "imagelabels.mat")["labels"])
    ids = _mat(folder / "setid.mat")
    return {
        split: [(f"jpg/image_{i:05}.jpg", str(labels[i - 1])) for i in np.atleast_1d(ids[key])]
        for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    }


def _dogs(folder: Path) -> Lists:
    lists = {}
    for split in ("train", "test"):
        file = _first(folder, [f"{below}{split}_list.mat" for below in ("", "lists/", "splits/")])
        paths = [str(path) for path in np.atleast_1d(_mat(file)["file_list"])]
        lists[split] = [(f"Images/{path}", path.partition("/")[0]) for path in paths]
    return lists


def _cars(folder: Path) -> Lists:
    test = _first(folder, ["cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"])
    files = {"train": folder / "devkit" / "cars_train_annos.mat", "test": test}
    names = np.atleast_1d(_mat(folder / "devkit" / "cars_meta.mat")["class_names"])
    return {
        split: [(f"cars_{split}/{row['fname']}", str(names[int(row["class"]) - 1])) for row in _annotations(file)]
        for split, file in files.items()
    }


def _first(folder: Path, names: list[str]) -> Path:
    """The first of these files that is there."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UsageError(f"{plain(folder)} has no {' or '.join(names)}")
    return found


def _annotations(file: Path) -> np.ndarray:
    return np.atleast_1d(_mat(file)["annotations"])


def _mat(file: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UsageError(f"{plain(file)} needs SciPy to be read: pip install scipy") from error
    if not file.is_file():
        raise UsageError(f"there is no {plain(file)}")
    try:
        return loadmat(file, squeeze_me=True)
    except Exception as problem:  # a damaged file ends in whatever SciPy stumbles over
        raise UsageError(f"{plain(file)} is no MATLAB file that can be read: {plain(problem)}") from problem


@dataclass(frozen=True)
class Layout:
    """How one of the five lies on the disk.

    Attributes:
        mark: a file or folder that tells it from others.
        folders: what its own folder is called.
        images: where VPT's paths start, from the folder.
        read: the lists that the authors packed.
        sizes: the images of each split, as published; where val is of VPT's making, train and val together.
        classes: how many there are.
    """

    mark: str
    folders: tuple[str, ...]
    images: str
    read: Callable[[Path], Lists]
    sizes: dict[str, int]
    classes: int

    def fits(self, folder: Path) -> bool:
        """Whether the folder holds this set."""
        return (folder / self.mark).exists() or (folder / "train.json").is_file()


LAYOUTS = {
    "cub200": Layout(
        "train_test_split.txt", ("CUB_200_2011",), "images/", _birds, {"train": 5994, "test": 5794}, 200
    ),
    "nabirds": Layout("train_test_split.txt", ("nabirds",), "images/", _birds, {"train": 23929, "test": 24633}, 555),
    "flowers102": Layout(
        "jpg", ("flowers-102", "OxfordFlower"), "", _flowers, {"train": 1020, "val": 1020, "test": 6149}, 102
    ),
    "dogs": Layout(
        "Images", ("StanfordDogs", "stanford_dogs"), "Images/", _dogs, {"train": 12000, "test": 8580}, 120
    ),
    "cars": Layout(
        "cars_train", ("stanford_cars", "StanfordCars"), "", _cars, {"train": 8144, "test": 8041}, 196
    ),
}  # fmt: skip
