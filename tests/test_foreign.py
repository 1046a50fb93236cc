"""Weights as Hugging Face keeps them: every family computes what transformers computes; names lead to timm's."""

import json
import logging
import shutil
import time
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import paretune as pt
from paretune.named_backbone import _tell, known_name, obtain
from paretune.pretrained import FAMILIES, foreign

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
WIDE = {**TINY, "intermediate_size": 64}
EPS = {"layer_norm_eps": 1e-6}  # timm's; transformers' own for ViT and DeiT is 1e-12
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "projection_size": 32}  # fmt: skip


@pytest.fixture(scope="module")
def hf():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("transformers")
    found.utils.logging.set_verbosity_error()
    found.utils.logging.disable_progress_bar()
    return found


# How to make each one, what its file is read as, and what is compared with the outputs of timm's model.
MODELS = {
    "vit": (lambda t: t.ViTForImageClassification(t.ViTConfig(**WIDE, **EPS, num_labels=5)), "ViT", "logits"),
    "vit-bare": (lambda t: t.ViTModel(t.ViTConfig(**WIDE, **EPS)), "ViT", "token"),
    "vit-no-bias": (lambda t: t.ViTModel(t.ViTConfig(**WIDE, **EPS, qkv_bias=False)), "ViT", "token"),
    "deit": (
        lambda t: t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**WIDE, **EPS, num_labels=5)), "DeiT", "logits",
    ),
    "dinov2": (lambda t: t.Dinov2Model(t.Dinov2Config(**TINY, mlp_ratio=2)), "DINOv2", "token"),
    "registers": (
        lambda t: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**TINY, mlp_ratio=2, num_register_tokens=3)
        ), "DINOv2 with registers", "token",
    ),
    "dinov3": (lambda t: t.DINOv3ViTModel(t.DINOv3ViTConfig(**WIDE, num_register_tokens=4)), "DINOv3", "token"),
    "clip": (lambda t: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**WIDE, projection_dim=12)), "CLIP",
             "image_embeds"),
    "clip-gelu": (lambda t: t.CLIPVisionModel(t.CLIPVisionConfig(**WIDE, hidden_act="gelu")), "CLIP", "pooler_output"),
    "clip-whole": (
        lambda t: t.CLIPModel(t.CLIPConfig(vision_config=WIDE, text_config=TEXT, projection_dim=12)), "CLIP", "whole",
    ),
    "siglip": (lambda t: t.SiglipVisionModel(t.SiglipVisionConfig(**WIDE)), "SigLIP", "pooler_output"),
    "siglip-whole": (
        lambda t: t.SiglipModel(t.SiglipConfig(vision_config=WIDE, text_config=TEXT)), "SigLIP", "whole",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(hf, tmp_path_factory):
    """Every model with random weights, saved as transformers saves it, with what it says of two images."""
    made = {}
    for name, (build, family, what) in MODELS.items():
        torch.manual_seed(0)
        model = build(hf).eval()
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(torch.randn_like(tensor) * 0.05)  # nothing is zero or one, what is left out is seen
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        images = torch.randn(2, 3, 32, 32)
        made[name] = folder, family, images, said(model, images, what)
    return made


@torch.inference_mode()
def said(model, images, what):
    if what == "whole":
        found = model.get_image_features(pixel_values=images)
        return found if isinstance(found, torch.Tensor) else found.pooler_output
    found = model(pixel_values=images)
    return found.last_hidden_state[:, 0] if what == "token" else getattr(found, what)


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_computes_what_transformers_computes(name, folders):
    folder, _, images, expected = folders[name]
    model = pt.adapt(str(folder)).eval()
    assert model.spec.backbone.source == "file"
    with torch.inference_mode():
        found = model.backbone(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert torch.allclose(model(images), found, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_family_is_known_by_its_names(name, folders):
    folder, family, *_ = folders[name]
    assert foreign(folder).family.title == family
    assert {one.title for one in FAMILIES} == {family for _, family, _ in MODELS.values()}


def test_what_was_read_is_told_in_one_line(folders, caplog):
    _tell.cache_clear()
    folder = folders["dinov2"][0]
    with caplog.at_level(logging.WARNING):
        pt.adapt(str(folder))
        pt.adapt(str(folder))
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "read as Hugging Face DINOv2, mapped to timm's vit_base_patch14_dinov2"
    ]


def test_a_pickle_of_tensors_and_a_bare_file_are_read_too(folders, tmp_path):
    folder, _, images, expected = folders["dinov2"]
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    shutil.copy(folder / "config.json", tmp_path)
    with torch.inference_mode():
        assert (pt.adapt(str(tmp_path)).eval()(images) - expected).abs().max() < 1e-5
        bare = tmp_path / "mine.safetensors"
        save_file(tensors, bare)  # without config.json heads are 64 channels wide, so they must be said
        model = pt.adapt("vit_small_patch14_dinov2", checkpoint=bare, **SMALL).eval()
        assert (model(images) - expected).abs().max() < 1e-5


SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "img_size": 32, "patch_size": 8}


def test_an_adapted_model_is_saved_whole_and_loaded_without_the_folder(folders, tmp_path):
    folder, _, images, _ = folders["registers"]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    model = pt.adapt(str(copy), [pt.LoRA(rank=2)], classes=3).eval()
    pt.save(model, tmp_path / "run")
    shutil.rmtree(copy)
    assert torch.equal(pt.load(tmp_path / "run")(images), model(images))


def test_known_sizes_have_timms_names_and_no_options(hf, tmp_path):
    small = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    config = hf.Dinov2Config(**small, image_size=518, patch_size=14)
    hf.Dinov2Model(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    _, origin = obtain(str(tmp_path / "model.safetensors"), True, None, {})
    assert (origin.name, origin.source) == ("vit_small_patch14_dinov2", "file")
    assert origin.options == {"num_classes": 0}


def altered(folder, target, config=None, **tensors):
    """A copy of a folder with other tensors, or a value of its config changed."""
    target.mkdir()
    found = load_file(folder / "model.safetensors") | tensors
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, target / "model.safetensors")
    known = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(known | (config or {})))
    return str(target)


