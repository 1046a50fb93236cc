"""What it brings to compute once what is the same in every epoch: bench/results/cache.json.

python scripts/bench_cache.py            about three minutes on two cores that do nothing else

Two folders of pictures: the demo's digits, 32 pixels, and the same as JPEG photographs of 500 pixels. Every case trains
for some epochs with and without the caches, in turns; told are seconds per epoch, and those of the first, when they are
filled.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import peft
import timm
import torch
from PIL import Image

from paretune.adapters import LoRA
from paretune.catalogue import Schedule
from paretune.core.model import Adapted
from paretune.data.opening import open_splits
from paretune.drawn.digit_sets import write_digits
from paretune.machine import environment
from paretune.plan import adapt
from paretune.training.prepare import fit_on
from paretune.training.runfolder import write_json

RESULTS = Path(__file__).parents[1] / "bench" / "results"
CASES = (
    "linear, 32 px",
    "HF PEFT LoRA in blocks 9 to 11, 32 px",
    "LoRA, 32 px",
    "linear, ViT-Ti at 224 px, JPEG of 500",
)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cache.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_digits(root / "small")
        enlarge(root / "small", root / "large", 200)
        rows = {case: measured(case, root, args.epochs, args.rounds) for case in CASES}
    print(f"{'seconds per epoch':<44}{'without':>10}{'with':>10}{'ratio':>8}{'first':>10}")
    for case, row in rows.items():
        print(f"{case:<44}{row['without']:>10.3f}{row['with']:>10.3f}{row['ratio']:>8.3f}{row['first']:>10.3f}")
    write_json(args.out, {"kind": "cache", "rows": rows, "environment": environment(torch.device("cpu"))})


def enlarge(source: Path, target: Path, count: int) -> None:
    """Some of the pictures of `source`, as JPEG files of 500 pixels."""
    for path in sorted((source / "train").rglob("*.png"))[:: 1000 // count]:
        place = target / path.relative_to(source / "train").with_suffix(".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((500, 500)).save(place, quality=90)


def measured(case: str, root: Path, epochs: int, rounds: int) -> dict[str, float]:
    """Median seconds of the epochs after the first, with and without the caches; `first`: all the rest, with them."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    for i in range(rounds):
        for cache in (True, False):
            spent[cache].append(trained(case, root, epochs, cache, root / f"{case} {i} {cache}"))
    with_, without = (median([t for times in spent[cache] for t in times[1:]]) for cache in (True, False))
    first = median(times[0] for times in spent[True])
    return {"with": with_, "without": without, "ratio": with_ / without, "first": first}


def trained(case: str, root: Path, epochs: int, cache: bool, out: Path) -> list[float]:
    """Seconds of every epoch; what happens before the first one counts as a part of it."""
    begun = perf_counter()
    splits = open_splits(root / ("large" if "224" in case else "small"))
    model = built(case, list(splits.train.classes))
    schedule = Schedule(epochs=epochs, batch_size=32, warmup_epochs=0)
    result = fit_on(model, splits.train, splits.val, schedule, out, cache=cache, quiet=True, device="cpu")
    later = [row["seconds"] for row in result.history][1:]
    return [perf_counter() - begun - sum(later), *later]


def built(case: str, classes: list[str]) -> Adapted:
    """The model of a case."""
    if "ViT-Ti" in case:
        return adapt("vit_tiny_patch16_224", (), None, classes)
    if "PEFT" in case:
        config = peft.LoraConfig(r=8, target_modules=r"blocks\.(9|10|11)\.attn\.qkv")
        backbone = peft.inject_adapter_in_model(config, timm.create_model("paretune_tiny", pretrained=True))
        return adapt(backbone, (), None, classes)
    adapters = () if case.startswith("linear") else (LoRA(rank=8),)
    return adapt("paretune_tiny", adapters, None, classes, pretrained=True)


if __name__ == "__main__":
    main()
