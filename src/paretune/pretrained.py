"""Weights as Hugging Face `transformers` keeps them: recognised by their names, mapped to those of timm.

FOLDER/config.json, FOLDER/model.safetensors or pytorch_model.bin, whole or in several files      or a file alone

ViT, MAE, DeiT, DINOv2 with and without registers, DINOv3, CLIP and SigLIP image towers, also inside of a whole CLIP
model. A family is a table of patterns; a tensor that no pattern knows means that the file is of another family.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paretune.errors import UsageError, plain, quoted
from paretune.schema import parse, read_text
from paretune.sharded import FILES, INDEXES, index_of, is_index, joined, weights_file
from paretune.tensorfile import opened

PICKLES = (".bin", ".pth", ".pt")
ADVICE = "fetch it again"
_BLOCK = r"(?:model\.)?(?:encoder\.)?layers?\.(\d+)\."
# (name in the file, name in timm); "{qkv}" stands where query, key and value are one tensor in timm.
_HEADS = ((r"(?:cls_)?classifier\.(.*)", r"head.\1"), (r"distillation_classifier\.(.*)", r"head_dist.\1"))
_VIT = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    (_BLOCK + r"attention\.(?:attention\.)?(?:query|q_proj)\.(.*)", r"blocks.\1.attn.qkv.\2 0"),
    (_BLOCK + r"attention\.(?:attention\.)?(?:key|k_proj)\.(.*)", r"blocks.\1.attn.qkv.\2 1"),
    (_BLOCK + r"attention\.(?:attention\.)?(?:value|v_proj)\.(.*)", r"blocks.\1.attn.qkv.\2 2"),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (_BLOCK + r"(?:layernorm_before|norm1)\.(.*)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"(?:layernorm_after|norm2)\.(.*)", r"blocks.\1.norm2.\2"),
    (_BLOCK + r"layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.(.*)", r"norm.\1"),
    *_HEADS,
)
_DINOV3 = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
    (_BLOCK + r"attention\.q_proj\.weight", r"blocks.\1.attn.qkv.weight 0"),
    (_BLOCK + r"attention\.k_proj\.weight", r"blocks.\1.attn.qkv.weight 1"),
    (_BLOCK + r"attention\.v_proj\.weight", r"blocks.\1.attn.qkv.weight 2"),
    (_BLOCK + r"attention\.(q|v)_proj\.bias", r"blocks.\1.attn.\2_bias"),
    (_BLOCK + r"attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"layer_scale(\d)\.lambda1", r"blocks.\1.gamma_\2"),
    (_BLOCK + r"mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.fc1_g.\2"),
    (_BLOCK + r"mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (_BLOCK + r"(norm\d)\.(.*)", r"blocks.\1.\2.\3"),
    (r"norm\.(.*)", r"norm.\1"),
)
_TOWER = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.(.*)", r"patch_embed.proj.\1"),
    (r"pre_layrnorm\.(.*)", r"norm_pre.\1"),
    (_BLOCK + r"self_attn\.q_proj\.(.*)", r"blocks.\1.attn.qkv.\2 0"),
    (_BLOCK + r"self_attn\.k_proj\.(.*)", r"blocks.\1.attn.qkv.\2 1"),
    (_BLOCK + r"self_attn\.v_proj\.(.*)", r"blocks.\1.attn.qkv.\2 2"),
    (_BLOCK + r"self_attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"layer_norm(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
    (_BLOCK + r"mlp\.(fc\d\..*)", r"blocks.\1.mlp.\2"),
    (r"post_layernorm\.(.*)", r"norm.\1"),
)
_CLIP = (*_TOWER, (r"visual_projection\.weight", "head.weight"))
_SIGLIP = (
    *_TOWER,
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_(.*)", r"attn_pool.in.\1"),
    (r"head\.attention\.out_proj\.(.*)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(.*)", r"attn_pool.norm.\1"),
    (r"head\.(mlp\..*)", r"attn_pool.\1"),
)
# What a backbone has no use for: text towers, decoders of masked images, poolers, constants.
_UNUSED = re.compile(
    r"text_model\..*|text_projection\..*|logit_(scale|bias)|decoder\..*|pooler\..*|embeddings\.mask_token"
    r"|embeddings\.position_ids|rope_embeddings\..*"
)


@dataclass(frozen=True)
class Family:
    """A family of files: what it is called, how it is known, its table, and the names that timm has for its sizes.

    known_by: ends of names that are all there; without: ends of names of which none is
    names: in order; the first that timm has is taken, and `fallback` with other sizes where it has none
    """

    title: str
    known_by: tuple[str, ...]
    without: tuple[str, ...]
    table: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    fallback: str


_PATCHES, _PATCH = "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embedding.weight"
FAMILIES = (
    Family("DeiT", (_PATCHES, "embeddings.distillation_token"), (), _VIT,
           ("deit_{size}_distilled_patch{patch}_{image}",), "deit_base_distilled_patch16_224"),
    Family("DINOv2 with registers", (_PATCHES, "embeddings.register_tokens", ".layer_scale1.lambda1"), (), _VIT,
           ("vit_{size}_patch{patch}_reg4_dinov2",), "vit_base_patch14_reg4_dinov2"),
    Family("DINOv2", (_PATCHES, ".layer_scale1.lambda1"), (), _VIT,
           ("vit_{size}_patch{patch}_dinov2",), "vit_base_patch14_dinov2"),
    Family("ViT", (_PATCHES, "embeddings.cls_token", "embeddings.position_embeddings"), (), _VIT,
           ("vit_{size}_patch{patch}_{image}", "vit_{size}_patch{patch}_224"), "vit_base_patch16_224"),
    Family("DINOv3", ("embeddings.patch_embeddings.weight", "embeddings.register_tokens"), (), _DINOV3,
           ("vit_{size}{plus}_patch{patch}_dinov3{qkvb}",), "vit_base{plus}_patch16_dinov3{qkvb}"),
    Family("CLIP", (_PATCH, "embeddings.class_embedding"), (), _CLIP,
           ("vit_{size}_patch{patch}_clip{quick}_{image}", "vit_{size}_patch{patch}_clip{quick}_224"),
           "vit_base_patch16_clip{quick}_224"),
    Family("SigLIP", (_PATCH, "head.probe"), ("embeddings.class_embedding",), _SIGLIP,
           ("vit_{size}_patch{patch}_siglip_{image}",), "vit_base_patch16_siglip_224"),
)  # fmt: skip


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of a known family by timm's names, with what config.json says of them."""

    family: Family
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def in_several_files(path: Path) -> dict[str, Tensor] | None:
    """The tensors that an index lists, by their own names; None for a file that is no index."""
    return joined(index_of(path), _all_of) if is_index(path) else None