def test_what_is_of_no_known_family_is_refused_by_name(hf, folders, tmp_path):
    dinov2 = folders["dinov2"][0]
    strange = {"encoder.layer.0.attention.relative_position_bias": torch.zeros(2)}
    for number, (config, tensors, sentence) in enumerate((
        ({}, strange, r"looks like Hugging Face DINOv2, but holds .*relative_position_bias.*supported are DeiT"),
        ({"num_attention_heads": 5}, {}, "5 heads, which do not divide 32 channels"),
        ({"num_attention_heads": "many"}, {}, "'many' heads"),
        ({"hidden_act": "snake"}, {}, "activation 'snake'; supported are gelu"),
        ({}, {"layernorm.weight": None}, "does not fit vit_base_patch14_dinov2"),
    )):  # fmt: skip
        with pytest.raises(pt.UsageError, match=sentence):
            pt.adapt(altered(dinov2, tmp_path / str(number), config, **tensors))
    swin = hf.SwinModel(hf.SwinConfig(embed_dim=8, depths=[1], num_heads=[2], image_size=32, window_size=4))
    swin.save_pretrained(tmp_path / "swin")
    with pytest.raises(pt.UsageError, match="does not say which model its weights belong to"):
        pt.adapt(str(tmp_path / "swin"))


def test_folders_without_weights_are_refused(tmp_path):
    with pytest.raises(pt.UsageError, match=r"it holds neither model\.safetensors nor pytorch_model\.bin"):
        pt.adapt(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("dinov2-small", "vit_small_patch14_dinov2.lvd142m"),
        ("facebook/dinov2-small", "vit_small_patch14_dinov2.lvd142m"),
        ("facebook/dinov2-with-registers-base", "vit_base_patch14_reg4_dinov2.lvd142m"),
        ("dinov2_vits14_reg", "vit_small_patch14_reg4_dinov2.lvd142m"),
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "vit_small_patch16_dinov3.lvd1689m"),
        ("google/vit-base-patch16-224", "vit_base_patch16_224.orig_in21k_ft_in1k"),
        ("google/vit-base-patch16-224-in21k", "vit_base_patch16_224.orig_in21k"),
        ("vit-b/16", "vit_base_patch16_224"),
        ("ViT-L-14", "vit_large_patch14_224"),
        ("vit_s_16", "vit_small_patch16_224"),
        ("facebook/deit-tiny-distilled-patch16-224", "deit_tiny_distilled_patch16_224.fb_in1k"),
        ("openai/clip-vit-base-patch16", "vit_base_patch16_clip_quickgelu_224.openai"),
        ("google/siglip-base-patch16-224", "vit_base_patch16_siglip_224.webli"),
        ("facebook/vit-mae-base", "vit_base_patch16_224.mae"),
        ("timm/vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("nobody/knows", "nobody/knows"),
    ],
)
def test_names_are_forgiven(name, ours, caplog):
    _tell.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert known_name(name) == ours
    assert [record.message for record in caplog.records] == ([f"{name} is {ours} in timm"] if name != ours else [])


def test_an_unknown_name_comes_with_a_suggestion():
    with pytest.raises(pt.UsageError, match=r"did you mean vit_small_patch14_dinov2"):
        pt.adapt("vit_small_patch14_dino2")


@pytest.mark.parametrize("name", ["microsoft/swin-tiny-patch4-window7-224", "facebook/convnext-base-224", "resnet-50"])
def test_a_name_of_another_family_is_refused_with_those_that_run(name):
    with pytest.raises(pt.UsageError, match=r"a family that paretune cannot run; supported are ViT, DeiT, DINOv2"):
        pt.adapt(name, pretrained=True)


def test_what_a_folder_costs_is_counted_without_a_word(folders):
    model = pt.adapt(str(folders["vit"][0]), [pt.LoRA(rank=2)])
    with torch.device("meta"):
        shapes = pt.adapt(str(folders["vit"][0]), [pt.LoRA(rank=2)])
    assert shapes.backbone.cls_token.is_meta
    assert pt.cost(model).macs > 0


def test_a_family_that_cannot_run_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(pt.UsageError, match="SwinTransformer, which paretune does not know"):
        pt.adapt("swin_tiny_patch4_window7_224", pretrained=True)


def test_a_hub_that_is_not_there_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setattr("paretune.backbone.getproxies", dict)
    begun = time.monotonic()
    with pytest.raises(pt.UsageError, match="are not available"):
        pt.adapt("facebook/dinov2-small", pretrained=True)
    assert time.monotonic() - begun < 30
