"""Read weights in the layout of Hugging Face `transformers`: recognise the family and give timm's names to the tensors.

FOLDER/config.json, FOLDER/model.safetensors or pytorch_model.bin, whole or in several files      or a file alone

Families: ViT, MAE, DeiT, DINOv2 with and without registers, DINOv3, and the image towers of CLIP and SigLIP, also if
they are part of a whole CLIP model. One table of patterns serves all families. A file with a tensor that no pattern
matches is refused.
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
_QKV = {"query|q_proj": 0, "key|k_proj": 1, "value|v_proj": 2}  # three tensors in the file, one in timm, in this order
# (name in the file, name in timm), for all families. The first row that matches counts. A number behind timm's name
# says which part of a joined tensor it is.
_NAMES = (
    (r"embeddings\.(?:cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.(?:position_embeddings|position_embedding\.weight)", "pos_embed"),
    (r"embeddings\.patch_embeddings?\.(?:projection\.)?(.*)", r"patch_embed.proj.\1"),
    (r"pre_layrnorm\.(.*)", r"norm_pre.\1"),
    *(
        (_BLOCK + rf"(?:attention|self_attn)\.(?:attention\.)?(?:{names})\.(.*)", rf"blocks.\1.attn.qkv.\2 {part}")
        for names, part in _QKV.items()
    ),
    (_BLOCK + r"(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in|mlp\.up_proj)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (_BLOCK + r"mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.fc1_g.\2"),
    (_BLOCK + r"(?:layernorm_before|layer_norm1)\.(.*)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"(?:layernorm_after|layer_norm2)\.(.*)", r"blocks.\1.norm2.\2"),
    (_BLOCK + r"norm(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
    (_BLOCK + r"layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"(?:post_)?(?:layer)?norm\.(.*)", r"norm.\1"),
    (r"(?:cls_)?classifier\.(.*)", r"head.\1"),
    (r"distillation_classifier\.(.*)", r"head_dist.\1"),
    (r"visual_projection\.weight", "head.weight"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_(.*)", r"attn_pool.in.\1"),
    (r"head\.attention\.out_proj\.(.*)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(.*)", r"attn_pool.norm.\1"),
    (r"head\.(mlp\..*)", r"attn_pool.\1"),
)
# timm holds these tensors of DINOv3 by other names than those of the other families.
_DINOV3 = (
    (_BLOCK + r"attention\.(q|v)_proj\.bias", r"blocks.\1.attn.\2_bias"),
    (_BLOCK + r"layer_scale(\d)\.lambda1", r"blocks.\1.gamma_\2"),
)
# Tensors that a backbone does not use: text towers, decoders of masked images, poolers, constants.
_UNUSED = re.compile(
    r"text_model\..*|text_projection\..*|logit_(scale|bias)|decoder\..*|pooler\..*|embeddings\.mask_token"
    r"|embeddings\.position_ids|rope_embeddings\..*"
)


@dataclass(frozen=True)
class Family:
    """A family of files: its name, how to recognise it, and the names that timm has for its sizes.

    known_by: every file of the family has tensors whose names end like this; without: no file of it has one of these
    names: possible names in timm, the first one that timm has is taken; fallback: the model that gets other sizes if
    timm has none of them; own: rows that come before those of `_NAMES`
    """

    title: str
    known_by: tuple[str, ...]
    names: tuple[str, ...]
    fallback: str
    without: tuple[str, ...] = ()
    own: tuple[tuple[str, str], ...] = ()


_PATCHES, _PATCH = "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embedding.weight"
FAMILIES = (
    Family("DeiT", (_PATCHES, "embeddings.distillation_token"),
           ("deit_{size}_distilled_patch{patch}_{image}",), "deit_base_distilled_patch16_224"),
    Family("DINOv2 with registers", (_PATCHES, "embeddings.register_tokens", ".layer_scale1.lambda1"),
           ("vit_{size}_patch{patch}_reg4_dinov2",), "vit_base_patch14_reg4_dinov2"),
    Family("DINOv2", (_PATCHES, ".layer_scale1.lambda1"),
           ("vit_{size}_patch{patch}_dinov2",), "vit_base_patch14_dinov2"),
    Family("ViT", (_PATCHES, "embeddings.cls_token", "embeddings.position_embeddings"),
           ("vit_{size}_patch{patch}_{image}", "vit_{size}_patch{patch}_224"), "vit_base_patch16_224"),
    Family("DINOv3", ("embeddings.patch_embeddings.weight", "embeddings.register_tokens"),
           ("vit_{size}{plus}_patch{patch}_dinov3{qkvb}",), "vit_base{plus}_patch16_dinov3{qkvb}", own=_DINOV3),
    Family("CLIP", (_PATCH, "embeddings.class_embedding"),
           ("vit_{size}_patch{patch}_clip{quick}_{image}", "vit_{size}_patch{patch}_clip{quick}_224"),
           "vit_base_patch16_clip{quick}_224"),
    Family("SigLIP", (_PATCH, "head.probe"),
           ("vit_{size}_patch{patch}_siglip_{image}",), "vit_base_patch16_siglip_224",
           without=("embeddings.class_embedding",)),
)  # fmt: skip


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of a known family under timm's names; config: the content of config.json."""

    family: Family
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def in_several_files(path: Path) -> dict[str, Tensor] | None:
    """The tensors that an index lists, by their own names; None for a file that is no index."""
    return joined(index_of(path), _all_of) if is_index(path) else None


