"""Reductions: linear maps over tokens, which a reducer returns.

        in    a   b   c   d   e   f            n_in  = 6 tokens
              |    \\ /    |   |   x            b and c share a slot, f is dropped
        out   a    bc     d   e                n_out = 4 slots

A reduction groups `n_in` tokens into `n_out` slots. Every slot has one *representative* (`keep`); other tokens (`src`)
may join a slot; a token that is neither is dropped. `matrix()` (B, n_out, n_in) defines the map, and four methods apply
it without computing the matrix:

    sum(t)         = matrix() @ t                          extensive values: sizes, membership
    mean(t, size)  = matrix() @ (w t) / matrix() @ w       intensive values: features, states carried by adapters
    pick(t)        = t at the representatives              values that must not be averaged: RoPE rows, coordinates
    spread(t)      = matrix()' @ t                         back to n_in; dropped tokens get the `fill` value

`w` is the token size, or the reduction's own `weight` if it has one (EViT fuses by attention). With `normalise=False`
the mean is not divided by the sum of weights (EViT as its authors released it). If a reduction has a `scale` for every
token and channel (PYRA), features are multiplied by it before their mean; other values are not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

SAME = 1 - 2**-11  # evaluation treats two keys as equal from this cosine on: an angle of 1.8 degrees


@dataclass(frozen=True, eq=False, kw_only=True)
class Reduction(ABC):
    """A map from n_in to n_out tokens; the concrete classes are Merge, Blend and Mask.

    keep (B|1, n_out) int64: the representative of every slot, an index into the n_in tokens
    src (B|1, s) int64: the tokens that join a slot; s may be 0
    weight (B, n_in) float32 or None: weights of `mean` instead of the token sizes
    normalise: whether `mean` is divided by the sum of weights
    scale (B, n_in, D) or None: factors on the features before their mean
    """

    n_in: int
    keep: Tensor
    src: Tensor
    weight: Tensor | None = None
    normalise: bool = True
    scale: Tensor | None = None

    @property
    def n_out(self) -> int:
        """The number of tokens that are left."""
        return self.keep.shape[1]

    @property
    def linear(self) -> bool:
        """Whether `mean` is linear in the values; adapters that carry narrow states need this."""
        return True

    @property
    def masks(self) -> bool:
        """Whether removed tokens stay in their slots with size 0."""
        return False

    @abstractmethod
    def sum(self, t: Tensor) -> Tensor:
        """Totals per slot, at least in float32: (B, n_in) -> (B, n_out), or (B, n_in, c) -> (B, n_out, c)."""

    @abstractmethod
    def groups(self) -> Tensor:
        """The slot of every input token, -1 for dropped ones: (B, n_in) int64."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The dense map (B, n_out, n_in), at least in float32."""

    def mean(self, t: Tensor, size: Tensor | None) -> Tensor:
        """Weighted means per slot: t (B, n_in, c), size (B, n_in) or None for all 1 -> (B, n_out, c) in t's dtype."""
        # Float32 with autocast off: bfloat16 counts exactly only to 256, and a large channel times a size overflows
        # float16. A sum and a division, because scatter_reduce("mean") exports to ONNX without an error and is wrong.
        with full_precision(t):
            weight = self._weight(size, t.device)
            total = self.sum(widened(t) * widened(weight)[..., None])
            if self.normalise:
                total = total / self.sum(weight)[..., None]
        return total.to(t.dtype)

    def features(self, x: Tensor, size: Tensor | None) -> Tensor:
        """`mean` of the features after multiplying by `scale`, if any: x (B, n_in, D) -> (B, n_out, D) in x's dtype."""
        return self.mean(x if self.scale is None else (widened(x) * self.scale).to(x.dtype), size)

    def _weight(self, size: Tensor | None, device: torch.device) -> Tensor:
        """The weights of `mean`, (B|1, n_in)."""
        weight = self.weight if self.weight is not None else size
        return torch.ones(1, self.n_in, device=device) if weight is None else weight

    def pick(self, t: Tensor) -> Tensor:
        """Values of the representatives: (B|1, n_in, ...) -> (B, n_out, ...)."""
        return rows(t, self.keep)

    def spread(self, t: Tensor, fill: float = 0.0) -> Tensor:
        """Every token gets its slot's value, dropped tokens get `fill`: (B, n_out, ...) -> (B, n_in, ...)."""
        groups = self.groups()
        gone = (groups < 0).reshape(*groups.shape, *[1] * (t.dim() - 2))
        return rows(t, groups.clamp(min=0)).masked_fill(gone, fill)


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Reduction):
    """The index form, in which tokens really leave the sequence. The choice of groups gets no gradient.

    dst (B|1, s) int64: the slot that each `src` token joins
    peak: `mean` takes the channel-wise maximum of a slot instead (max pooling), so it is not linear
    """

    dst: Tensor
    peak: bool = False

    @property
    def linear(self) -> bool:
        return not self.peak

    def sum(self, t: Tensor) -> Tensor:
        return self._joined(widened(rows(t, self.keep)), widened(rows(t, self.src)))

    def mean(self, t: Tensor, size: Tensor | None) -> Tensor:
        if self.peak:
            return self._joined(rows(t, self.keep), rows(t, self.src), "amax")
        if not self.normalise:
            return super().mean(t, size)
        if not self.src.shape[1]:
            return self.pick(t)
        # The same mean, computed as the representative plus a correction from each token that joins. The work and the
        # memory for the backward pass are then proportional to the tokens that join, and not to all tokens.
        with full_precision(t):
            weight = widened(self._weight(size, t.device))
            kept = widened(rows(t, self.keep))
            share = rows(weight, self.src) / rows(self.sum(weight), self.dst)
            way = widened(rows(t, self.src)) - rows(kept, self.dst)
            return self._joined(kept, share[..., None] * way).to(t.dtype)

    def _joined(self, kept: Tensor, joining: Tensor, how: str = "sum") -> Tensor:
        """kept (B|1, n_out, ...) together with what joins every slot, joining (B|1, s, ...)."""
        if not self.src.shape[1]:
            return kept
        batch = max(kept.shape[0], joining.shape[0], self.dst.shape[0])
        kept, joining = (part.expand(batch, *part.shape[1:]) for part in (kept, joining))
        dst = self.dst.reshape(*self.dst.shape, *[1] * (kept.dim() - 2)).expand_as(joining)
        return kept.scatter_add(1, dst, joining) if how == "sum" else kept.scatter_reduce(1, dst, joining, how)

    def groups(self) -> Tensor:
        batch = max(self.keep.shape[0], self.dst.shape[0])
        slots = torch.arange(self.n_out, device=self.keep.device).expand(batch, -1)
        gone = torch.full((batch, self.n_in), -1, device=self.keep.device)
        kept = gone.scatter(1, self.keep.expand(batch, -1), slots)
        return kept.scatter(1, self.src.expand(batch, -1), self.dst.expand(batch, -1))

    def matrix(self) -> Tensor:
        return (self.groups()[:, None] == torch.arange(self.n_out, device=self.keep.device)[:, None]).float()


