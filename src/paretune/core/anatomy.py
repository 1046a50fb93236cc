"""How a timm ViT embeds images, computes attention and classifies. Only this file and `layers` read timm's classes.

The functions here call modules and do not read their weights, so a leaf or a HF PEFT module in the place of a Linear
always takes effect (timm's own EVA forward reads `qkv.weight` and would ignore it). They store nothing and read each
block again at every step, so deep copies, pickles and modules injected later work. An unknown model, block or attention
class is refused, and the error names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm.layers
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from paretune.core.attention import log_size
from paretune.core.layers import layers
from paretune.core.memory import in_eight_bits
from paretune.core.method import Foreign, Shape
from paretune.core.reduction import widened
from paretune.core.tokens import Tokens
from paretune.errors import UsageError

MODELS = (VisionTransformer, VisionTransformerDistilled, Eva)
BLOCKS = (Block, ResPostBlock, EvaBlock, EvaBlockPostNorm)
ATTENTIONS = (timm.layers.Attention, timm.layers.AttentionRope, EvaAttention)
GELUS = (nn.GELU, timm.layers.GELU, timm.layers.GELUTanh, timm.layers.QuickGELU)
POOLS = ("token", "avg", "avgmax", "max", "map")


@dataclass(frozen=True)
class BlockView:
    """A transformer block as the trunk sees it: y = x + post1(attn(pre1 x)); z = y + post2(mlp(pre2 y)).

    post1 and post2 contain LayerScale and DropPath. Adapters add their output after both, because a LayerScale of 1e-5
    as in DINOv2 would suppress it.
    """

    pre1: Callable[[Tensor], Tensor]
    attn: Foreign
    post1: Callable[[Tensor], Tensor]
    pre2: Callable[[Tensor], Tensor]
    mlp: nn.Module
    post2: Callable[[Tensor], Tensor]


def check(model: Foreign) -> None:
    """Raise UsageError, with the name of the unsupported part, if the trunk cannot run this model as timm does."""
    if type(model) not in MODELS:
        raise UsageError(
            f"the backbone is a {type(model).__name__}, which paretune does not know; supported are timm's "
            f"{', '.join(m.__name__ for m in MODELS)} (ViT, DeiT, DeiT-3, DINOv2, DINOv3, EVA-02, MAE, CLIP, SigLIP...)"
        )
    for i, block in enumerate(model.blocks):
        if type(block) not in BLOCKS:
            raise UsageError(
                f"block {i} of the backbone is a {type(block).__name__}: paretune needs attention and MLP one after "
                f"the other, in a {', '.join(b.__name__ for b in BLOCKS)}; choose a variant without parallel blocks"
            )
        if type(block.attn) not in ATTENTIONS:
            raise UsageError(
                f"block {i} of the backbone has the attention class {type(block.attn).__name__}; supported: "
                f"{', '.join(a.__name__ for a in ATTENTIONS)}"
            )
    if model.global_pool not in POOLS:
        raise UsageError(f"the backbone pools by '{model.global_pool}'; supported: {', '.join(POOLS)}")


def check_reducible(model: Foreign) -> None:
    """Raise UsageError if a reducer cannot remove tokens from this model."""
    drop = getattr(model, "patch_drop", None)
    if drop is not None and not isinstance(drop, nn.Identity):
        raise UsageError(
            "the backbone drops patches at random (patch_drop_rate > 0), which does not work with a reducer; "
            "create it with patch_drop_rate=0 or use reducer=None"
        )


def checkpointing(model: Foreign) -> bool:
    """Whether timm's gradient checkpointing is switched on."""
    return model.grad_checkpointing


