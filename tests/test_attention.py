"""Attention over tokens of unequal size, and what a reducer sees of it, against attention written out."""

from dataclasses import replace

import pytest
import torch
from anatomies import ANATOMIES
from timm.layers import apply_rot_embed_cat

import paretune as pt
from paretune.core import anatomy
from paretune.core.attention import Look, attend
from paretune.core.method import Reducer, Shape

SIZES = torch.tensor([3, 1, 2, 1, 5])


class Spy(Reducer):
    """Reduces nothing and remembers what it may look at in every block."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, block, look, tokens):
        self.seen.append((look, tokens))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def logits(backbone, tokens):
    return anatomy.head(backbone, anatomy.final_norm(backbone, tokens.x), tokens)


# ---------------------------------------------------------------------------------------------- a token of size k is k


def test_attention_to_a_token_of_size_k_is_attention_to_k_copies():
    q, k, v = random(3, 2, 4, 5, 8)
    found = attend(q, k, v, SIZES.double().expand(2, -1))
    copies = attend(q, *(t.repeat_interleave(SIZES, dim=2) for t in (k, v)), None)
    close(found, copies)
    assert (found - attend(q, k, v, None)).abs().max() > 1e-2


def test_the_score_of_a_token_of_size_k_is_the_score_of_k_copies():
    q, k = random(2, 2, 4, 1 + 5, 8).float()
    sizes = torch.cat([torch.ones(1, dtype=torch.long), SIZES])
    merged = Look(q, k, k, sizes.float().expand(2, -1), prefix=1, readers=1).scores()
    q, k = (t.repeat_interleave(sizes, dim=2) for t in (q, k))
    copies = Look(q, k, k, None, prefix=1, readers=1).scores()
    total = torch.zeros_like(merged).index_add(1, torch.arange(5).repeat_interleave(SIZES), copies)
    close(merged, total, 1e-6)


@pytest.mark.parametrize("name", ["vit", "gap", "mae", "siglip", "deit_distilled", "dinov3", "eva02", "rope_mixed"])
def test_a_whole_model_treats_a_token_of_size_k_as_k_copies(name):
    build, size = ANATOMIES[name]
    model = pt.adapt(build(0).double(), [], pt.FPET(block=0))  # proportional; starts after its block here
    sizes = torch.randint(1, 4, (1, 200), generator=torch.Generator().manual_seed(2))

    merged = anatomy.embed(model.backbone, random(1, 3, *size))
    sizes = sizes[:, : merged.x.shape[1]].clone()
    sizes[:, : merged.prefix] = 1
    merged = replace(merged, size=sizes.double())
    copies = replace(
        merged,
        x=merged.x.repeat_interleave(sizes[0], dim=1),
        rope=None if merged.rope is None else merged.rope.repeat_interleave(sizes[0, merged.prefix :], dim=1),
        size=None,
    )
    alike = merged
    for block in range(1, 4):
        merged, copies, alike = (
            model.step(block, t, model.reducer) for t in (merged, copies, replace(alike, size=None))
        )
    close(copies.x, merged.x.repeat_interleave(sizes[0], dim=1))
    assert (alike.x - merged.x).abs().max() > 1e-2
    close(logits(model.backbone, merged), logits(model.backbone, copies), 1e-6)


@pytest.mark.parametrize("pool", ["avg", "avgmax", "max"])
def test_pooling_weighs_a_merged_token_by_its_size(pool):
    backbone = ANATOMIES["vit"].build(0).double()
    backbone.global_pool = pool
    sizes = torch.randint(2, 6, (1, 37), generator=torch.Generator().manual_seed(3))
    sizes[:, 0] = 1
    merged = replace(anatomy.embed(backbone, random(1, 3, 48, 48)), size=sizes.double())
    copies = replace(merged, x=merged.x.repeat_interleave(sizes[0], dim=1), size=None)
    close(logits(backbone, merged), logits(backbone, copies), 1e-6)


def test_sizes_weigh_in_only_where_the_reducer_says_so():
    build, size = ANATOMIES["vit"]
    images = random(2, 3, *size).float()
    with torch.no_grad():
        runs = [pt.adapt(build(0), [], pt.ToMe(r=4, proportional=p)).run(images) for p in (True, False)]
    assert torch.equal(runs[0].tokens.trail[0].reduction.groups(), runs[1].tokens.trail[0].reduction.groups())
    assert (runs[0].logits - runs[1].logits).abs().max() > 1e-4


# ------------------------------------------------------------------------------------------------ what a reducer sees


def looks(model, images):
    """By block: what a reducer sees, and what timm's own attention there gets, (B, N, D), and forms, (B, H, N, N)."""
    inputs, maps = [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: maps.append(output))
    adapted = pt.adapt(model)
    adapted.reducer = Spy()
    with torch.no_grad():
        model(images)
        adapted(images)
    return list(zip(adapted.reducer.seen, inputs, maps, model.blocks, strict=True))


