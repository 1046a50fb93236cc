"""The data sets of the demo: handwritten digits in drawn clutter, for training, validation and test."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from paretune.data.arrays import ImageArrays
from paretune.drawn.digits import digits
from paretune.errors import UsageError
from paretune.files import whole

TRAIN, VALIDATE, TEST = 800, 200, 797


def digit_sets(seed: int) -> tuple[ImageArrays, ImageArrays, ImageArrays]:
    """Training, validation and test set. The classes have the same proportions in all three."""
    images, labels, test_images, test_labels = digits(TRAIN + VALIDATE, TEST, seed)
    classes = tuple(str(digit) for digit in range(10))
    known = ImageArrays(images, labels, classes, name="digits")
    test = ImageArrays(test_images, test_labels, classes, name="digits, test")
    return known.part(slice(TRAIN), "digits, train"), known.part(slice(TRAIN, None), "digits, validate"), test


def digit_parts(seed: int, task: str) -> dict[str, ImageArrays]:
    """The sets of digits by the names that the parts of a task have in a suite. `task` is not used: there is one."""
    return dict(zip(("train800", "val200", "test"), digit_sets(seed), strict=True))


def write_digits(folder: str | Path, seed: int = 0) -> dict[str, int]:
    """Write the images as PNGs to a new folder, as train/DIGIT/ and test/DIGIT/. Returns the numbers of images.

    Raises UsageError if the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder: give a new folder for the images")
    images, labels, test_images, test_labels = digits(TRAIN + VALIDATE, TEST, seed)
    with whole(folder) as new:
        for part, pictures, answers in (("train", images, labels), ("test", test_images, test_labels)):
            for label in range(10):
                (new / part / str(label)).mkdir(parents=True)
            for i, (picture, label) in enumerate(zip(pictures, answers, strict=True)):
                Image.fromarray(picture).save(new / part / str(label) / f"{i:04}.png")
    return {"train": len(labels), "test": len(test_labels)}
