"""HF PEFT's modules inside of a timm model are taken as they are: trained, saved, loaded, merged."""

import copy
import json

import peft
import pytest
import torch
from anatomies import ANATOMIES
from safetensors.torch import load_file
from torch import Tensor, nn

import paretune as pt
from paretune.core.leaf import Leafed
from paretune.core.model import Adapted
from paretune.reducers import REDUCERS

LORA = {"r": 3, "lora_alpha": 6, "lora_dropout": 0.0}
ENTRANCES = {
    "inject_adapter_in_model": lambda config, model: peft.inject_adapter_in_model(config, model),
    "get_peft_model": lambda config, model: peft.get_peft_model(model, config),
}
HEAD = {"backbone.head.weight", "backbone.head.bias"}
# Families, and the linears that peft is told to wrap in each.
PLACES = {
    "vit": ["qkv", "proj", "fc1"],
    "dinov2_registers": ["qkv", "fc2"],
    "dinov3": ["qkv"],
    "dinov3_bias": ["qkv"],
    "dinov3_swiglu": ["qkv", "fc1_g", "fc1_x"],
    "eva02": ["q_proj", "v_proj"],
    "eva02_fused": ["qkv", "proj"],
    "grouped_queries": ["q_proj", "k_proj"],
    "siglip": ["qkv"],
}


def backbone(anatomy: str) -> nn.Module:
    """A tiny timm model."""
    return ANATOMIES[anatomy].build(0)


