"""Attention over tokens of unequal size, and the values that a reducer may read.

        softmax(q k' / sqrt(d) + log s) v          s_j = size of token j

A token of size s then weighs exactly as much as s copies of it (ToMe, Bolya et al. 2023, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.core.reduction import full_precision, widened


def attend(q: Tensor, k: Tensor, v: Tensor, size: Tensor | None, dropout: float = 0.0, masked: bool = False) -> Tensor:
    """Fused attention: q, k, v (B, H, N, d), size (B, N) or None for all 1 -> (B, H, N, d).

    Without sizes there is no bias, so every fused kernel can be used. masked: some sizes are 0, and
    `masked_attention` is used.
    """
    if masked:
        assert size is not None, "a token is masked by its size, 0"
        return F.dropout(masked_attention(q, k, size), dropout).to(v.dtype) @ v
    bias = None if size is None else log_size(size).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def log_size(size: Tensor) -> Tensor:
    """The attention bias of token sizes: (B, N) -> (B, 1, 1, N)."""
    return size.clamp(min=1e-30).log()[:, None, None, :]  # a size of 0 would turn the gradient into NaN


def masked_attention(q: Tensor, k: Tensor, size: Tensor) -> Tensor:
    """The attention map (B, H, N, N) in float32 or wider, in which only a token of size 0 itself attends to it.

    A_ij = (m_ij e_ij + eps / N) / (sum_j m_ij e_ij + eps), m_ij = size_j, m_ii = 1 for a token of size 0
    (DynamicViT, Rao et al. 2021, equation 11). The map is computed explicitly, because an additive mask of log 0 would
    pass no gradient to the sizes.
    """
    with full_precision(q):
        logits = widened(q) @ widened(k).transpose(-2, -1) * q.shape[-1] ** -0.5
        e = (logits - logits.amax(-1, keepdim=True).detach()).exp()
        itself = torch.diag_embed(torch.where(size > 0, size, 1.0).detach())
        others = size[:, None, :] * (1 - torch.eye(size.shape[1], device=size.device, dtype=size.dtype))
        weighted = e * (itself + others)[:, None]
        eps = 1e-6
        return (weighted + eps / size.shape[1]) / (weighted.sum(-1, keepdim=True) + eps)


@dataclass(frozen=True, eq=False)
class Look:
    """The values of a block that a reducer may read.

    q, k (B, H, N, d): queries and keys as the attention used them; plain (B, H', N, d): keys before rotation
    size (B, N) or None: the sizes that the attention used; prefix, readers: as in Tokens
    """

    q: Tensor
    k: Tensor
    plain: Tensor
    size: Tensor | None
    prefix: int
    readers: int

    def metric(self) -> Tensor:
        """Patch keys averaged over heads: (B, M, d), at least float32.

        The keys are those before rotation. Averaging rotated heads would cancel content and mix position into the
        cosine similarity.
        """
        return widened(self.plain[:, :, self.prefix :]).mean(1)

    def scores(self) -> Tensor:
        """How much attention every patch receives from the summary tokens: (B, M), at least float32, differentiable.

        It is the row softmax(q_cls k' / sqrt(d) + log s) without its prefix columns, averaged over heads (and over the
        CLS and distillation tokens, if there are two). In a model without a summary token it is the mean over all patch
        queries. The row is computed separately, so the attention stays fused and its full map is never computed.
        """
        asking = slice(0, self.readers) if self.readers else slice(self.prefix, None)
        with full_precision(self.q):
            q, k = widened(self.q[:, :, asking]), widened(self.k)
            logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            if self.size is not None:
                logits = logits + log_size(self.size)
            received = logits.softmax(-1)[..., self.prefix :].mean(1)  # (B, asking, M)
            if self.readers or self.size is None:
                return received.mean(1)
            weight = self.size[:, self.prefix :, None]
            return (received * weight).sum(1) / weight.sum(1)
