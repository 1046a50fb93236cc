"""Why a method is where it is on the offline suite: variants of its parts, at one learning rate, into a ledger.

    python scripts/offline_variants.py --tasks location textures --jobs 2 --out runs/variants
    paretune compare bench/results/offline_variants.jsonl --baseline adaptformer --tasks

The protocol is `offline` with nothing to choose but the epoch: 10 times the recipe's learning rate, so a variant costs
one training a seed. The ledger says so, and does not mix with the suite's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from paretune import FPET, AdaptFormer, DenseAdapter, EViT, LoRA, Recipe, recipe
from paretune.ledger.results import Ledger
from paretune.suite.jobs import prepare, work
from paretune.suite.planning import Plan
from paretune.suite.pool import Here, Processes
from paretune.suite.protocols import protocol
from paretune.suite.run import run_suite
from paretune.suite.suites import open_suite

RESULTS = Path(__file__).parents[1] / "bench" / "results"
FACTOR = 10.0
VARIANTS = {
    one.name: one
    for one in (
        *map(recipe, ("adaptformer", "evit-adaptformer", "sparse-tuning-vtab", "lora", "fpet-lora")),
        recipe("fpet-adaptformer"),
        Recipe("dense", "Dense Adapters, all tokens", (DenseAdapter(width=8),)),
        Recipe("plain", "Sparse-Tuning without dense connections", (DenseAdapter(width=8, reads=()),), EViT(keep=0.7)),
        Recipe("scale-0.1", "Sparse-Tuning, scale 0.1", (DenseAdapter(width=8, scale=0.1),), EViT(keep=0.7)),
        Recipe("dense-scale-0.1", "Dense Adapters, scale 0.1, all tokens", (DenseAdapter(width=8, scale=0.1),)),
        Recipe("dropout", "Sparse-Tuning, dropout 0.1", (DenseAdapter(width=8, dropout=0.1),), EViT(keep=0.7)),
        Recipe(
            "no-dropout", "EViT + AdaptFormer without dropout", (AdaptFormer(width=8, dropout=0.0),), EViT(keep=0.7)
        ),
        Recipe("width-32", "Sparse-Tuning, width 32", (DenseAdapter(width=32),), EViT(keep=0.7)),
        Recipe("fpet-8-lora", "FPET in block 8", (LoRA(rank=8),), FPET(block=8)),
        Recipe("fpet-8-adaptformer", "FPET in block 8", (AdaptFormer(width=8),), FPET(block=8)),
    )
}


def main() -> None:
    """Train what the ledger lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--tasks", nargs="+", default=["location", "textures", "tissue"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, default=RESULTS / "offline_variants.jsonl")
    args = parser.parse_args()
    plan = Plan(
        suite=open_suite("offline").only(args.tasks),
        recipes=tuple(VARIANTS[name] for name in args.variants),
        protocol=replace(protocol("offline"), name=f"offline, at {FACTOR:g} times the rate", factors=(FACTOR,)),
        seeds=tuple(range(args.seeds)),
        model="paretune_tiny",
        out=args.out,
        device="cpu",
    )
    pool = Processes(work, args.jobs, prepare) if args.jobs > 1 else Here(work)
    for sentence in run_suite(plan, pool, Ledger(args.ledger), print):
        print(f"failed: {sentence}")


if __name__ == "__main__":
    main()
