"""RepAdapter: the paper's formula, where it sits, what it counts, and that the layers behind it take it up exactly."""

import copy

import pytest
import timm
import torch
from anatomies import ANATOMIES
from torch import nn

import paretune as pt
from paretune.adapters.lora import LoRALeaf
from paretune.adapters.repadapter import RepLeaf
from paretune.core.leaf import Biased, Leafed, folded

REP = pt.RepAdapter()


def adapted(anatomy="vit", adapters=(REP,)):
    torch.manual_seed(0)
    return pt.adapt(ANATOMIES[anatomy].build(0), list(adapters), None, 5)


def leaves(model):
    """The name and leaf of every layer that has a RepLeaf on it, the outermost if there are several."""
    return {n: m.leaf for n, m in model.named_modules() if isinstance(m, Leafed) and isinstance(m.leaf, RepLeaf)}


def stirred_leaf(width=12, **settings):
    config = pt.RepAdapter(**{"rank": 6, "groups": 2, "scale": 0.7, **settings})
    leaf = RepLeaf(width, config.rank, config)
    for p in leaf.parameters():
        nn.init.normal_(p, std=0.5)
    return leaf.double().eval()


def by_hand(leaf, z):
    """s (B (A z + a) + b), one output channel after the other."""
    hidden = z @ leaf.down.weight.T + leaf.down.bias
    width, own = leaf.up.shape
    channels = []
    for channel in range(width):
        first = channel * leaf.groups // width * own
        channels.append(hidden[..., first : first + own] @ leaf.up[channel] + leaf.bias[channel])
    return leaf.scale * torch.stack(channels, dim=-1)


