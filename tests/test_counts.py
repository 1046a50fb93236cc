"""Parameters, multiply-accumulates and tokens per block: the papers' numbers, and a rule written here on its own."""

import math

import pytest
import timm
import torch

import paretune as pt


def adapt(adapters=(), reducer=None, classes=None, name="vit_base_patch16_224", **options):
    """An adapted model without weights: everything lives on the meta device."""
    with torch.device("meta"):
        backbone = timm.create_model(name, weight_init="skip", **options)
    return pt.adapt(backbone, adapters, reducer, classes)


def cost(*args, **options):
    return pt.cost(adapt(*args, **options))


def giga(macs):
    return round(macs / 1e9, 2)


# ----------------------------------------------------------------------------------------------------------- the rule


def vit(tokens, patches=196, d=768, p=16, classes=1000):
    """MACs of a ViT: `tokens` (in attention, in the MLP) of every block, prefix included."""
    blocks = sum(4 * d * d * a + 2 * a * a * d + 8 * d * d * m for a, m in tokens)
    return patches * d * 3 * p * p + blocks + d * classes


def evit_tokens(keep, blocks, patches=196, depth=12, fuse=True):
    """ceil(keep * patches) in exact arithmetic; the fused token is a candidate of the next reduction."""
    rows, now = [], patches
    for block in range(depth):
        left = min(now, -(-now * round(100 * keep) // 100) + fuse) if block in blocks else now
        rows.append((now + 1, left + 1))
        now = left
    return tuple(rows)


def tome_tokens(r, patches=196, depth=12):
    return tuple((patches + 1 - block * r, patches + 1 - (block + 1) * r) for block in range(depth))


def tome_matching(tokens, d=64):
    """|A| |B| d for the cosines of every block."""
    return sum(math.ceil((a - 1) / 2) * ((a - 1) // 2) * d for a, _ in tokens)


def fpet_tokens(block, patches=196, depth=12):
    half = patches // 2
    return tuple((197 if b <= block else half + 1, 197 if b < block else half + 1) for b in range(depth))


def fpet_matching(width=32, patches=196, d=64):
    """The refinement of all patch keys and the cosines between the halves."""
    return 2 * patches * d * width + (patches // 2) * (patches - patches // 2) * d


def evit_scores(tokens, d=768):
    """One attention row in every block that reduces."""
    return sum(a * d for a, m in tokens if m < a)


def dense_projections(tokens, h, d=768, narrow=False):
    """One down, one up and up to two skips in every block; narrow skips read h + 1 channels by a folded matrix."""
    total = 0
    for block, (_, m) in enumerate(tokens):
        skips = (block >= 1) + (block >= 3)
        total += 2 * m * d * h
        total += skips * (m * h * (h + 1) + d * h * (h + 1) if narrow else m * d * h)
    return total


# --------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("adapter", "trained"),
    [
        (pt.LoRA(rank=8), 294_912),
        (pt.AdaptFormer(width=8), 147_456),
        (pt.AdaptFormer(width=8, bias=True), 156_768),
        (pt.DenseAdapter(width=32), 1_091_584),
        (pt.DenseAdapter(width=32, carry="output"), 1_091_584),
        (pt.DenseAdapter(width=8), 279_808),
        (pt.Full(), 85_798_656 + 769_000),  # with the backbone's own head of 1000 classes
    ],
    ids=str,
)
def test_adapters_train_the_published_number_of_parameters(adapter, trained):
    counted = cost([adapter])
    assert counted.trained == trained
    assert counted.total == 86_567_656 + (0 if isinstance(adapter, pt.Full) else trained)


def test_a_new_head_is_counted_apart():
    counted = cost([pt.LoRA(rank=8)], pt.FPET(block=6), classes=100)
    assert counted.trained_head == 76_900
    assert counted.trained_without_head == 294_912 + 4_096  # the refinement of FPET trains too
    assert counted.trained == 76_900 + 294_912 + 4_096
    assert counted.to_dict()["trained_without_head"] == counted.trained_without_head


# --------------------------------------------------------------------------------------------------------------- MACs


@pytest.mark.parametrize(
    ("reducer", "published"),
    [(None, 17.56), (pt.FPET(block=6), 13.41), (pt.EViT(0.7, (3, 6, 9)), 11.61), (pt.ToMe(r=8), 13.11)],
    ids=str,
)
def test_vit_base_costs_the_published_macs(reducer, published):
    assert giga(cost(reducer=reducer).macs) == published


def test_tome_costs_13_10_and_its_matching():
    tokens = tome_tokens(8)
    counted = cost(reducer=pt.ToMe(r=8))
    assert counted.tokens == tokens
    assert giga(vit(tokens)) == 13.10
    assert counted.macs == vit(tokens) + tome_matching(tokens)


@pytest.mark.parametrize(
    ("keep", "rest"), [(0.3, "merge"), (0.55, "drop"), (0.7, "merge"), (0.7, "argmax"), (0.7, "drop"), (1.0, "merge")]
)
def test_evit_costs_what_the_rule_says(keep, rest):
    tokens = evit_tokens(keep, (3, 6, 9), fuse=rest != "drop")
    counted = cost(reducer=pt.EViT(keep, (3, 6, 9), rest))
    assert counted.tokens == tokens
    assert counted.macs == vit(tokens) + evit_scores(tokens)


def test_the_rule_gives_the_published_keep_rate_table():
    table = {0.3: (6.892, 6.830), 0.5: (8.819, 8.715), 0.7: (11.609, 11.484), 0.9: (15.395, 15.267)}
    for keep, published in table.items():
        found = [vit(evit_tokens(keep, (3, 6, 9), fuse=fuse), classes=0) for fuse in (True, False)]
        assert tuple(round(macs / 1e9, 3) for macs in found) == published


@pytest.mark.parametrize(("block", "width"), [(0, 32), (3, 64), (6, 0), (6, 32), (11, 32)])
def test_fpet_costs_what_the_rule_says(block, width):
    tokens = fpet_tokens(block)
    counted = cost(reducer=pt.FPET(block=block, refine_width=width))
    assert counted.tokens == tokens
    assert counted.macs == vit(tokens) + fpet_matching(width)
    published = {0: 8.98, 3: 11.20, 6: 13.41, 11: 17.10}
    assert giga(vit(tokens, classes=0)) == published[block]


@pytest.mark.parametrize(("carry", "published"), [("output", 11.74), ("activation", 11.70)])
def test_dense_adapters_with_evit_cost_11_74_by_the_plain_formula_and_less_with_the_narrow_carry(carry, published):
    tokens = evit_tokens(0.7, (3, 6, 9))
    counted = cost([pt.DenseAdapter(width=32, carry=carry)], pt.EViT(0.7, (3, 6, 9)))
    extra = dense_projections(tokens, 32, narrow=carry == "activation")
    assert counted.macs == vit(tokens) + evit_scores(tokens) + extra
    assert giga(counted.macs) == published


def test_lora_and_adaptformer_cost_their_projections():
    full = evit_tokens(1.0, ())
    assert cost([pt.LoRA(rank=8)]).macs == vit(full) + 12 * 197 * 4 * 768 * 8
    assert cost([pt.AdaptFormer(width=8)]).macs == vit(full) + 12 * 197 * 2 * 768 * 8


@pytest.mark.parametrize(
    ("name", "published", "shape"),
    [
        ("vit_large_patch16_224", 61.554, {"depth": 24, "d": 1024}),
        ("deit_small_patch16_224", 4.598, {"depth": 12, "d": 384}),
    ],
)
def test_other_backbones_cost_what_the_rule_says(name, published, shape):
    macs = vit(((197, 197),) * shape["depth"], d=shape["d"], classes=0)
    assert round(macs / 1e9, 3) == published
    assert cost(name=name, num_classes=0).macs == macs


def test_images_of_another_size_cost_what_the_rule_says():
    model = adapt(reducer=pt.EViT(0.7, (3, 6, 9)), dynamic_img_size=True)
    for (height, width), patches in (((384, 384), 576), ((192, 256), 192)):
        tokens = evit_tokens(0.7, (3, 6, 9), patches)
        counted = pt.cost(model, (height, width))
        assert counted.image_size == (height, width)
        assert counted.tokens == tokens
        assert counted.macs == vit(tokens, patches) + evit_scores(tokens)


# ------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("keep", "rest", "size", "left"),
    [
        (0.9, "merge", 224, (179, 163, 148)),
        (0.7, "merge", 224, (140, 100, 72)),
        (0.5, "merge", 224, (100, 52, 28)),
        (0.9, "drop", 224, (178, 161, 145)),
        (0.7, "drop", 224, (139, 98, 69)),
        (0.5, "drop", 224, (99, 50, 26)),
        (0.7, "merge", 384, (406, 286, 202)),
        (0.7, "merge", (192, 256), (137, 98, 70)),
        (0.55, "drop", 160, (56, 32, 19)),  # ceil(0.55 * 100) is 55, its binary fraction lies above
    ],
)
def test_evit_leaves_the_documented_tokens(keep, rest, size, left):
    counted = cost(reducer=pt.EViT(keep, (3, 6, 9), rest), img_size=size)
    assert tuple(counted.tokens[block][1] for block in (3, 6, 9)) == left
    assert tuple(counted.tokens[block][0] for block in (4, 7, 10)) == left


def test_counting_changes_nothing_and_prints_what_it_found():
    model = adapt([pt.LoRA(rank=8)], pt.ToMe(r=8)).train()
    counted = pt.cost(model)
    assert model.training
    assert all(p.device.type == "meta" and p.grad is None for p in model.parameters())
    assert pt.cost(model) == counted
    text = str(counted)
    assert "294,912" in text
    assert f"{counted.macs / 1e9:.2f} GMACs at 224x224" in text
    assert "197>189" in text
