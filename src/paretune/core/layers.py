"""The affine layers of a timm ViT that can have leaves, by block, kind and place.

patch   (patch_norm, norm_pre)   | norm1  q k v (q_norm k_norm attn_norm) proj  norm2  fc1 (mlp_norm) fc2 |   norm
conv                               ... of every block; layers in brackets only in some model families         or fc_norm
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from paretune.core.leaf import bare
from paretune.core.method import Foreign, Kind


@dataclass(frozen=True)
class Layer:
    """An affine layer that can have a leaf: the module `owner.attribute`.

    block: 0-based, None outside of the blocks
    parts: the logical layers in it, {name of the place: output rows}. A fused qkv is
        {"q": (0, D), "k": (D, 2D), "v": (2D, 3D)}; any other layer has one part with all rows, {"proj": None}
    """

    owner: nn.Module
    attribute: str
    block: int | None
    kind: Kind
    parts: dict[str, tuple[int, int] | None]

    @property
    def module(self) -> Foreign:
        """The layer below all leaves."""
        return bare(getattr(self.owner, self.attribute))


def layers(model: Foreign) -> list[Layer]:
    """Every affine layer that can have a leaf, in the order of the forward: the patch convolution, norms, linears."""
    embed = [Layer(model.patch_embed, "proj", None, "conv", {"patch": None})]
    embed += _norms(None, patch_norm=(model.patch_embed, "norm"), norm_pre=(model, "norm_pre"))
    blocks = [layer for i, block in enumerate(model.blocks) for layer in _block_layers(i, block)]
    return embed + blocks + _norms(None, norm=(model, "norm"), fc_norm=(model, "fc_norm"))


def _block_layers(i: int, block: Foreign) -> list[Layer]:
    attn, mlp = block.attn, block.mlp

    def linears(owner: nn.Module, names: dict[str, str]) -> list[Layer]:
        return [Layer(owner, a, i, "linear", {place: None}) for a, place in names.items() if hasattr(owner, a)]

    if getattr(attn, "qkv", None) is not None:
        width = attn.num_heads * attn.head_dim
        qkv = [Layer(attn, "qkv", i, "linear", {name: (j * width, (j + 1) * width) for j, name in enumerate("qkv")})]
    else:
        qkv = linears(attn, {f"{name}_proj": name for name in "qkv"})
    return [
        *_norms(i, norm1=(block, "norm1")),
        *qkv,
        *_norms(i, q_norm=(attn, "q_norm"), k_norm=(attn, "k_norm"), attn_norm=(attn, "norm")),
        *linears(attn, {"proj": "proj"}),
        *_norms(i, norm2=(block, "norm2")),
        *linears(mlp, {name: name for name in ("fc1", "fc1_g", "fc1_x")}),
        *_norms(i, mlp_norm=(mlp, "norm")),
        *linears(mlp, {"fc2": "fc2"}),
    ]


def _norms(block: int | None, **places: tuple[nn.Module, str]) -> list[Layer]:
    """The layers at these places, without places that have no norm with a weight."""
    return [
        Layer(owner, attribute, block, "norm", {place: None})
        for place, (owner, attribute) in places.items()
        if hasattr(owner, attribute) and getattr(bare(getattr(owner, attribute)), "weight", None) is not None
    ]