def read_config(place: Path) -> dict[str, Any]:
    """The config.json beside the weights, or its part on the image tower if it has one; {} if there is no file."""
    # A config.json beside a file of another name may describe another model.
    beside = place.is_dir() or place.name in FILES + INDEXES
    path = weights_file(place).parent / "config.json"
    if not beside or not path.is_file():
        return {}
    config = parse(read_text(path, ADVICE), str(path), ADVICE)
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not a JSON object; {ADVICE}")
    inner = config.get("vision_config")
    return inner if isinstance(inner, dict) else config


def foreign(place: Path) -> ForeignWeights | None:
    """The weights at a place if they belong to a family of Hugging Face, else None.

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
    """The tensors of a file that torch wrote. Only tensors are loaded; {} if the file holds anything else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError):
        return {}
    is_flat = isinstance(found, dict) and all(isinstance(one, Tensor) for one in found.values())
    return found if is_flat else {}


def recognised(names: Iterable[str]) -> Family | None:
    """The family that has tensors with these names, or None."""
    there = list(names)

    def has(end: str) -> bool:
        return any(name.endswith(end) for name in there)

    return next((f for f in FAMILIES if all(map(has, f.known_by)) and not any(map(has, f.without))), None)


def mapped(tensors: dict[str, Tensor], family: Family, path: Path) -> dict[str, Tensor]:
    """The tensors under timm's names. Raises UsageError for a tensor that no row of the table matches."""
    known = family.known_by[0]
    prefix = next(name.removesuffix(known) for name in tensors if name.endswith(known))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if _UNUSED.fullmatch(short):
            continue
        rows = (*family.own, *_NAMES)
        pattern, ours = next((row for row in rows if re.fullmatch(row[0], short)), (None, ""))
        if pattern is None:
            raise UsageError(
                f"'{plain(path)}' looks like Hugging Face {family.title}, but holds {quoted(name)}, which "
                f"paretune does not know; supported are {', '.join(one.title for one in FAMILIES)}"
            )
        target, _, place = re.sub(f"^{pattern}$", ours, short).partition(" ")
        parts.setdefault(target, {})[place] = tensor
    joined = {name: torch.cat([own[place] for place in sorted(own)]) for name, own in parts.items()}
    return _shaped(joined)


def _shaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in timm's shapes and layout.

    Tokens and positions get three dimensions. CLS gets its position if there are registers. The packed query, key and
    value of SigLIP's pool are split. CLIP's projection gets a bias. The gated half of an MLP gets timm's name.
    """
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
