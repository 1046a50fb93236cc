"""Tiny timm backbones, one of every family that paretune claims, with weights that hide nothing.

`ANATOMIES[name].build(seed)` makes the backbone in evaluation mode; `image_size` (H, W) is what to feed it.
"""

from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from torch import nn

CLASSES = 7
SMALL = {"embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": CLASSES}
P8 = {**SMALL, "patch_size": 8, "img_size": 48}  # 6x6 patches


class Anatomy(NamedTuple):
    """A way to build a backbone and the size (H, W) of its images."""

    build: Callable[[int], nn.Module]
    image_size: tuple[int, int]


def anatomy(name: str, image_size: tuple[int, int] | None = None, **options) -> Anatomy:
    """A timm model by name with options that make it tiny; image_size if it is not the model's own."""

    def build(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return awake(timm.create_model(name, **options)).eval()

    size = options["img_size"]
    return Anatomy(build, image_size or (size if isinstance(size, tuple) else (size, size)))


@torch.no_grad()
def awake(model: nn.Module) -> nn.Module:
    """Random weights in which every tensor matters: default ones are zero or 1e-5 in places, and bugs hide there.

    LayerScale near 0.3, norms near 1, biases and tokens away from 0, and matrices large enough for these widths that
    attention is far from uniform.
    """
    for name, p in model.named_parameters():
        if "rope" in name:  # frequencies of a learned RoPE: random already
            continue
        if "gamma" in name:
            p.normal_(0.3, 0.05)
        elif name.endswith(("_token", "pos_embed", "latent")):
            p.normal_(0.0, 0.5)
        elif p.dim() >= 2:
            p.normal_(0.0, 0.12)
        elif name.endswith("weight"):
            p.normal_(1.0, 0.1)
        else:
            p.normal_(0.0, 0.1)
    return model


ANATOMIES = {
    "vit": anatomy("vit_tiny_patch16_224", **P8),
    "gap": anatomy("vit_base_patch16_gap_224", **P8),
    "mae": anatomy("vit_base_patch16_224", global_pool="avg", **P8),
    "deit": anatomy("deit_tiny_patch16_224", **P8),
    "deit_distilled": anatomy("deit_tiny_distilled_patch16_224", **P8),
    "deit3": anatomy("deit3_small_patch16_224", **P8),
    "dinov2": anatomy("vit_small_patch14_dinov2", img_size=70, **SMALL),
    "dinov2_registers": anatomy("vit_small_patch14_reg4_dinov2", img_size=70, **SMALL),
    "registers_gap": anatomy("vit_little_patch16_reg4_gap_256", **P8),
    "dinov3": anatomy("vit_small_patch16_dinov3", **P8),
    "dinov3_bias": anatomy("vit_small_patch16_dinov3_qkvb", **P8),
    "dinov3_swiglu": anatomy("vit_small_plus_patch16_dinov3", **P8),
    "eva02": anatomy("eva02_base_patch14_224", **{**P8, "img_size": 40}),
    "eva02_fused": anatomy("eva02_tiny_patch14_224", **{**P8, "img_size": 40}),
    "eva02_postnorm": anatomy("eva02_enormous_patch14_clip_224", **P8),
    "rope_mixed": anatomy("vit_small_patch16_rope_mixed_224", **P8),
    "rope_registers_gap": anatomy("vit_medium_patch16_rope_reg1_gap_256", **P8),
    "grouped_queries": anatomy(  # separate q, k, v with biases and norms, fewer key heads in the inner blocks
        "vit_base_patch16_sapiens2", **{**P8, "embed_dim": 32, "num_heads": 4, "num_kv_heads": (4, 2, 2, 4)}
    ),
    "clip": anatomy("vit_base_patch16_clip_224", **P8),
    "clip_quickgelu": anatomy("vit_base_patch16_clip_quickgelu_224", **P8),
    "siglip": anatomy("vit_base_patch16_siglip_224", **P8),
    "respost": anatomy("vit_base_patch16_rpn_224", **P8),
    "not_square": anatomy("vit_tiny_patch16_224", **{**P8, "img_size": (48, 64)}),
    "odd_grid": anatomy("vit_tiny_patch16_224", **{**P8, "img_size": 56}),
    "dynamic": anatomy("vit_tiny_patch16_224", image_size=(40, 56), dynamic_img_size=True, **P8),
}
