"""Show what pretraining of the embedded backbone is worth: linear probes of frozen features.

    python scripts/probe_embedded.py

Logistic regression on pixels, on class-token features of the untrained network, and of the pretrained one, for the
demo's handwritten digits and for a drawn counting task; pretraining saw neither. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from paretune.drawn.counting import counting
from paretune.drawn.digits import digits, linear_accuracy

ROOT = Path(__file__).resolve().parents[1]
ASSET = ROOT / "src/paretune/assets/paretune_tiny.safetensors"
TASKS = {"digits": digits, "counting": counting}
FEATURES = ("pixels", "untrained", "pretrained")


def load_network(asset: Path, pretrained: bool, seed: int) -> VisionTransformer:
    """Build the backbone as the asset's metadata says, with its weights or with random ones drawn from `seed`."""
    with safe_open(asset, "pt") as file:
        architecture = json.loads(file.metadata()["architecture"])
    torch.manual_seed(seed)
    network = VisionTransformer(**architecture)
    if pretrained:
        network.load_state_dict(load_file(asset))
    return network.eval()


@torch.inference_mode()
def class_tokens(network: VisionTransformer, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute class-token features (N, width) of uint8 images (N, 32, 32, 3)."""
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).split(200)
    return torch.cat([network.forward_features(batch)[:, 0] for batch in batches]).numpy()


def featurizer(features: str, asset: Path, seed: int) -> Callable[[NDArray[np.uint8]], NDArray]:
    """Return the function from images to the features of that name."""
    if features == "pixels":
        return lambda images: images.reshape(len(images), -1) / 255.0
    network = load_network(asset, features == "pretrained", seed)
    return lambda images: class_tokens(network, images)


def probe(task: str, features: str, asset: Path, seed: int) -> float:
    """Test accuracy of logistic regression on the standardised features of one task, its data drawn from `seed`."""
    train_images, train_labels, test_images, test_labels = TASKS[task](seed=seed)
    compute = featurizer(features, asset, seed)
    return linear_accuracy(compute(train_images), train_labels, compute(test_images), test_labels)


def main() -> None:
    """Probe every task with every kind of features and seed; print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--asset", type=Path, default=ASSET)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/embedded_probe.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", default="2 shared CPU cores", help="what to note in the JSON about the machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    accuracy: dict[str, dict[str, list[float]]] = {}
    print(f"{'linear probe, test accuracy in %':34}" + "".join(f"{name:>14}" for name in FEATURES))
    for task in TASKS:
        accuracy[task] = {f: [probe(task, f, args.asset, seed) for seed in range(args.seeds)] for f in FEATURES}
        spread = {f: stdev(runs) if len(runs) > 1 else 0.0 for f, runs in accuracy[task].items()}
        cells = (f"{100 * mean(runs):7.1f} ± {100 * spread[f]:3.1f}" for f, runs in accuracy[task].items())
        print(f"{task:34}" + "".join(f"{cell:>14}" for cell in cells))
    with safe_open(args.asset, "pt") as file:
        metadata = file.metadata()
    packages = ("torch", "timm", "scikit-learn", "numpy")
    result = {
        "what": "test accuracy of logistic regression on frozen features; one per seed of data and network",
        "machine": args.machine,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "asset": {key: metadata[key] for key in ("images_seen", "held_out_accuracy")},
        "seeds": list(range(args.seeds)),
        "accuracy": {t: {f: [round(a, 4) for a in runs] for f, runs in row.items()} for t, row in accuracy.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
