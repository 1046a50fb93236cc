"""The trunk is timm's own forward, bit for bit, on every backbone that paretune claims; others are refused by name."""

import pytest
import timm
import torch
from anatomies import ANATOMIES, CLASSES, P8, awake
from torch import nn

import paretune as pt

VIT, DISTILLED, SIGLIP = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_base_patch16_siglip_224"
DINOV3, EVA02, ROPE_MIXED = "vit_small_patch16_dinov3", "eva02_base_patch14_224", "vit_small_patch16_rope_mixed_224"
REGISTERS = "vit_small_patch14_reg4_dinov2"

# The published architectures, by timm name; large ones with two blocks, which are blocks like all others.
PUBLISHED = {
    "vit_tiny_patch16_224.augreg_in21k": {},
    "vit_small_patch16_224.augreg_in21k": {},
    "vit_base_patch16_224.augreg_in21k": {"depth": 2},
    "vit_base_patch16_224.orig_in21k": {"depth": 2},
    "vit_large_patch16_224.augreg_in21k": {"depth": 2},
    "vit_base_patch16_224.mae": {"depth": 2},
    "deit_small_patch16_224": {},
    "deit_small_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_dinov2": {"img_size": 224},
    "vit_small_patch14_reg4_dinov2": {"img_size": 224},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {},
    "eva02_tiny_patch14_224": {},
    "vit_base_patch16_clip_224.openai": {"depth": 2},
    "vit_base_patch16_clip_quickgelu_224.openai": {"depth": 2},
    "vit_base_patch16_siglip_224": {"depth": 2},
    "vit_medium_patch16_gap_256": {},
    "vit_medium_patch16_reg4_gap_256": {},
    "vit_base_patch16_rope_reg1_gap_256": {"depth": 2},
    "vit_small_patch16_rope_mixed_ape_224": {},
    "vit_pe_core_tiny_patch16_384": {"depth": 2},
    "vit_tiny_r_s16_p8_224": {},
    "paretune_tiny": {},
}
POOLINGS = {
    "avg": (VIT, {"global_pool": "avg"}),
    "avg_with_prefix": (VIT, {"global_pool": "avg", "pool_include_prefix": True}),
    "max": (VIT, {"global_pool": "max"}),
    "avgmax": (VIT, {"global_pool": "avgmax"}),
    "map_without_prefix": (SIGLIP, {}),
    "map_over_cls_and_patches": ("vit_pe_core_base_patch16_224", {}),
    "rope_avg": (DINOV3, {"global_pool": "avg"}),
    "token": (VIT, {}),
    "two_tokens": (DISTILLED, {}),
}
REFUSED = {
    "swin_tiny_patch4_window7_224": ({}, "SwinTransformer"),
    "beit_base_patch16_224": ({}, "Beit"),
    "naflexvit_base_patch16_gap": ({}, "NaFlexVit"),
    "resnet18": ({}, "ResNet"),
    "convnext_atto": ({}, "ConvNeXt"),
    "vit_small_patch16_18x2_224": ({"depth": 1}, "ParallelThingsBlock"),
    "vit_base_patch16_xp_224": ({"depth": 1}, "ParallelScalingBlock"),
    "vit_dpwee_patch16_reg1_gap_256": ({"depth": 1}, "DiffParallelScalingBlock"),
    "vit_dwee_patch16_reg1_gap_256": ({"depth": 1}, "DiffAttention"),
}