def read_config(place: Path) -> dict[str, Any]:
    """What config.json beside the weights says, of the image tower where it has two; empty where there is none."""
    # a file of any other name may lie beside a config of something else
    beside = place.is_dir() or place.name in FILES + INDEXES
    path = weights_file(place).parent / "config.json"
    if not beside or not path.is_file():
        return {}
    config = parse(read_text(path, ADVICE), str(path), ADVICE)
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no JSON object; {ADVICE}")
    inner = config.get("vision_config")
    return inner if isinstance(inner, dict) else config


def foreign(place: Path) -> ForeignWeights | None:
    """The weights at a place if they are of a family of Hugging Face; None where their names are other ones.

    Raises UsageError for a folder without weights, and for a file with tensors that its family does not have.
    """
    path = weights_file(place)
    if path.suffix == ".safetensors":
        with opened(path, ADVICE) as file:
            names = list(file.keys())
            family = recognised(names)
            if family is None:
                return None
            tensors = {name: file.get_tensor(name) for name in names if not _UNUSED.fullmatch(name)}
    elif is_index(path):
        if (family := recognised({name for names in index_of(path).values() for name in names})) is None:
            return None
        tensors = in_several_files(path) or {}
    elif path.suffix in PICKLES:
        tensors = _unpickled(path)
        family = recognised(tensors)
    else:
        return None
    return None if family is None else ForeignWeights(family, mapped(tensors, family, path), read_config(place))


def _all_of(path: Path) -> dict[str, Tensor]:
    if path.suffix in PICKLES:
        return _unpickled(path)
    with opened(path, ADVICE) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch wrote, nothing else is ever loaded; none where it holds something else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError):
        return {}
    is_flat = isinstance(found, dict) and all(isinstance(one, Tensor) for one in found.values())
    return found if is_flat else {}


def recognised(names: Iterable[str]) -> Family | None:
    """The family whose names these are."""
    there = list(names)

    def has(end: str) -> bool:
        return any(name.endswith(end) for name in there)

    return next((f for f in FAMILIES if all(map(has, f.known_by)) and not any(map(has, f.without))), None)


def mapped(tensors: dict[str, Tensor], family: Family, path: Path) -> dict[str, Tensor]:
    """The tensors by timm's names. Raises UsageError for one that the family does not have."""
    known = family.known_by[0]
    prefix = next(name.removesuffix(known) for name in tensors if name.endswith(known))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if _UNUSED.fullmatch(short):
            continue
        pattern, ours = next((row for row in family.table if re.fullmatch(row[0], short)), (None, ""))
        if pattern is None:
            raise UsageError(
                f"'{plain(path)}' looks like Hugging Face {family.title}, but holds {quoted(name)}, which that family "
                f"does not have; supported are {', '.join(one.title for one in FAMILIES)}"
            )
        target, _, place = re.sub(f"^{pattern}$", ours, short).partition(" ")
        parts.setdefault(target, {})[place] = tensor
    joined = {name: torch.cat([own[place] for place in sorted(own)]) for name, own in parts.items()}
    return _shaped(joined)


def _shaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as timm holds them: three dimensions for tokens, registers apart from positions, the pool's query apart
    from key and value, a bias for CLIP's projection, gates by their side."""
    for name in {"cls_token", "pos_embed"} & tensors.keys():
        tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])
    if "reg_token" in tensors and "pos_embed" in tensors:
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    for kind in ("weight", "bias"):
        if (packed := tensors.pop(f"attn_pool.in.{kind}", None)) is not None:
            width = len(packed) // 3
            tensors[f"attn_pool.q.{kind}"], tensors[f"attn_pool.kv.{kind}"] = packed[:width], packed[width:]
    for gate in [name for name in tensors if ".mlp.fc1_g." in name]:
        tensors[gate.replace("fc1_g", "fc1_x")] = tensors.pop(gate.replace("fc1_g", "fc1"))
    if "head.weight" in tensors:
        tensors.setdefault("head.bias", torch.zeros(len(tensors["head.weight"])))
        if tensors["head.weight"].shape[1] != tensors["patch_embed.proj.weight"].shape[0]:  # DINOv2's on more features
            del tensors["head.weight"], tensors["head.bias"]
    return tensors