def images(anatomy: str) -> Tensor:
    """Three random images for it."""
    return torch.randn(3, 3, *ANATOMIES[anatomy].image_size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def with_numbers(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of peft's LoRA, none of them zero from here on."""
    torch.manual_seed(2)
    found = {name: tensor for name, tensor in model.named_parameters() if "lora_" in name}
    for tensor in found.values():
        tensor.normal_(0.0, 0.2)
    return found


def hosting(anatomy: str, entrance: str = "inject_adapter_in_model", reducer: object = None, **more) -> Adapted:
    """An adapted model around a timm model with peft's LoRA in it, away from zero."""
    torch.manual_seed(0)
    hosted = ENTRANCES[entrance](peft.LoraConfig(target_modules=PLACES[anatomy], **LORA), backbone(anatomy))
    model = pt.adapt(hosted, reducer=reducer, **{"classes": 4, **more})
    with_numbers(model)
    return model.eval()


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("anatomy", PLACES)
def test_a_model_with_lora_of_peft_is_taken_as_it_is_and_only_it_and_the_head_train(anatomy, entrance):
    model = hosting(anatomy, entrance)
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained - HEAD == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert trained > HEAD
    model.train()(images(anatomy)).square().sum().backward()
    assert [name for name in trained if not model.get_parameter(name).grad.any()] == []
    assert {name for name, tensor in model.named_parameters() if tensor.grad is not None} == trained


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_the_outputs_are_those_of_timm_with_peft(entrance):
    hosted = ENTRANCES[entrance](peft.LoraConfig(target_modules=["qkv", "fc1"], **LORA), backbone("vit")).eval()
    with_numbers(hosted)
    expected = hosted(images("vit")).detach()
    assert (expected - backbone("vit")(images("vit"))).abs().max() > 1e-2
    assert torch.equal(pt.adapt(hosted).eval()(images("vit")), expected)


@pytest.mark.parametrize("anatomy", ["dinov3_bias", "eva02_fused"])
def test_lora_lives_on_the_biased_fused_qkv_where_timms_forward_leaves_it_dead(anatomy):
    timm_model = backbone(anatomy)
    before = timm_model(images(anatomy)).detach()
    hosted = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv"], **LORA), timm_model).eval()
    tensors = with_numbers(hosted)

    dead = hosted(images(anatomy))
    assert torch.equal(dead, before), "timm reads qkv.weight behind the wrapper"
    assert not dead.requires_grad, "no trained tensor takes part"

    alive = pt.adapt(hosted).eval()(images(anatomy))
    alive.square().sum().backward()
    assert (alive - before).abs().max() > 1e-2
    assert all(tensor.grad.any() for tensor in tensors.values())


@pytest.mark.parametrize("anatomy", ["dinov3_bias", "eva02_fused"])
def test_the_living_lora_is_the_one_that_peft_would_merge(anatomy):
    hosted = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv"], **LORA), backbone(anatomy)).eval()
    with_numbers(hosted)
    alive = pt.adapt(copy.deepcopy(hosted)).eval()(images(anatomy))
    for block in hosted.blocks:
        block.attn.qkv.merge()
        block.attn.qkv = block.attn.qkv.get_base_layer()
    torch.testing.assert_close(alive, hosted(images(anatomy)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reducer", [None, pt.EViT(keep=0.6, blocks=(1, 2))], ids=["all tokens", "EViT"])
@pytest.mark.parametrize("anatomy", PLACES)
def test_what_is_loaded_from_the_folder_alone_is_what_was_saved(anatomy, reducer, tmp_path):
    model = hosting(anatomy, reducer=reducer)
    pt.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) == {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["backbone"]["peft"]["r"] == 3
    loaded = pt.load(tmp_path)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == set(tensors)
    assert torch.equal(loaded(images(anatomy)), model(images(anatomy)))


@pytest.mark.parametrize("reducer", [None, pt.EViT(keep=0.6, blocks=(1, 2))], ids=["all tokens", "EViT"])
@pytest.mark.parametrize("anatomy", PLACES)
def test_merging_folds_the_peft_modules_and_changes_nothing(anatomy, reducer):
    model = hosting(anatomy, "get_peft_model", reducer)
    merged = pt.merge(model)
    assert [name for name, _ in merged.named_parameters() if "lora_" in name] == []
    assert [module for module in merged.modules() if type(module).__module__.startswith("peft.")] == []
    assert any("lora_" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(merged(images(anatomy)), model(images(anatomy)), rtol=1e-5, atol=1e-5)


def test_a_reducer_sees_what_the_peft_modules_do():
    reducer = pt.EViT(keep=0.5, blocks=(1,))
    without, with_peft = pt.adapt(backbone("vit"), reducer=reducer).eval(), hosting("vit", reducer=reducer)
    ours, theirs = (model.run(images("vit")).tokens for model in (without, with_peft))
    assert ours.patches == theirs.patches == 19
    assert not torch.equal(ours.groups(), theirs.groups())


@pytest.mark.parametrize("anatomy", ["vit", "dinov3_bias"])
def test_peft_modules_and_our_own_adapters_live_together(anatomy, tmp_path):
    both = [pt.LoRA(rank=2, at="q v proj"), pt.AdaptFormer(width=4)]
    model = hosting(anatomy, adapters=both, reducer=pt.FPET(block=1))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.add_(0.1 * torch.randn_like(tensor)) if tensor.requires_grad and ".up." in name else None
    model(images(anatomy)).square().sum().backward()
    waiting = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    refinement = ["reducer.refine.0.down.weight", "reducer.refine.0.up.weight"]
    assert waiting == refinement, "FPET learns in training mode only"
    pt.save(model, tmp_path)
    assert torch.equal(pt.load(tmp_path)(images(anatomy)), model(images(anatomy)))
    merged = pt.merge(model)
    assert not [m for m in merged.modules() if isinstance(m, Leafed) or type(m).__module__.startswith("peft.")]
    torch.testing.assert_close(merged(images(anatomy)), model(images(anatomy)), rtol=1e-5, atol=1e-5)


def test_a_head_that_peft_trains_is_kept_and_trains(tmp_path):
    config = peft.LoraConfig(target_modules=["qkv"], modules_to_save=["head"], **LORA)
    model = pt.adapt(peft.get_peft_model(backbone("vit"), config))
    with_numbers(model)
    model.eval()(images("vit")).square().sum().backward()
    heads = {name: tensor for name, tensor in model.named_parameters() if "head" in name and tensor.requires_grad}
    assert len(heads) == 2
    assert all(tensor.grad.any() for tensor in heads.values())
    pt.save(model, tmp_path)
    assert torch.equal(pt.load(tmp_path)(images("vit")), model(images("vit")))


# ------------------------------------------------------------------------------------------ every tuner x every reducer

AT = {"target_modules": ["qkv", "fc1"]}
TUNERS = {
    "LoRA": peft.LoraConfig(r=3, **AT),
    "DoRA": peft.LoraConfig(r=3, use_dora=True, **AT),
    "IA3": peft.IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"]),
    "VeRA": peft.VeraConfig(r=4, **AT),  # one pair of random matrices that all layers share
    "OFT": peft.OFTConfig(r=0, oft_block_size=4, **AT),
    "LoHa": peft.LoHaConfig(r=2, **AT),
    "LoKr": peft.LoKrConfig(r=2, **AT),
}
every_tuner_and_reducer = pytest.mark.parametrize(
    ("tuner", "reducer"),
    [
        pytest.param(t, r, id=f"{name} x {column}")
        for name, t in TUNERS.items()
        for column, r in {"all tokens": None, **{kind.__name__: kind() for kind in REDUCERS}}.items()
    ],
)


def hosting_any(tuner: peft.PeftConfig, reducer: object) -> tuple[Adapted, set[str]]:
    """An adapted model around a timm model with any tuner of peft in it, away from its start, and the names of the
    tensors that peft says it trains."""
    torch.manual_seed(0)
    hosted = peft.get_peft_model(backbone("vit"), copy.deepcopy(tuner)).get_base_model()
    wanted = {f"backbone.{name}" for name, tensor in hosted.named_parameters() if tensor.requires_grad}
    model = pt.adapt(hosted, reducer=reducer, classes=4)
    with torch.no_grad():
        for name in wanted:
            tensor = model.get_parameter(name)
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model, wanted


@every_tuner_and_reducer
def test_every_tuner_trains_with_every_reducer_and_nothing_else_does(tuner, reducer):
    model, wanted = hosting_any(tuner, reducer)
    assert len(wanted) >= 8
    logits = model.train()(images("vit"))
    (logits * torch.linspace(0.5, 2.0, logits.numel()).view_as(logits)).sum().backward()
    reached = {name for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert {name for name in reached if not name.startswith("reducer.")} == wanted | HEAD
    assert [name for name in wanted if not model.get_parameter(name).grad.any()] == []
    assert all(model.get_parameter(name).grad.isfinite().all() for name in reached)


@every_tuner_and_reducer
def test_every_tuner_is_saved_loaded_and_merged_with_every_reducer(tuner, reducer, tmp_path):
    model, wanted = hosting_any(tuner, reducer)
    model.eval()
    with torch.no_grad():
        logits = model(images("vit"))
    pt.save(model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {name for name in stored if name.startswith("backbone.")} == wanted | HEAD
    loaded, merged = pt.load(tmp_path), pt.merge(model)
    assert not [m for m in merged.modules() if type(m).__module__.startswith("peft.")]
    with torch.no_grad():
        assert torch.equal(loaded(images("vit")), logits)
        torch.testing.assert_close(merged(images("vit")), logits, rtol=1e-5, atol=1e-5)


def test_matrices_that_all_layers_share_are_stored_once(tmp_path):
    model, _ = hosting_any(TUNERS["VeRA"], None)
    pt.save(model, tmp_path)
    assert len([name for name in load_file(tmp_path / "backbone.safetensors") if "vera_A" in name]) == 1


def test_a_layer_that_peft_merges_wrongly_is_named():
    config = peft.OFTConfig(r=0, oft_block_size=4, target_modules=["patch_embed.proj"])
    model, _ = hosting_any(config, None)
    with pytest.raises(pt.UsageError, match="its oft into 'proj', a Conv2d, with different outputs"):
        pt.merge(model)


def test_several_peft_modules_at_once_are_refused_by_their_names():
    hosted = peft.get_peft_model(backbone("vit"), peft.LoraConfig(target_modules=["qkv"], **LORA))
    hosted.add_adapter("second", peft.LoraConfig(target_modules=["qkv"], **LORA))
    with pytest.raises(pt.UsageError, match=r"\['default', 'second'\].*takes one"):
        pt.adapt(hosted)
