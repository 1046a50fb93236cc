"""The speed of the reduced models on ViT-B/16, and of their training steps: bench/results/vit_b_*.json.

python scripts/bench_vit_b.py            about 12 minutes on two cores that do nothing else
"""

from __future__ import annotations

import argparse
from pathlib import Path

from paretune.adapters import AdaptFormer, DenseAdapter, LoRA
from paretune.catalogue import Recipe
from paretune.reducers import FPET, EViT, ToMe
from paretune.timing.bench import bench
from paretune.training.runfolder import write_json

RESULTS = Path(__file__).parents[1] / "bench" / "results"
REDUCERS = (
    Recipe("EViT 0.7", "the reducer alone", (), EViT(keep=0.7)),
    Recipe("FPET", "the reducer alone", (), FPET()),
    Recipe("ToMe r=8", "the reducer alone", (), ToMe(r=8)),
)
# The pairs that the papers compare: a method and the same one, or its rival, with all tokens.
PAIRS = {
    "sparse_tuning": (
        Recipe("AdaptFormer 64", "Table III", (AdaptFormer(width=64, bias=True),)),
        Recipe("Sparse-Tuning", "Table III", (DenseAdapter(width=32),), EViT(keep=0.7)),
    ),
    "fpet_lora": (
        Recipe("LoRA", "Table 4", (LoRA(rank=8),)),
        Recipe("FPET-LoRA", "Table 4", (LoRA(rank=8),), FPET()),
    ),
    "fpet_adaptformer": (
        Recipe("AdaptFormer", "Table 4", (AdaptFormer(width=8),)),
        Recipe("FPET-AdaptFormer", "Table 4", (AdaptFormer(width=8),), FPET()),
    ),
}


def main() -> None:
    """Print every table and write its JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=9)
    rounds = arguments.parse_args().rounds
    model = "vit_base_patch16_224"
    keep("vit_b_reducers", bench(model, REDUCERS, (1, 8), rounds=rounds))
    for name, (rival, method) in PAIRS.items():
        found = bench(model, (rival, method), (8,), train=True, rounds=rounds, baseline=rival.name, rss=False)
        keep(f"vit_b_{name}", found)


def keep(name: str, found) -> None:
    """Print a result and write it to bench/results."""
    print(found, flush=True)
    write_json(RESULTS / f"{name}.json", found.to_dict())


if __name__ == "__main__":
    main()
