"""Where a forward of ViT-B/16 spends its time, and what the parts of a merge cost: bench/results/vit_b_profile.json.

python scripts/profile_vit_b.py          about two minutes on one core that does nothing else
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from bench_vit_b import REDUCERS, RESULTS
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from paretune.catalogue import Recipe
from paretune.core.reduction import Merge, Reduction
from paretune.machine import environment
from paretune.measure.memory import saved_by
from paretune.plan import adapt
from paretune.training.runfolder import write_json

KINDS = {
    "linears": ("mm", "addmm", "bmm"),
    "attention": ("_scaled_dot_product", "_flash_attention", "scaled_dot"),
    "copies": ("copy_",),
    "GELU": ("gelu",),
    "additions": ("add", "add_", "mul", "sub"),
    "LayerNorm": ("native_layer_norm",),
    "indexing, joining, sorting": ("index", "gather", "cat", "sort", "scatter", "topk", "max", "unique"),
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS / "vit_b_profile.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    forwards = {one.name: forward(args.model, one, args.batch) for one in (Recipe("all tokens", ""), *REDUCERS)}
    parts = {"index and gather": rows(), "two ways to a mean": means()}
    for title, table in {"milliseconds of a forward": forwards, **parts}.items():
        print(title)
        for name, numbers in table.items():
            print(f"  {name:<12}" + "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
    write_json(args.out, {"kind": "profile", "model": args.model, "batch": args.batch, "forwards": forwards, **parts,
                          "environment": environment(torch.device("cpu"))})  # fmt: skip


@torch.inference_mode()
def forward(name: str, recipe: Recipe, batch: int) -> dict[str, float]:
    """Milliseconds per kind of operation in one forward after one to warm up."""
    model = adapt(name, recipe.adapters, recipe.reducer).eval()
    images = torch.randn(batch, *model.preprocessing["input_size"])
    model(images)
    with profile(activities=[ProfilerActivity.CPU]) as book:
        model(images)
    spent: Counter[str] = Counter()
    for entry in book.key_averages():
        spent[_kind(entry.key)] += entry.self_cpu_time_total / 1000
    return {"all": sum(spent.values()), **{kind: spent[kind] for kind in (*KINDS, "others")}}


def _kind(operation: str) -> str:
    name = operation.removeprefix("aten::")
    found = (kind for kind, starts in KINDS.items() if any(name.startswith(start) for start in starts))
    return next(found, "others")


def rows() -> dict[str, dict[str, float]]:
    """Milliseconds to pick 137 of 196 tokens of (8, 196, 768), forward and backward, and megabytes kept between."""
    keep = torch.stack([torch.randperm(196)[:137].sort().values for _ in range(8)])
    images = torch.arange(8)[:, None]
    return {
        "t[images, i]": both(lambda t: t[images, keep]),
        "t.gather": both(lambda t: t.gather(1, keep[..., None].expand(-1, -1, 768))),
    }


def means() -> dict[str, dict[str, float]]:
    """The same for the mean of ToMe's first reduction, 8 of 196 tokens join another one."""
    size = torch.ones(8, 196)
    order = torch.stack([torch.randperm(196) for _ in range(8)])
    merge = Merge(n_in=196, keep=order[:, 8:], src=order[:, :8], dst=torch.arange(8).expand(8, -1))
    return {
        "step": both(lambda t: merge.mean(t, size)),
        "sum, divide": both(lambda t: Reduction.mean(merge, t, size)),
    }


def both(run: Callable[[Tensor], Tensor], rounds: int = 30) -> dict[str, float]:
    """Of t (8, 196, 768): median milliseconds of forward and backward pass, megabytes that autograd keeps between."""
    leaf = torch.randn(8, 196, 768, requires_grad=True)
    t = leaf + 0  # as in a network, where what is kept of a token is kept for this operation's sake
    there, back = [], []
    for _ in range(rounds):
        start = perf_counter()
        out = run(t)
        there.append(perf_counter() - start)
        gradient = torch.ones_like(out)
        start = perf_counter()
        torch.autograd.grad(out, t, gradient)
        back.append(perf_counter() - start)
    return {
        "forward ms": 1e3 * median(there),
        "backward ms": 1e3 * median(back),
        "kept MB": saved_by(lambda: run(t), []) / 1e6,
    }


if __name__ == "__main__":
    main()
