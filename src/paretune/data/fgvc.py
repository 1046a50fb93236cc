"""The five fine-grained data sets of VPT (Jia et al. 2022, arXiv:2203.12119), in the layouts of their authors.

cub200      ROOT/images.txt  image_class_labels.txt  train_test_split.txt  classes.txt  images/CLASS/*.jpg
nabirds     the same files; classes.txt also contains groups of species, only entries with images are classes
flowers102  ROOT/jpg/image_00001.jpg  imagelabels.mat  setid.mat
dogs        ROOT/Images/CLASS/*.jpg  train_list.mat  test_list.mat (also in lists/ or splits/)
cars        ROOT/cars_train/*.jpg  cars_test/*.jpg  devkit/cars_train_annos.mat  cars_test_annos_withlabels.mat

VPT's own lists, ROOT/train.json, val.json and test.json with {path: class number}, are used if they exist, because only
they say which images VPT uses for validation. ROOT may also be the folder that contains CUB_200_2011, nabirds, ...
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
"""For each split: (path below the root, name of the class) of every image."""


def fgvc_parts(name: str, root: Path, download: bool = False) -> Parts:
    """The splits of one of the five sets. Only flowers102 can be downloaded. Raises UsageError if files are missing."""
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
    """VPT's lists, if they exist. Their paths start at the folder of images."""
    found = {}
    for split in ("train", "val", "test"):
        file = folder / f"{split}.json"
        if file.is_file():
            numbers = read_entries(file, "{path: class number}", lambda number: type(number) in (int, str))
            found[split] = [(layout.images + path, str(number)) for path, number in numbers.items()]
    return found


def _packed_lists(folder: Path, layout: Layout) -> Lists:
    """The authors' lists. Raises UsageError if files are missing or contradict each other."""
    try:
        return layout.read(folder)
    except (LookupError, ValueError, TypeError) as problem:
        if isinstance(problem, UsageError):
            raise
        raise UsageError(
            f"{plain(folder)}: the lists are damaged or contradict each other ({plain(problem)}): fetch them again"
        ) from problem


def _birds(folder: Path) -> Lists:
    """CUB and NABirds: every line has the number of an image, then its path, its class, or 1 if it is for training."""
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
    """A class's name, with its number in front if the name lacks it: in NABirds, two classes may have one name."""
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
    """The first of these files that exists. Raises UsageError if there is none."""
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
        raise UsageError(f"reading {plain(file)} needs SciPy: pip install scipy") from error
    if not file.is_file():
        raise UsageError(f"there is no {plain(file)}")
    try:
        return loadmat(file, squeeze_me=True)
    except Exception as problem:  # SciPy raises exceptions of any kind for a damaged file
        raise UsageError(f"{plain(file)} cannot be read as a MATLAB file: {plain(problem)}") from problem


@dataclass(frozen=True)
class Layout:
    """The files of one of the five sets.

    Attributes:
        mark: a file or folder by which the set is recognised.
        folders: possible names of its folder.
        images: the folder in which VPT's paths start.
        read: reads the authors' lists.
        sizes: the published number of images of each split. If only VPT has a split val, train includes it.
        classes: the number of classes.
    """

    mark: str
    folders: tuple[str, ...]
    images: str
    read: Callable[[Path], Lists]
    sizes: dict[str, int]
    classes: int

    def fits(self, folder: Path) -> bool:
        """Whether the folder contains this set."""
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
