"""Show how hard the offline suite is before any training: linear probes of pixels and of frozen features.

    python scripts/probe_offline.py [TASK ...]

For each task chance, and the test accuracy of logistic regression on 1,000 training images: on their pixels, on class-
token features of the untrained backbone, and of the embedded, pretrained one. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from probe_embedded import ASSET, FEATURES, ROOT, featurizer

from paretune.drawn.digits import linear_accuracy
from paretune.drawn.offline import OFFLINE, offline_parts


def probes(task: str, seed: int) -> dict[str, float]:
    """Chance, and the test accuracy with each kind of features."""
    parts = offline_parts(task, seed)
    known, test = parts["train800val200"], parts["test"]
    found = {"chance": float(np.bincount(test.targets).max() / len(test))}
    for features in FEATURES:
        compute = featurizer(features, ASSET, seed)
        seen = compute(known.images), known.targets, compute(test.images), test.targets
        found[features] = round(linear_accuracy(*seen), 4)
    return found


def main() -> None:
    """Probe the tasks; print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(OFFLINE), metavar="TASK")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/offline_probe.json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("chance", *FEATURES)
    print(f"{'test accuracy in %':20}" + "".join(f"{name:>12}" for name in columns))
    rows = {}
    for task in args.tasks:
        rows[task] = probes(task, args.seed)
        print(f"{task:20}" + "".join(f"{100 * rows[task][name]:12.1f}" for name in columns), flush=True)
    what = "test accuracy of logistic regression on 1,000 training images"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"what": what, "seed": args.seed, "accuracy": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
