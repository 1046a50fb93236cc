"""A training step with adapters in the last four blocks, behind kept tokens, beside the same adapters in all blocks.

    python scripts/bench_late_blocks.py [--model vit_small_patch14_dinov2] [--image-size 224] [--batch 32] [--rounds 7]

Interleaved in one process; prints milliseconds per image and the ratio of the medians. Weights are random: they do not
change the time.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import torch

from paretune.catalogue import recipe
from paretune.plan import adapt
from paretune.training.prefix import Prefixed


def step(learner, given):
    """A function that runs a forward and a backward pass."""

    def run():
        learner.run(given).logits.square().mean().backward()

    return run


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="vit_small_patch14_dinov2")
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--rounds", type=int, default=7)
    asked = options.parse_args()
    images = torch.randn(asked.batch, 3, asked.image_size, asked.image_size)
    runs = {}
    for name in ("sparse-tuning-vtab", "adaptformer"):
        whole, late = recipe(name), recipe(f"{name}@8-11")
        models = [
            adapt(asked.model, one.adapters, one.reducer, 2, pretrained=False, img_size=asked.image_size).train()
            for one in (whole, late)
        ]
        learner = Prefixed(models[1], 8, images[0])
        runs[name, "all blocks"] = step(models[0], images)
        runs[name, "last four, kept"] = step(learner, learner.entering(images))
        runs[name, "first eight, once"] = lambda learner=learner: learner.entering(images)
    took = {key: [] for key in runs}
    for _ in range(asked.rounds + 1):
        for key, run in runs.items():
            start = perf_counter()
            run()
            took[key].append(perf_counter() - start)
    each = {key: 1000 * median(times[1:]) / asked.batch for key, times in took.items()}  # the first round warms up
    print(f"{asked.model}, {asked.image_size} pixels, batches of {asked.batch}, {torch.get_num_threads()} threads")
    for (name, what), milliseconds in each.items():
        ratio = milliseconds / each[name, "all blocks"]
        print(f"{name:20} {what:18} {milliseconds:8.1f} ms per image   {ratio:.2f} of a step in all blocks")


if __name__ == "__main__":
    main()