def pictures(size: tuple[int, int], count: int = 2, seed: int = 1) -> torch.Tensor:
    """Random images (count, 3, H, W)."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def build(name: str, **options) -> nn.Module:
    """A timm model with weights that hide nothing."""
    torch.manual_seed(0)
    return awake(timm.create_model(name, **options)).eval()


@torch.no_grad()
def difference(model: nn.Module, reference: nn.Module, images: torch.Tensor) -> float:
    """The largest difference of the logits."""
    expected = reference(images)
    assert expected.std() > 1e-3, "the reference must depend on something"
    return (model(images) - expected).abs().max().item()


every_anatomy = pytest.mark.parametrize("anatomy", ANATOMIES)


def of(anatomy: str) -> tuple[nn.Module, torch.Tensor]:
    """A tiny backbone and two images for it."""
    return ANATOMIES[anatomy].build(0), pictures(ANATOMIES[anatomy].image_size)


@every_anatomy
def test_no_adapter_no_reducer_is_timm_bit_for_bit(anatomy):
    timm_model, images = of(anatomy)
    assert difference(pt.adapt(timm_model).eval(), timm_model, images) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_architectures_are_timm_bit_for_bit(name):
    timm_model = build(name, **PUBLISHED[name])
    images = pictures(timm_model.patch_embed.img_size, count=1)
    assert difference(pt.adapt(timm_model).eval(), timm_model, images) == 0.0


@pytest.mark.slow
def test_every_vit_that_timm_has_is_timm_bit_for_bit_or_refused_by_name():
    tiny = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    equal, refused = [], []
    for name in [n for family in ("vision_transformer", "deit", "eva") for n in timm.list_models(module=family)]:
        options = {"img_size": 64} if "_mci_" in name else {"img_size": 48, "patch_size": 8}
        options |= {"num_kv_heads": 1} if "sapiens" in name else {}
        timm_model = build(name, **tiny, **options)
        try:
            model = pt.adapt(timm_model, reducer=pt.ToMe(r=0)).eval()
        except pt.UsageError:
            refused.append(name)
            continue
        assert difference(model, timm_model, pictures(timm_model.patch_embed.img_size)) == 0.0, name
        equal.append(name)
    assert len(equal) > 150
    parallel_or_differential = ("18x2", "_xp_", "_pwee_", "_dwee_", "_dpwee_", "_dlittle_")
    assert [name for name in refused if not any(part in name for part in parallel_or_differential)] == []


@every_anatomy
def test_in_training_the_trunk_drops_out_what_timm_drops_out(anatomy):
    timm_model, images = of(anatomy)
    for module in timm_model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
        if hasattr(module, "drop_path1"):
            module.drop_path1, module.drop_path2 = timm.layers.DropPath(0.2), timm.layers.DropPath(0.3)
    logits = []
    for model in (timm_model, pt.adapt(timm_model).train()):
        torch.manual_seed(7)
        logits.append(model(images))
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], timm_model(images)), "dropout is on"


@pytest.mark.parametrize("name", [VIT, DINOV3, ROPE_MIXED])
def test_patch_dropout_without_a_reducer_is_timms(name):
    timm_model = build(name, patch_drop_rate=0.5, **P8).train()
    logits = []
    for model in (timm_model, pt.adapt(timm_model).train()):
        torch.manual_seed(7)
        logits.append(model(pictures((48, 48), count=3)))
    assert torch.equal(*logits)


@every_anatomy
@pytest.mark.parametrize("reducer", [pt.ToMe(r=0), pt.EViT(keep=1.0, blocks=(0, 1, 2, 3))], ids=["ToMe", "EViT"])
def test_a_reducer_that_removes_nothing_is_the_identity(anatomy, reducer):
    timm_model, images = of(anatomy)
    model = pt.adapt(timm_model, reducer=reducer).eval()
    assert difference(model, timm_model, images) == 0.0
    assert model.run(images).tokens.trail == ()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name_with_what_is(name):
    options, culprit = REFUSED[name]
    with pytest.raises(pt.UsageError, match=rf"{culprit}\b.*(VisionTransformer|Block|Attention)"):
        pt.adapt(timm.create_model(name, **options))


@pytest.mark.parametrize("name", [VIT, DINOV3])
def test_patch_dropout_with_a_reducer_is_refused(name):
    with pytest.raises(pt.UsageError, match="patch_drop_rate > 0"):
        pt.adapt(name, reducer=pt.ToMe(r=2), patch_drop_rate=0.5, **P8)


def test_a_pooling_without_classes_is_refused():
    with pytest.raises(pt.UsageError, match="pools by ''"):
        pt.adapt(VIT, global_pool="", **P8)


@every_anatomy
def test_images_of_a_wrong_size_are_refused_and_the_right_one_is_told(anatomy):
    timm_model, images = of(anatomy)
    height, width = images.shape[-2:]
    with pytest.raises(pt.UsageError, match=rf"images are {height}x{width + 4}.*resize them"):
        pt.adapt(timm_model)(pictures((height, width + 4)))


@pytest.mark.parametrize("size", [(48, 48), (64, 64), (40, 72), (24, 16)], ids=str)
@pytest.mark.parametrize("reducer", [None, pt.ToMe(r=0)], ids=str)
@pytest.mark.parametrize(
    "name", [VIT, DISTILLED, "deit3_small_patch16_224", REGISTERS, SIGLIP, DINOV3, EVA02, ROPE_MIXED]
)
def test_a_dynamic_image_size_is_timms(name, reducer, size):
    timm_model = build(name, dynamic_img_size=True, **P8)
    model = pt.adapt(timm_model, reducer=reducer).eval()
    assert difference(model, timm_model, pictures(size)) == 0.0
    assert model.run(pictures(size)).tokens.grid == (size[0] // 8, size[1] // 8)


def test_dynamic_padding_is_timms():
    timm_model = build(VIT, dynamic_img_size=True, dynamic_img_pad=True, **P8)
    model = pt.adapt(timm_model, reducer=pt.ToMe(r=2)).eval()
    assert difference(pt.adapt(timm_model).eval(), timm_model, pictures((43, 30))) == 0.0
    assert model.run(pictures((43, 30))).tokens.groups().shape == (2, 6 * 4)


@pytest.mark.parametrize("reducer", [None, pt.FPET(block=1), pt.EViT(keep=0.5, blocks=(1, 2))], ids=str)
@pytest.mark.parametrize("name", ["vit", "deit_distilled", "dinov3_bias", "rope_mixed", "siglip"])
def test_gradient_checkpointing_gives_the_same_gradients(name, reducer):
    gradients = []
    for enable in (False, True):
        timm_model, images = of(name)
        timm_model.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        model = pt.adapt(timm_model, [pt.LoRA(rank=2), pt.DenseAdapter(width=4)], reducer, classes=3).train()
        for tensor in model.parameters():
            tensor.data.add_(0.05) if tensor.requires_grad else None
        model(images).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        assert plain[name].abs().sum() > 0, name
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_merged_tokens_is_timms_pooling_of_their_copies(pooling):
    # A token of size s counts as s copies: in means by weight, in attention pooling by log-size, in maxima not at all.
    name, options = POOLINGS[pooling]
    timm_model = build(name, **{**P8, **options})
    run = pt.adapt(timm_model, reducer=pt.ToMe(r=(4, 5, 3))).eval().run(pictures((48, 48)))
    tokens = run.tokens
    assert tokens.size[:, tokens.prefix :].amax() >= 2
    assert tokens.size.sum(1).tolist() == [36 + tokens.prefix] * 2
    copies = torch.cat([tokens.x[:, : tokens.prefix], tokens.unmerge(tokens.x[:, tokens.prefix :])], dim=1)
    torch.testing.assert_close(run.logits, timm_model.forward_head(timm_model.norm(copies)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "dinov2_registers"])
def test_a_head_on_tokens_never_asks_for_sizes(name):
    timm_model, images = of(name)
    run = pt.adapt(timm_model, reducer=pt.ToMe(r=4)).eval().run(images)
    assert torch.equal(run.logits, timm_model.forward_head(timm_model.norm(run.tokens.x)))


def test_dropped_patches_take_no_part_in_pooling():
    timm_model = build(VIT, global_pool="avg", **P8)
    run = pt.adapt(timm_model, reducer=pt.EViT(keep=0.5, blocks=(3,), rest="drop")).eval().run(pictures((48, 48)))
    assert run.tokens.patches == 18
    torch.testing.assert_close(run.logits, timm_model.forward_head(timm_model.norm(run.tokens.x)), rtol=1e-5, atol=1e-5)
