"""Where a backbone's weights come from: local files of four kinds, names that timm knows, and clear refusals."""

import os
import pickle
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from anatomies import awake
from safetensors.torch import save_file
from torch import Tensor, nn

import paretune as pt

VIT = "vit_tiny_patch16_224"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}


def vit(seed: int = 0, **options) -> nn.Module:
    """The tiny ViT whose weights go into files."""
    torch.manual_seed(seed)
    return awake(timm.create_model(VIT, **{**TINY, **options})).eval()


def google(model: nn.Module) -> dict[str, np.ndarray]:
    """A ViT's weights as Google's JAX code names and shapes them."""

    def dense(linear: nn.Linear, name: str) -> dict[str, Tensor]:
        return {f"{name}/kernel": linear.weight.T, f"{name}/bias": linear.bias}

    def norm(layer: nn.LayerNorm, name: str) -> dict[str, Tensor]:
        return {f"{name}/scale": layer.weight, f"{name}/bias": layer.bias}

    arrays = {
        "embedding/kernel": model.patch_embed.proj.weight.permute(2, 3, 1, 0),
        "embedding/bias": model.patch_embed.proj.bias,
        "cls": model.cls_token,
        "Transformer/posembed_input/pos_embedding": model.pos_embed,
        **norm(model.norm, "Transformer/encoder_norm"),
        **dense(model.head, "head"),
    }
    for i, block in enumerate(model.blocks):
        at, heads = f"Transformer/encoderblock_{i}", block.attn.num_heads
        weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{at}/MultiHeadDotProductAttention_1/{name}/kernel"] = weight.T.unflatten(1, (heads, -1))
            arrays[f"{at}/MultiHeadDotProductAttention_1/{name}/bias"] = bias.unflatten(0, (heads, -1))
        out = block.attn.proj
        arrays[f"{at}/MultiHeadDotProductAttention_1/out/kernel"] = out.weight.T.unflatten(0, (heads, -1))
        arrays[f"{at}/MultiHeadDotProductAttention_1/out/bias"] = out.bias
        arrays |= norm(block.norm1, f"{at}/LayerNorm_0") | norm(block.norm2, f"{at}/LayerNorm_2")
        arrays |= dense(block.mlp.fc1, f"{at}/MlpBlock_3/Dense_0") | dense(block.mlp.fc2, f"{at}/MlpBlock_3/Dense_1")
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