# ------------------------------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize(("rank", "groups"), [(6, 1), (6, 2), (6, 3), (6, 6), (4, 4)])
def test_it_adds_a_grouped_bottleneck_to_what_the_layer_reads(rank, groups):
    torch.manual_seed(rank + groups)
    leaf, layer = stirred_leaf(rank=rank, groups=groups), nn.Linear(12, 5).double()
    z = torch.randn(3, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(leaf(layer, z), layer(z + by_hand(leaf, z)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", ["alone", "over LoRA", "under LoRA", "twice", "between"])
def test_the_layer_takes_it_up_exactly_in_every_order_of_leaves(order, bias):
    torch.manual_seed(1)
    layer = nn.Linear(12, 9, bias=bias).double()

    def lora():
        leaf = LoRALeaf(12, 9, {"q": (0, 3), "v": (6, 9)}, 2, pt.LoRA(rank=2, scale=0.5))
        for p in leaf.parameters():
            nn.init.normal_(p, std=0.5)
        return leaf.double().eval()

    rep = stirred_leaf()
    stack = {"alone": [rep], "over LoRA": [lora(), rep], "under LoRA": [rep, lora()],
             "twice": [rep, stirred_leaf(groups=3)], "between": [lora(), rep, lora()]}  # fmt: skip
    before, whole = copy.deepcopy(layer.state_dict()), layer
    for leaf in stack[order]:
        whole = Leafed(whole, leaf)
    z = torch.randn(3, 7, 12, dtype=torch.float64)
    plain = folded(whole)
    assert isinstance(plain, nn.Linear if bias else Biased)
    torch.testing.assert_close(plain(z), whole(z), rtol=1e-12, atol=1e-12)
    assert (plain(z) - layer(z)).abs().max() > 0.1
    assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_layer_that_reads_through_it_reads_differently_over_and_under_another_leaf():
    torch.manual_seed(2)
    rep, other = stirred_leaf(), LoRALeaf(12, 9, {"q": None}, 2, pt.LoRA(rank=2))
    nn.init.normal_(other.low_rank["q"].up.weight)
    other, layer, z = other.double().eval(), nn.Linear(12, 9).double(), torch.randn(4, 12, dtype=torch.float64)
    over, under = Leafed(Leafed(layer, other), rep), Leafed(Leafed(layer, rep), other)
    assert (over(z) - under(z)).abs().max() > 0.1
    torch.testing.assert_close(over(z) - under(z), other.low_rank["q"](by_hand(rep, z)), rtol=1e-10, atol=1e-10)


def test_dropout_sits_in_the_bottleneck_and_only_in_training():
    leaf, z = stirred_leaf(dropout=0.5), torch.randn(2, 50, 12, dtype=torch.float64)
    layer = nn.Identity()
    assert torch.equal(leaf(layer, z), leaf(layer, z))
    torch.manual_seed(0)
    change = (leaf.train()(layer, z) - z - leaf.scale * leaf.bias).flatten(0, 1)
    kept = torch.linalg.lstsq(torch.block_diag(*leaf.up.chunk(2)), change.T / leaf.scale).solution.T  # (100, r)
    hidden = leaf.down(z).flatten(0, 1)
    ratio = (kept / hidden).detach()
    assert set(ratio.round(decimals=6).abs().unique().tolist()) == {0.0, 2.0}


# ------------------------------------------------------------------------------------------------------ where it sits


@pytest.mark.parametrize(
    ("before", "names"),
    [("attn mlp", {"qkv", "fc1"}), ("attn", {"qkv"}), ("mlp", {"fc1"})],
    ids=["both", "attn", "mlp"],
)
def test_it_precedes_attention_and_mlp_of_every_block(before, names):
    found = leaves(adapted(adapters=[pt.RepAdapter(before=before)]))
    assert {name.rpartition(".")[2] for name in found} == names
    assert len(found) == 4 * len(names)


@pytest.mark.parametrize(
    ("anatomy", "names"),
    [
        ("dinov3_swiglu", {"qkv", "fc1_g", "fc1_x"}),
        ("grouped_queries", {"q_proj", "k_proj", "v_proj", "fc1"}),
    ],
)
def test_where_several_linears_read_the_same_each_has_its_own(anatomy, names):
    found = leaves(adapted(anatomy))
    assert names <= {name.rpartition(".")[2] for name in found}
    assert not [name for name in found if name.endswith((".proj", ".fc2"))]
    assert len({id(leaf) for leaf in found.values()}) == len(found)


def test_a_block_reads_what_the_paper_draws():
    """x -> y = x + MHA(R1(LN1 x)) -> y + MLP(R2(LN2 y)), computed with timm's own sub-layers."""
    model = adapted(adapters=[pt.RepAdapter(rank=6, scale=2.0)]).double().eval()
    for leaf in leaves(model).values():
        for p in leaf.parameters():
            nn.init.normal_(p, std=0.2)
    plain = ANATOMIES["vit"].build(0).double()
    plain.reset_classifier(5)
    plain.head.load_state_dict(model.backbone.head.state_dict())
    rep = leaves(model)
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        x = plain._pos_embed(plain.patch_embed(images))
        for i, block in enumerate(plain.blocks):
            z = block.norm1(x)
            x = x + block.attn(z + by_hand(rep[f"backbone.blocks.{i}.attn.qkv"], z))
            z = block.norm2(x)
            x = x + block.mlp(z + by_hand(rep[f"backbone.blocks.{i}.mlp.fc1"], z))
        expected = plain.forward_head(plain.norm(x))
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("anatomy", ["vit", "eva02_fused", "dinov3", "grouped_queries", "respost"])
def test_merging_is_exact_also_where_the_backbone_keeps_the_bias_elsewhere(anatomy):
    model = adapted(anatomy, [pt.LoRA(rank=2, at="q v fc1"), pt.RepAdapter(), pt.LoRA(rank=1)]).double().eval()
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.1)
    images = torch.randn(2, 3, *ANATOMIES[anatomy].image_size, dtype=torch.float64)
    with torch.no_grad():
        merged = pt.merge(model)
        torch.testing.assert_close(merged(images), model(images), rtol=1e-9, atol=1e-9)
        constant = copy.deepcopy(model)
        for leaf in leaves(constant).values():
            leaf.bias.zero_(), leaf.down.bias.zero_()
        assert (constant(images) - model(images)).abs().max() > 1e-4, "the constant part must matter here"


# ------------------------------------------------------------------------------------------------ start, counts, recipe


def test_it_starts_as_the_backbone_with_the_papers_initial_values():
    model, plain = adapted().eval(), adapted(adapters=[]).eval()
    plain.backbone.head.load_state_dict(model.backbone.head.state_dict())
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
    for leaf in leaves(model).values():
        bound = (6 / (24 + 8)) ** 0.5  # xavier
        assert 0.9 * bound < leaf.down.weight.abs().max() <= bound
        assert not any(p.any() for p in (leaf.down.bias, leaf.up, leaf.bias))


@pytest.mark.parametrize(
    ("adapter", "trained", "weights"),
    [
        (pt.RepAdapter(), 239_808, 221_184),
        (pt.RepAdapter(before="attn"), 119_904, 110_592),
        (pt.RepAdapter(groups=1), 313_536, 294_912),
        (pt.RepAdapter(rank=16, groups=4), 387_456, 368_640),
    ],
    ids=str,
)
def test_vit_base_trains_the_published_number_of_parameters(adapter, trained, weights):
    with torch.device("meta"):
        backbone = timm.create_model("vit_base_patch16_224", weight_init="skip")
    model = pt.adapt(backbone, [adapter])
    assert pt.cost(model).trained == trained
    assert sum(p.numel() for p in model.parameters() if p.requires_grad and p.dim() == 2) == weights


def test_merged_it_costs_what_the_backbone_costs():
    plain, model = adapted(adapters=[]), adapted()
    tokens, modules, width, rank, groups = 37, 8, 24, 8, 2
    extra = modules * tokens * (width * rank + width * rank // groups)
    assert pt.cost(model).macs == pt.cost(plain).macs + extra
    assert pt.cost(pt.merge(model)).macs == pt.cost(plain).macs


def test_the_named_recipes_are_the_published_settings():
    alone, fpet = pt.recipe("repadapter"), pt.recipe("fpet-repadapter")
    assert alone.adapters == fpet.adapters == (pt.RepAdapter(rank=8, groups=2, scale=1.0, dropout=0.1),)
    assert (alone.reducer, fpet.reducer) == (None, pt.recipe("fpet-lora").reducer)
    assert alone.schedule == fpet.schedule == pt.recipe("lora").schedule


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (pt.RepAdapter(rank=0), "RepAdapter rank=0: must be 1 to 24"),
        (pt.RepAdapter(rank=26), "RepAdapter rank=26: must be 1 to 24"),
        (pt.RepAdapter(groups=0), "RepAdapter groups=0: must divide rank=8 and the width 24"),
        (pt.RepAdapter(groups=3), "groups=3: must divide rank=8"),
        (pt.RepAdapter(rank=10, groups=5), "groups=5: must divide rank=10 and the width 24"),
        (pt.RepAdapter(dropout=1.0), r"RepAdapter dropout=1.0: must be in \[0, 1\)"),
        (pt.RepAdapter(before="qkv"), "RepAdapter before='qkv': must be 'attn mlp', 'attn' or 'mlp'"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(wrong, says):
    with pytest.raises(pt.UsageError, match=says):
        adapted(adapters=[wrong])