def embed(model: Foreign, images: Tensor) -> Tokens:
    """Images (B, 3, H, W) -> the tokens that enter block 0. Raises UsageError for an image size that is not allowed."""
    if images.dim() != 4:
        raise UsageError(
            f"images must be (B, 3, H, W), these are {tuple(images.shape)}; add a batch axis to a single one"
        )
    size, patch = tuple(images.shape[-2:]), model.patch_embed.patch_size
    if not model.dynamic_img_size and size != tuple(model.patch_embed.img_size):
        raise UsageError(
            f"images are {size[0]}x{size[1]}, the backbone takes {model.patch_embed.img_size[0]}x"
            f"{model.patch_embed.img_size[1]}; resize them, or adapt with img_size=... or dynamic_img_size=True"
        )
    if (
        model.dynamic_img_size
        and any(s % p for s, p in zip(size, patch, strict=True))
        and not model.patch_embed.dynamic_img_pad
    ):
        raise UsageError(
            f"images are {size[0]}x{size[1]}, which patches of {patch[0]}x{patch[1]} do not tile; resize them"
        )
    x, rope = model.patch_embed(images), None
    if isinstance(model, Eva):
        x, rope = model._pos_embed(x)
    else:
        x = model.patch_drop(model._pos_embed(x))
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    return Tokens(
        x=model.norm_pre(x),
        prefix=model.num_prefix_tokens,
        readers=model.num_prefix_tokens - registers,
        grid=tuple(model.patch_embed.dynamic_feat_size(size)),
        rope=None if rope is None else _canonical(rope, getattr(model, "rope_mixed", False)),
    )


def _canonical(rope: Tensor, mixed: bool) -> Tensor:
    """Bring timm's rotary tables to one layout, (B|1, M, L|1, H|1, d).

    Input: (M, d), or mixed (L, H, M, d); after patch dropout (B, 1, M, d), or mixed (L, B, H, M, d).
    """
    if mixed:
        return (rope if rope.dim() == 5 else rope[:, None]).permute(1, 3, 0, 2, 4)
    return (rope if rope.dim() == 4 else rope[None, None]).permute(0, 2, 1, 3)[:, :, None]


def read(block: Foreign) -> BlockView:
    """The BlockView of a block in its current state."""
    if isinstance(block, (ResPostBlock, EvaBlockPostNorm)):
        return BlockView(
            pre1=_same, attn=block.attn, post1=lambda y: block.drop_path1(block.norm1(y)),
            pre2=_same, mlp=block.mlp, post2=lambda y: block.drop_path2(block.norm2(y)),
        )  # fmt: skip
    if isinstance(block, EvaBlock):
        return BlockView(
            pre1=block.norm1, attn=block.attn, post1=lambda y: block.drop_path1(_scaled(block.gamma_1, y)),
            pre2=block.norm2, mlp=block.mlp, post2=lambda y: block.drop_path2(_scaled(block.gamma_2, y)),
        )  # fmt: skip
    return BlockView(
        pre1=block.norm1, attn=block.attn, post1=lambda y: block.drop_path1(block.ls1(y)),
        pre2=block.norm2, mlp=block.mlp, post2=lambda y: block.drop_path2(block.ls2(y)),
    )  # fmt: skip


def _same(x: Tensor) -> Tensor:
    return x


def _scaled(gamma: Tensor | None, y: Tensor) -> Tensor:
    return y if gamma is None else gamma * y


