"""Get the backbone for any name that people use for it, or for a folder or file of weights, also of Hugging Face."""

from __future__ import annotations

import logging
import math
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from paretune.aliases import candidates, other_family
from paretune.backbone import HUB, SUFFIXES, Backbone, Unfilled, create
from paretune.core.method import Foreign
from paretune.errors import UsageError, plain, quoted
from paretune.pretrained import ForeignWeights, foreign, in_several_files, weights_file

SIZES = {
    (192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge",
    (1536, 40): "giant", (1152, 27): "so400m",
}  # fmt: skip
"""The word in timm's names for a width and a depth."""
ACTS = {"gelu": None, "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu",
        "relu": "relu", "silu": "silu", "swish": "silu"}  # fmt: skip
"""Hugging Face's hidden_act, and timm's name for it; None is timm's own GELU."""
_LOG = logging.getLogger(__name__)


def obtain(
    name: str, pretrained: bool, checkpoint: str | Path | None, options: dict[str, Any]
) -> tuple[Foreign, Backbone]:
    """The backbone, and where it came from.

    name: a timm name, another name of the same model such as `facebook/dinov2-small`, or a folder or file of weights
    checkpoint: a local file or folder of weights

    If another name or another layout was translated, one line on the log says so. Raises UsageError in the cases of
    `backbone.create`, and for weights of a Hugging Face family that is not supported.
    """
    if checkpoint is None and _is_place(name):
        checkpoint, name = Path(name), ""
    found = hint = None
    if checkpoint is not None:
        place = Path(checkpoint)
        hint = str(place.absolute()).encode(errors="backslashreplace").decode()
        found = foreign(place) if place.exists() else None
        if place.is_dir():
            checkpoint = weights_file(place)
    if found is not None:
        name, options = _matched(name, found, options)
        _tell(f"{plain(checkpoint)}: read as Hugging Face {found.family.title}, mapped to timm's {name}")
    elif not name:
        raise UsageError(
            f"'{plain(checkpoint)}' does not say which model its weights belong to: name the model, "
            f"--model NAME --checkpoint {plain(checkpoint)}"
        )
    else:
        name = known_name(name)
    source = "file" if checkpoint is not None else "pretrained" if pretrained else "random"
    origin = Backbone(name, source, options, path=hint)
    if found is not None and torch.get_default_device().type == "meta":  # only shapes are needed there
        return create(name, False, None, options), origin
    several = in_several_files(Path(checkpoint)) if found is None and checkpoint is not None else None
    return create(name, pretrained, checkpoint, options, several if found is None else found.tensors), origin


def known_name(name: str) -> str:
    """timm's name of a backbone, for any of its known names. An unknown name is returned unchanged.

    Raises UsageError if the name contains a family that paretune cannot run.
    """
    if name.startswith(HUB) or _is_known(name):
        return name
    ours = next((one for one in candidates(name) if _is_known(one)), None)
    if ours is None and (family := other_family(name)):
        raise UsageError(
            f"'{plain(name)}' is a {family}, a family that paretune cannot run; supported are ViT, DeiT, DINOv2, "
            "DINOv3, EVA-02, MAE, CLIP and SigLIP: see `paretune list models`"
        )
    if ours is None:
        return name
    _tell(f"{plain(name)} is {ours} in timm")
    return ours


@cache
def _tell(line: str) -> None:
    """Log a line, but only the first time."""
    _LOG.warning("%s", line)


def _is_known(name: str) -> bool:
    """Whether timm has this name, with its tag if there is one."""
    architecture, _, tag = name.partition(".")
    if ":" in name or "/" in name or not timm.is_model(architecture):
        return False
    return not tag or name in timm.list_pretrained(f"{architecture}.*")


def _is_place(name: str) -> bool:
    """Whether a name is a folder or a file of weights, and not the name of a model."""
    if timm.is_model(name.partition(".")[0]) or name.startswith(HUB):
        return False
    return Path(name).is_dir() or (Path(name).suffix in SUFFIXES and Path(name).is_file())


def _matched(name: str, found: ForeignWeights, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm model for weights of Hugging Face, and its options. If `name` is not empty, it is used as it is."""
    head = found.tensors.get("head.weight")
    own: dict[str, Any] = {"num_classes": 0 if head is None else len(head)}
    if found.family.title == "DINOv3":
        own["global_pool"] = "token"
    if name:
        return known_name(name), own | options
    words = _words(found)
    name = _named(found, words)
    with Unfilled():
        model = timm.create_model(name, pretrained=False)
    act = _act(found)
    own |= _differences(model, words, found)
    if act is not None and not words["quick"]:
        own["act_layer"] = act
    return name, own | options


def _words(found: ForeignWeights) -> dict[str, Any]:
    """The sizes of the model, read from the shapes of its tensors, and the words for timm's names."""
    tensors = found.tensors
    weight = tensors["patch_embed.proj.weight"]
    width, patch = weight.shape[0], weight.shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    prefix = 0 if "attn_pool.latent" in tensors or "reg_token" in tensors else 1 + ("dist_token" in tensors)
    tokens = tensors["pos_embed"].shape[1] - prefix if "pos_embed" in tensors else 0
    hidden = next(tensor.shape[0] for name, tensor in tensors.items() if ".mlp.fc1" in name and name.endswith("weight"))
    if math.isqrt(tokens) ** 2 != tokens:
        raise UsageError(f"the weights have positions for {tokens} patches, which is no square: give the model's name")
    quick = found.family.title == "CLIP" and found.config.get("hidden_act", "quick_gelu") == "quick_gelu"
    gated = any("fc1_g" in name for name in tensors)
    return {
        "width": width, "depth": depth, "heads": _heads(found, width), "hidden": hidden, "patch": patch,
        "image": math.isqrt(tokens) * patch, "size": SIZES.get((width, depth), ""), "quick": "_quickgelu" * quick,
        "plus": "_plus" * gated, "qkvb": "_qkvb" * ("blocks.0.attn.q_bias" in tensors),
    }  # fmt: skip


def _heads(found: ForeignWeights, width: int) -> int:
    """The number of attention heads: from config.json, or else heads of 64 channels."""
    heads = found.config.get("num_attention_heads", max(1, width // 64))
    if type(heads) is not int or not 0 < heads <= width or width % heads:
        raise UsageError(f"config.json says {quoted(heads)} heads, which do not divide {width} channels")
    return heads


def _act(found: ForeignWeights) -> str | None:
    """timm's name of the activation, or None for timm's default. Raises UsageError for an unsupported activation."""
    usual = {"CLIP": "quick_gelu", "SigLIP": "gelu_pytorch_tanh"}.get(found.family.title, "gelu")
    name = found.config.get("hidden_act", usual)
    if name not in ACTS:
        raise UsageError(f"config.json says the activation {quoted(name)}; supported are {', '.join(ACTS)}")
    return ACTS[name]


def _named(found: ForeignWeights, words: dict[str, Any]) -> str:
    """timm's name for this size, or the family's fallback, which then gets other sizes."""
    names = [name.format(**words) for name in found.family.names] if words["size"] else []
    return next(filter(timm.is_model, names), found.family.fallback.format(**words))


def _differences(model: Any, words: dict[str, Any], found: ForeignWeights) -> dict[str, Any]:
    """The options of timm that give `model` the sizes of the weights."""
    mlp = model.blocks[0].mlp
    hidden = (mlp.fc1_g if hasattr(mlp, "fc1_g") else mlp.fc1).out_features  # gated, or plain
    has = {
        "embed_dim": (model.embed_dim, words["width"]),
        "depth": (len(model.blocks), words["depth"]),
        "num_heads": (model.blocks[0].attn.num_heads, words["heads"]),
        "patch_size": (model.patch_embed.patch_size[0], words["patch"]),
    }
    options = {name: wanted for name, (own, wanted) in has.items() if own != wanted}
    if words["image"] and (model.patch_embed.img_size or (0,))[0] != words["image"]:
        options["img_size"] = words["image"]
    if hidden != words["hidden"] or "embed_dim" in options:
        options["mlp_ratio"] = words["hidden"] / words["width"]
    registers = found.tensors.get("reg_token")
    if registers is not None and registers.shape[1] != model.reg_token.shape[1]:
        options["reg_tokens" if hasattr(model, "no_embed_class") else "num_reg_tokens"] = registers.shape[1]
    if "blocks.0.attn.qkv.bias" not in found.tensors and model.blocks[0].attn.qkv.bias is not None:
        options["qkv_bias"] = False
    return options