WRITERS = {
    "google.npz": lambda model, path: np.savez(path, **google(model)),
    "weights.safetensors": lambda model, path: save_file(model.state_dict(), path),
    "weights.pth": lambda model, path: torch.save(model.state_dict(), path),
    "training.pth": lambda model, path: torch.save({"state_dict": model.state_dict(), "epoch": 3}, path),
    "pytorch_model.bin": lambda model, path: torch.save(model.state_dict(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_local_file_gives_exactly_the_model_it_was_written_from(name, tmp_path):
    source, images = vit(), torch.randn(2, 3, 48, 48)
    WRITERS[name](source, tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        model = pt.adapt(VIT, checkpoint=path, **TINY).eval()
        assert torch.equal(model(images), source(images))
    assert model.spec.backbone.source == "file"


@pytest.mark.parametrize("name", WRITERS)
def test_a_model_from_a_file_is_saved_with_its_backbone_and_needs_the_file_no_more(name, tmp_path):
    images = torch.randn(2, 3, 48, 48)
    WRITERS[name](vit(), tmp_path / name)
    model = pt.adapt(VIT, [pt.LoRA(rank=2)], classes=3, checkpoint=tmp_path / name, **TINY).eval()
    pt.save(model, tmp_path / "saved")
    (tmp_path / name).unlink()
    assert torch.equal(pt.load(tmp_path / "saved")(images), model(images))


class Malice:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


def spoil(kind: str, folder: Path) -> Path:
    """Write a weights file with something wrong and return its path."""
    trace = folder / "trace"
    what, suffix = kind.rsplit(" ", 1)
    path = folder / f"weights{suffix}"
    if what == "malicious":
        path.write_bytes(pickle.dumps(Malice(trace), protocol=2))  # the protocol that torch writes
    elif what == "malicious zip":
        torch.save({"weight": Malice(trace)}, path)
    elif what == "malicious array":
        np.savez(path, **{"embedding/kernel": np.array([Malice(trace)], dtype=object)})
    elif what == "empty":
        path.touch()
    elif what == "noisy":
        path.write_bytes(bytes(range(256)) * 40)
    elif what == "list in":
        torch.save([torch.ones(2), torch.ones(3)], path)
    elif what == "foreign":
        foreign = {"conv1.weight": torch.ones(8, 3, 3, 3)}
        np.savez(path, **foreign) if suffix == ".npz" else save_file(foreign, path)
    else:
        unlike = {"narrow": {"embed_dim": 16}, "shallow": {"depth": 1}}.get(what, {})
        WRITERS[{".npz": "google"}.get(suffix, "weights") + suffix](vit(**unlike), path)
        if what == "truncated":
            os.truncate(path, path.stat().st_size // 2)
    return path


SPOILED = [
    *("malicious .pth", "malicious .bin", "malicious .safetensors", "malicious .npz", "malicious zip .pth"),
    *("malicious zip .bin", "malicious array .npz", "list in .pth", "foreign .npz", "foreign .safetensors"),
    *(f"{what} {kind}" for what in ("empty", "noisy", "truncated", "narrow", "shallow") for kind in
      (".npz", ".pth", ".safetensors")),
]  # fmt: skip


REFUSED = r"checkpoint '.*weights\.\w+' (cannot be read as weights of|does not fit)|weights\.safetensors is damaged"


@pytest.mark.parametrize("kind", SPOILED)
def test_a_file_that_is_not_these_weights_is_refused_and_never_executed(kind, tmp_path):
    path = spoil(kind, tmp_path)
    with pytest.raises(pt.UsageError, match=REFUSED):
        pt.adapt(VIT, checkpoint=path, **TINY)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["foreign .safetensors", "shallow .pth", "narrow .npz"])
def test_a_file_that_does_not_fit_is_refused_also_where_the_head_is_another(kind, tmp_path):
    with pytest.raises(pt.UsageError, match="checkpoint"):
        pt.adapt(VIT, checkpoint=spoil(kind, tmp_path), num_classes=10, **TINY)


def test_an_npz_for_a_backbone_that_google_never_had_is_refused(tmp_path):
    np.savez(tmp_path / "google.npz", **google(vit()))
    with pytest.raises(pt.UsageError, match=r"google\.npz"):
        pt.adapt("eva02_tiny_patch14_224", checkpoint=tmp_path / "google.npz", **TINY)


@pytest.mark.parametrize("name", ["missing.pth", "weights.txt", "weights"])
def test_a_path_that_is_no_weights_file_is_refused_with_the_kinds_there_are(name, tmp_path):
    (tmp_path / "weights.txt").write_text("0")
    (tmp_path / "weights").write_text("0")
    with pytest.raises(
        pt.UsageError, match=rf"'.*{name}' is not a file that ends in \.npz, \.safetensors, \.pth, \.bin"
    ):
        pt.adapt(VIT, checkpoint=tmp_path / name, **TINY)


TYPOS = {
    "vit_tny_patch16_224": VIT,
    "deit_smal_patch16_224": "deit_small_patch16_224",
    "paretune_tinny": "paretune_tiny",
    "vit_base_patch16_224.augreg_in12k": r"vit_base_patch16_224\.augreg_in21k",
}


@pytest.mark.parametrize("name", TYPOS)
def test_an_unknown_name_is_refused_with_the_nearest_ones(name):
    with pytest.raises(pt.UsageError, match=rf"unknown model '{name}': did you mean .*{TYPOS[name]}"):
        pt.adapt(name)


@pytest.mark.parametrize("name", ["", "zzz", "/etc/passwd", "local-dir:/etc", "hf-hub:", "hf-hub:/etc/passwd"])
def test_what_is_no_name_is_refused_in_one_short_sentence(name):
    with pytest.raises(pt.UsageError) as refusal:
        pt.adapt(name)
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224.augreg_in21k", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_pretrained_weights_out_of_reach_are_a_sentence_that_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(pt.UsageError, match=r"not available.*local file as checkpoint.*paretune_tiny"):
        pt.adapt(name, pretrained=True)


def test_the_embedded_backbone_needs_no_network_and_is_the_same_every_time(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    first, second, untrained = (pt.adapt("paretune_tiny", pretrained=p).eval() for p in (True, True, False))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(first(images), second(images))
    assert not torch.equal(first(images), untrained(images))
    assert first.preprocessing["input_size"] == (3, 32, 32)


@pytest.mark.parametrize("option", ["pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"])
def test_options_that_would_name_other_files_are_refused(option):
    with pytest.raises(pt.UsageError, match=f"the option {option} is not taken here"):
        pt.adapt(VIT, **{option: "/etc/passwd"})


@pytest.mark.parametrize("extra", [{"pretrained": True}, {"checkpoint": "weights.pth"}, {"img_size": 64}])
def test_a_ready_made_module_takes_no_weights_and_no_options(extra):
    with pytest.raises(pt.UsageError, match="load weights and set options where you create it"):
        pt.adapt(vit(), **extra)
