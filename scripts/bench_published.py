"""Time ToMe and FPET here beside the same methods as they were published, step by step.

Writes bench/results/published_speed.json.

    published   explicit attention with a log-size bias; all tokens weighted by their sizes, gathered, added with
                scatter_reduce (ToMe) or multiplied with a dense matrix (FPET), and divided
    timm        the backbone's own forward, with fused and with explicit attention

python scripts/bench_published.py [--model NAME] [--batch N ...] [--rounds N]      about three minutes on two cores

Everyone runs once a round, in shuffled order, on the same weights, without a gradient. Ratios are medians over the
rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import paretune as pt
from paretune.machine import environment
from paretune.timing.rounds import interleaved, times

OUT = Path(__file__).parents[1] / "bench" / "results" / "published_speed.json"
Merger = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def published(vit: nn.Module, merger: Merger, images: Tensor) -> Tensor:
    """A ViT whose blocks attend explicitly and merge between attention and MLP: images (B, 3, H, W) -> logits."""
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    size = torch.ones_like(x[..., :1])
    for i, block in enumerate(vit.blocks):
        attn = block.attn
        qkv = attn.qkv(block.norm1(x)).reshape(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        logits = (q * attn.scale) @ k.transpose(-2, -1)
        if size.shape[1] < vit.pos_embed.shape[1]:  # something has merged
            logits = logits + size.log()[:, None, None, :, 0]
        y = (logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(x.shape)
        x, size = merger(i, x + block.ls1(attn.proj(y)), k.mean(1), size)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return vit.forward_head(vit.norm(x))


def tome(r: int, i: int, x: Tensor, key: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """r pairs in every block (Bolya et al. 2023, appendix D), CLS protected."""
    key = key / key.norm(dim=-1, keepdim=True)
    scores = key[:, ::2] @ key[:, 1::2].transpose(-1, -2)
    scores[:, 0] = -torch.inf
    best, partner = scores.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)[..., None]
    stay, go = order[:, r:].sort(dim=1).values, order[:, :r]
    to = partner[..., None].gather(1, go)

    def merge(t: Tensor) -> Tensor:
        a, b = t[:, ::2], t[:, 1::2]
        width = t.shape[-1]
        kept = a.gather(1, stay.expand(-1, -1, width))
        moved = a.gather(1, go.expand(-1, -1, width))
        return torch.cat([kept, b.scatter_reduce(1, to.expand(-1, -1, width), moved, "sum")], dim=1)

    total, sizes = merge(x * size), merge(size)
    return total / sizes, sizes


def fpet(refine: nn.Module, at: int, i: int, x: Tensor, key: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the patches in block `at` (FPET, section 3.3): a dense matrix of soft matches, thresholded."""
    if i != at:
        return x, size
    side = int((x.shape[1] - 1) ** 0.5)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    odd = (rows + columns).flatten() % 2 == 1
    a, b = 1 + (~odd).nonzero()[:, 0], torch.cat([torch.zeros(1, dtype=torch.long), 1 + odd.nonzero()[:, 0]])
    key = refine(key)
    key = key / key.norm(dim=-1, keepdim=True)
    scores = key[:, a] @ key[:, b].transpose(-1, -2)
    scores[:, :, 0] = -torch.inf
    soft = (scores - scores.topk(2, dim=-1).values.mean(-1, keepdim=True)).sigmoid()
    match = soft + ((soft > 0.5).to(soft.dtype) - soft).detach()
    total, sizes = (t[:, b] + match.transpose(-1, -2) @ t[:, a] for t in (x * size, size))
    return total / sizes, sizes


def contestants(model: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Everyone by name, with equal weights."""
    torch.manual_seed(0)
    base = timm.create_model(model).eval()
    explicit = copy.deepcopy(base)
    for block in explicit.blocks:
        block.attn.fused_attn = False
    ours_tome = pt.adapt(copy.deepcopy(base), [], pt.ToMe(r=8)).eval()
    ours_fpet = pt.adapt(copy.deepcopy(base), [], pt.FPET()).eval()
    at = len(base.blocks) // 2
    return {
        "timm": base,
        "timm, explicit attention": explicit,
        "paretune, nothing merged": pt.adapt(copy.deepcopy(base)).eval(),
        "ToMe r=8": ours_tome,
        "ToMe r=8, as published": partial(published, copy.deepcopy(base), partial(tome, 8)),
        "FPET": ours_fpet,
        "FPET, as published": partial(published, copy.deepcopy(base), partial(fpet, ours_fpet.reducer.refine[0], at)),
    }


@torch.inference_mode()
def measure(model: str, batches: list[int], rounds: int, size: int) -> dict[int, dict[str, dict]]:
    """{batch: {name: times}}; first that both forms of a method compute the same."""
    everyone = contestants(model)
    images = torch.randn(max(batches), 3, size, size, generator=torch.Generator().manual_seed(0))
    for name in ("ToMe r=8", "FPET"):
        ours, theirs = everyone[name](images[:1]), everyone[f"{name}, as published"](images[:1])
        print(f"{name}: logits differ by at most {(ours - theirs).abs().max():.1e}")
    groups = [
        {(name, batch): partial(run, images[:batch]) for name, run in everyone.items()}
        for batch in sorted(set(batches))
    ]
    seconds: dict[tuple[str, int], list[float]] = {}
    for key, taken in interleaved(groups, rounds + 2, torch.device("cpu")):
        if isinstance(taken, Exception):
            raise taken
        seconds.setdefault(key, []).append(taken)
    found: dict[int, dict[str, dict]] = {}
    for (name, batch), taken in seconds.items():
        found.setdefault(batch, {})[name] = times(taken[2:], batch, seconds["timm", batch][2:]).to_dict()
    return found


def against(rows: dict[str, dict], name: str) -> float:
    """The time of a method here to the time of its published form, median of the rounds' ratios."""
    return times(rows[name]["seconds"], 1, rows[f"{name}, as published"]["seconds"]).ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=224)
    asked = parser.parse_args()
    result = measure(asked.model, asked.batch, asked.rounds, asked.size)
    for batch, rows in result.items():
        print(f"batch {batch}")
        for name, row in rows.items():
            print(f"  {name:<26} {row['ms_per_image']:7.1f} ms/image   {row['ratio']:.3f} of timm")
        for name in ("ToMe r=8", "FPET"):
            print(f"  {name}: {against(rows, name):.3f} of the published form's time")
    OUT.write_text(
        json.dumps({"model": asked.model, "machine": environment(torch.device("cpu")), "batches": result}, indent=1)
        + "\n"
    )
    print(OUT)
