"""Small data sets on the disk, in the layouts of the real ones."""

import json

import numpy as np
from PIL import Image

VTAB_SIZES = {"train800": 6, "val200": 4, "test": 5}


def picture(number, size=(8, 8)):
    """A picture of noise that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def draw(path, number=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, options.pop("size", (8, 8))).save(path, **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def class_tree(root, splits=("train", "val", "test"), classes=("ant", "bee"), count=3, ending="png"):
    """ROOT/SPLIT/CLASS/0.png ...; without splits ROOT/CLASS/0.png ..."""
    number = 0
    for split in splits or [""]:
        for name in classes:
            for i in range(count):
                draw(root / split / name / f"{i}.{ending}", number := number + 1)
    return root


def birds(root, classes):
    """CUB's files: the classes' numbers and names are given, each has two images to train on and one to test."""
    lines = {name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")}
    for number, name in classes.items():
        lines["classes"].append(f"{number} {name}")
        for i in range(3):
            image = len(lines["images"]) + 1
            draw(root / "images" / str(number) / f"{i}.jpg", image)
            lines["images"].append(f"{image} {number}/{i}.jpg")
            lines["image_class_labels"].append(f"{image} {number}")
            lines["train_test_split"].append(f"{image} {int(i < 2)}")
    for name, text in lines.items():
        write(root / f"{name}.txt", "\n".join(text) + "\n")


def vtab_tree(root, task="svhn", sizes=VTAB_SIZES, ending="png", classes=2):
    """A task as the common dump has it: train800val200 holds copies of the images of train800 and val200."""
    folder, number, both = root / task, 0, []
    for split, size in sizes.items():
        lines = []
        for i in range(size):
            draw(folder / "images" / split / f"{i:06}.{ending}", number := number + 1)
            lines.append(f"images/{split}/{i:06}.{ending} {i % classes}")
            if split != "test":
                both.append(f"images/train800val200/{len(both):06}.{ending} {i % classes}")
                draw(folder / both[-1].split()[0], number)
        write(folder / f"{split}.txt", "\n".join(lines) + "\n")
    write(folder / "train800val200.txt", "\n".join(both))
    return folder


def vtab_json(root, task="dtd", train=1000, test=3):
    """SynQT's variant: two lists of one-entry dicts, paths from images/ on; here all pictures but one are empty."""
    folder = root / task
    for split, size in (("train800val200", train), ("test", test)):
        paths = [f"{split}/{i:06}.png" for i in range(size)]
        for path in paths:
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / path).touch()
        write(folder / f"{split}.json", json.dumps([{path: i % 47} for i, path in enumerate(paths)]))
    draw(folder / "images" / "test" / "000000.png", 1)
    return folder
