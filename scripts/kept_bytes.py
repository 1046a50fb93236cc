"""What a training step of ViT-B/16 keeps for its backward pass, a batch of 8: a line for every method and memory.

python scripts/kept_bytes.py            half a minute, no weights
"""

from __future__ import annotations

from typing import get_args

from bench_vit_b import PAIRS

from paretune.core.memory import Memory
from paretune.measure.fake_memory import saved_bytes
from paretune.measure.growth import weightless


def main() -> None:
    """Print bytes and their ratio to AdaptFormer of width 64, the first line."""
    base = None
    for recipe in (one for pair in PAIRS.values() for one in pair):
        model = weightless("vit_base_patch16_224", recipe.adapters, recipe.reducer, 100)
        for memory in get_args(Memory):
            model.memory = memory
            kept = saved_bytes(model, 8)
            base = base or kept
            print(f"{recipe.name:18}{memory:6}{kept / 1e6:8.1f} MB{kept / base:7.2f}", flush=True)


if __name__ == "__main__":
    main()