def qkv(attn: Foreign, h: Tensor, tokens: Tokens, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values (B, H, N, d) and the keys before rotation, from the block input h (B, N, D)."""
    if attn_qkv := getattr(attn, "qkv", None):
        q, k, v = _fused(attn, attn_qkv, h).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k, v = (
            p(h).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for p in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
    q, k = attn.q_norm(q), attn.k_norm(k)
    plain = k
    if tokens.rope is not None:
        table = tokens.rope[:, :, min(block, tokens.rope.shape[2] - 1)].transpose(1, 2)  # (B|1, H|1, M, d)
        q, k = (_rotate(t, table, tokens.prefix, attn.rotate_half).type_as(v) for t in (q, k))
    if (groups := q.shape[1] // k.shape[1]) > 1:  # grouped-query attention
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return q, k, v, plain


def _fused(attn: Foreign, linear: Foreign, h: Tensor) -> Tensor:
    """The output of the fused qkv projection.

    EVA keeps the bias outside of the Linear. For a plain Linear the bias goes into the same F.linear call, which gives
    exactly timm's result. A module that wraps the Linear is called, and the bias is added to its output.
    """
    if getattr(attn, "q_bias", None) is None:
        return linear(h)
    bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    if type(linear) is nn.Linear and not attn.qkv_bias_separate:
        return F.linear(h, linear.weight, bias)
    return linear(h) + bias


def _rotate(t: Tensor, table: Tensor, prefix: int, half: bool) -> Tensor:
    rotated = timm.layers.apply_rot_embed_cat(t[:, :, prefix:], table, half=half)
    return torch.cat([t[:, :, :prefix], rotated], dim=2)


def out(attn: Foreign, y: Tensor, h: Tensor) -> Tensor:
    """The attention's output projection: y (B, H, N, d) -> (B, N, D). timm's gate, if any, reads the block input h."""
    y = attn.norm(y.transpose(1, 2).flatten(2))
    if (gate := getattr(attn, "gate", None)) is not None:  # timm before 1.0.28 has none
        y = y * gate(h).sigmoid()
    return attn.proj_drop(attn.proj(y))


def attention_dropout(attn: Foreign) -> float:
    """The current dropout probability of the attention map: 0 in evaluation mode."""
    return attn.attn_drop.p if attn.training else 0.0


def coded(mlp: Foreign) -> Callable[[Tensor], Tensor] | None:
    """This MLP, h (B, N, D) -> (B, N, D), with the derivative of its GELU kept in 8 bits; None for other MLPs."""
    if type(mlp) is not timm.layers.Mlp or type(mlp.act) not in GELUS:
        return None
    act = in_eight_bits(mlp.act)
    return lambda h: mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(act(mlp.fc1(h))))))


def final_norm(model: Foreign, x: Tensor) -> Tensor:
    """The residual stream after the last block -> features, both (B, N, D)."""
    return model.norm(x)


def head(model: Foreign, features: Tensor, tokens: Tokens) -> Tensor:
    """Features (B, N, D) of these tokens -> logits (B, classes).

    Pooling weights merged tokens by their size and leaves prompts out.
    """
    features = tokens.without_prompts(features)
    if tokens.size is None or model.global_pool == "token":
        return model.forward_head(features)
    # In timm's EVA the attention pool also reads the prefix tokens; timm's ViT has an option for it.
    whole = model.global_pool == "map" if isinstance(model, Eva) else getattr(model, "pool_include_prefix", False)
    first = 0 if whole else tokens.own_prefix
    pooled = _pool(model, features[:, first:], tokens.without_prompts(tokens.size)[:, first:])
    return model.head(model.head_drop(model.fc_norm(pooled)))


def _pool(model: Foreign, x: Tensor, size: Tensor) -> Tensor:
    if model.global_pool == "map":
        return model.attn_pool(x, attn_mask=log_size(size).to(x.dtype))
    mean = ((widened(x) * size[..., None]).sum(1) / size.sum(1, keepdim=True)).to(x.dtype)
    if model.global_pool == "avg":
        return mean
    x = x.masked_fill(size[..., None] == 0, -torch.inf)  # size 0: tokens that a Mask removed
    return x.amax(1) if model.global_pool == "max" else 0.5 * (x.amax(1) + mean)


def classifiers(model: Foreign) -> list[nn.Module]:
    """The modules that turn pooled features into logits."""
    heads = model.get_classifier()
    return list(heads) if isinstance(heads, tuple) else [heads]


def wrap_classifiers(model: Foreign, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Replace every head by `wrap(head)`."""
    heads = {id(head) for head in classifiers(model)}
    for name, child in list(model.named_children()):
        if id(child) in heads:
            setattr(model, name, wrap(child))


def shape(model: Foreign) -> Shape:
    """The dimensions of the model, from which methods are built."""
    return Shape(
        depth=len(model.blocks),
        width=model.embed_dim,
        head_width=model.blocks[0].attn.head_dim,
        grid=tuple(model.patch_embed.grid_size),
        prefix=model.num_prefix_tokens,
        layers={place: layer.kind for layer in layers(model) if not layer.block for place in layer.parts},
        patch=tuple(model.patch_embed.patch_size),
    )


def preprocessing(model: Foreign) -> dict:
    """How images become tensors here: input_size (3, H, W), interpolation, mean, std, crop_pct, crop_mode."""
    # timm returns the input size of the pretrained weights, even if the model was created with another size.
    return resolve_model_data_config(model) | {"input_size": (3, *model.patch_embed.img_size)}