@dataclass(frozen=True, eq=False, kw_only=True)
class Blend(Reduction):
    """The dense form: every `src` token joins all slots, with shares that have a gradient (FPET training).

    share (B, s, n_out) float32: how much of each source every slot receives
    """

    share: Tensor

    def sum(self, t: Tensor) -> Tensor:
        with full_precision(t):
            if t.dim() == 2:
                return self.sum(t[..., None])[..., 0]
            t = t.to(torch.promote_types(widened(t).dtype, self.share.dtype))
            return rows(t, self.keep) + self.share.to(t.dtype).transpose(1, 2) @ rows(t, self.src)

    def groups(self) -> Tensor:
        most, slot = self.matrix().max(1)
        return torch.where(most > 0, slot, -1)

    def matrix(self) -> Tensor:
        eye = torch.eye(self.n_in, dtype=self.share.dtype, device=self.share.device)[None]
        return rows(eye, self.keep) + self.share.transpose(1, 2) @ rows(eye, self.src)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mask(Reduction):
    """The mask form, in which no token leaves the sequence (training of DynamicViT).

    A removed token keeps its slot and its features and gets size 0; only the token itself attends to it. Every token is
    its own representative, and no token joins another.

    alive (B, n_in) float32: 1 = stays, 0 = removed; may have a straight-through gradient, which reaches the sizes
    """

    alive: Tensor

    @property
    def masks(self) -> bool:
        return True

    @classmethod
    def of(cls, alive: Tensor) -> Mask:
        """The mask that removes the tokens with alive == 0."""
        keep = torch.arange(alive.shape[1], device=alive.device)[None]
        return cls(n_in=alive.shape[1], keep=keep, src=keep[:, :0], alive=alive)

    def sum(self, t: Tensor) -> Tensor:
        t = widened(t)
        return self.alive.to(t.dtype).reshape(*self.alive.shape, *[1] * (t.dim() - 2)) * t

    def mean(self, t: Tensor, size: Tensor | None) -> Tensor:
        return t

    def groups(self) -> Tensor:
        return torch.where(self.alive > 0, self.keep, -1)

    def matrix(self) -> Tensor:
        return torch.diag_embed(self.alive)


def descending(scores: Tensor) -> Tensor:
    """The indices that sort scores from high to low, equal scores in their original order: (B, n) -> (B, n) int64.

    This is a stable sort. Not every runtime has one, so an exported model instead counts how many scores are better
    than each, with exactly the same result.
    """
    scores = scores.detach()
    if not torch.compiler.is_exporting():
        return torch.argsort(scores, dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device)
    one, other = scores[:, :, None], scores[:, None, :]
    earlier = places[None, :] < places[:, None]
    rank = ((other > one) | ((other == one) & earlier)).long().sum(-1)
    return torch.zeros_like(rank).scatter(1, rank, places.expand_as(rank))


def widened(t: Tensor) -> Tensor:
    """t in float32; unchanged if it is float64."""
    return t if t.dtype == torch.float64 else t.float()


def full_precision(t: Tensor) -> AbstractContextManager:
    """A context with autocast off on t's device, for sizes, scores, cosines, arg-max and weighted means."""
    return nullcontext() if t.device.type == "meta" else torch.autocast(t.device.type, enabled=False)


def rows(t: Tensor, index: Tensor) -> Tensor:
    """t[b, index[b]]: t (B|1, n, ...), index (B|1, k) -> (B, k, ...); both are broadcast over images."""
    if index.shape[0] == 1:
        return t[:, index[0]]
    # Not t.gather: that would keep t for the backward pass, and is half as fast.
    images = torch.arange(t.shape[0], device=t.device)[:, None]
    return t[images if t.shape[0] > 1 else torch.zeros_like(images), index]