def test_scores_are_the_rows_of_the_explicit_attention_map(backbone):
    for (look, tokens), _, attention, _ in looks(*backbone):
        # the rows of CLS and, where there is one, of the distillation token; without either, of all patches
        asking = slice(0, tokens.readers) if tokens.readers else slice(tokens.prefix, None)
        close(look.scores(), attention[:, :, asking, tokens.prefix :].mean((1, 2)), 1e-6)
        assert look.scores().std(1).min() > 1e-3 * look.scores().mean()


def test_scores_under_autocast_are_those_of_full_precision():
    q, k = torch.randn(2, 2, 3, 200, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    look = Look(q, k, k, None, prefix=1, readers=1)
    exact = (q[:, :, :1].double() @ k.double().mT / 4).softmax(-1)[..., 1:].mean((1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        scores = look.scores()
    assert scores.dtype == torch.float32
    close(scores.double(), exact, 1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_fused_token_is_weighed_by_its_scores_and_hands_gradients_back_to_them(made_up, normalise):
    look, tokens = made_up((4, 4))
    shape = Shape(depth=1, width=16, head_width=8, grid=(4, 4), prefix=1)
    reducer = pt.EViT(keep=0.5, blocks=(0,), normalise=normalise).build(shape)
    look.q.requires_grad_()
    fused = tokens.shrink(0, reducer(0, look, tokens)).x[:, -1]
    scores = (look.q[:, :, :1] @ look.k.mT / 8**0.5).softmax(-1)[..., 1:].mean((1, 2))
    weights = scores * (scores < scores.sort(descending=True).values[:, 7:8])  # eight of sixteen are kept
    expected = torch.einsum("bm,bmd->bd", weights, tokens.x[:, 1:])
    expected = expected / weights.sum(-1, keepdim=True) if normalise else expected
    close(fused, expected, 1e-5)
    found, expected = (torch.autograd.grad(t.square().sum(), look.q)[0] for t in (fused, expected))
    assert expected[:, :, 0].abs().min() > 0
    close(found, expected, 1e-5)


def test_a_fused_token_whose_scores_are_all_zero_is_a_plain_mean(made_up):
    look, tokens = made_up((4, 4))
    look = replace(look, q=look.q * 1e4)  # all attention goes to one token per head
    shape = Shape(depth=1, width=16, head_width=8, grid=(4, 4), prefix=1)
    reduction = pt.EViT(keep=0.5, blocks=(0,)).build(shape)(0, look, tokens)
    others = torch.cat([reduction.keep[:, -1:], reduction.src], dim=1)
    assert (look.scores().gather(1, others) == 0).all()
    for b in range(2):
        close(tokens.shrink(0, reduction).x[b, -1], tokens.x[b, 1 + others[b]].mean(0), 1e-5)


def test_the_metric_is_the_mean_over_heads_of_the_patch_keys_before_rotation(backbone):
    for (look, tokens), h, _, block in looks(*backbone):
        attn = block.attn
        with torch.no_grad():  # EVA's key bias is a buffer of zeros
            keys = attn.qkv(h).chunk(3, dim=-1)[1] if getattr(attn, "qkv", None) else attn.k_proj(h)
            heads = attn.k_norm(keys.unflatten(-1, (-1, attn.head_dim)))
        close(look.metric(), heads.mean(2)[:, tokens.prefix :], 1e-5)


@pytest.mark.parametrize("name", ["dinov3", "eva02", "rope_mixed"])
def test_keys_are_seen_before_and_after_rotation(name):
    build, size = ANATOMIES[name]
    for block, ((look, tokens), *_) in enumerate(looks(build(0), random(2, 3, *size).float())):
        table = tokens.rope[0, :, min(block, tokens.rope.shape[2] - 1)].transpose(0, 1)
        half = name == "dinov3"
        turned = apply_rot_embed_cat(look.plain[:, :, tokens.prefix :], table, half=half)
        close(look.k[:, :, tokens.prefix :], turned, 1e-6)
        assert torch.equal(look.k[:, :, : tokens.prefix], look.plain[:, :, : tokens.prefix])
        assert (look.k - look.plain).abs().max() > 0.1
