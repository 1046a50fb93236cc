"""DynamicViT: small predictors learn which patches to drop (Rao et al. 2021, arXiv:2106.02034).

            a  b  c  d  e  f        training     a  .  c  d  .  f    a random mask: b and e are only masked
            |     |  |     |
            a     c  d     f        evaluation   the patches with the best scores stay, the others are dropped

Before each of S blocks a predictor scores the patches that are left; p = 1 for patches that are still kept
(section 3.2):

    u = GELU(W LN(x))        w = [first half of u, sum p u / (sum p + 1e-6) of its second half]
    w -> D/2 -> D/4 -> 2     with GELUs between; the log-softmax is log p(keep, drop)

Training samples h = p * hard Gumbel-softmax(log p), which becomes the next p. The value is 0 or 1, with the gradient of
the soft value; it reaches the predictors through `Mask` and the sizes that attention uses (section 3.3). If all patches
would be dropped, the one most likely to stay is kept. The number of kept patches differs between images, and training
saves no compute. Evaluation keeps the best floor(keep^s M) of the image's M patches at the s-th predictor, at least
one, in raster order, and drops the others. Prefix tokens are never candidates.

Training minimises these losses beside the task's loss (section 3.4), with the authors' weights:

    ratio            2    mean_s mean_b (mean_i h_s - keep^s)^2           i over all M patches of image b
    distill_logits   0.5  KL(teacher || student)                          mean over images; or the task's divergence
    distill_tokens   0.5  mean of (student - teacher)^2                   over the patches kept, after the last norm

The authors' teacher is a second model, trained and frozen. Here the teacher is this model itself with all its tokens,
because the frozen backbone alone has no head for new classes, and a copy would double the memory. So the teacher
changes while adapters and head are trained. It costs one forward pass in evaluation mode without a gradient; if both
weights are 0, this pass is left out. Your own training loop can get the losses from
`paretune.training.objective.Objective`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.attention import Look
from paretune.core.method import Divergence, Reducer, Run, Shape, known
from paretune.core.reduction import Mask, Merge, descending, full_precision, widened
from paretune.core.tokens import Tokens


@dataclass(frozen=True)
class DynamicViT:
    """Train small predictors that score the patches; keep the patches with the best scores."""

    keep: float = 0.7
    """share of patches kept at every predictor: keep, keep^2, keep^3... of all patches of the image"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks with a predictor before them; None = at one quarter, one half and three quarters of the depth:
    3, 6, 9 of 12 blocks"""
    ratio: float = 2.0
    """weight of the loss that moves the share of kept patches to its target (the authors: 2, for DeiT-B 5)"""
    distill_logits: float = 0.5
    """weight of the distillation loss on the logits; the teacher is the model with all tokens"""
    distill_tokens: float = 0.5
    """weight of the distillation loss on the features of the kept patches; same teacher"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        wrong = [b for b in self.blocks or () if not 0 <= b < shape.depth]
        weights = {name: getattr(self, name) for name in ("ratio", "distill_logits", "distill_tokens")}
        return [
            *([f"DynamicViT keep={self.keep}: must be above 0 and at most 1"] if not 0 < self.keep <= 1 else []),
            *([f"DynamicViT blocks={self.blocks}: the backbone has blocks 0 to {shape.depth - 1}"] if wrong else []),
            *([f"DynamicViT blocks={self.blocks}: needs at least one block"] if self.blocks == () else []),
            *(f"DynamicViT {name}={weight}: must be a number from 0 up"
              for name, weight in weights.items() if not 0 <= weight < math.inf),
        ]  # fmt: skip

    def build(self, shape: Shape) -> DynamicViTReducer:
        """The reducer for a backbone of this shape."""
        blocks = tuple(sorted(set(shape.quarters if self.blocks is None else self.blocks)))
        return DynamicViTReducer(self, blocks, shape.width)


class Predictor(nn.Module):
    """Features x (B, M, D) of patches, alive (B, M) -> log-probabilities (B, M, 2) to keep and to drop, in float32.

    961,730 parameters and 958,848 multiply-accumulates per patch at D = 768. For other widths D/2 and D/4 are rounded
    down.
    """

    def __init__(self, width: int):
        super().__init__()
        self.local = width // 2
        self.into = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width // 4), nn.GELU(),
            nn.Linear(width // 4, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, alive: Tensor) -> Tensor:
        with full_precision(x):
            weight = known(nn.LayerNorm, self.into[0]).weight
            u = self.into(x.to(weight.dtype))  # float32 unless the whole model was made otherwise
            alive = alive[..., None].to(u.dtype)
            local, other = u[..., : self.local], u[..., self.local :]
            whole = (alive * other).sum(1, keepdim=True) / (alive.sum(1, keepdim=True) + 1e-6)
            return widened(self.score(torch.cat([local, whole.expand_as(other)], dim=-1))).log_softmax(-1)


class DynamicViTReducer(Reducer):
    """See the module."""

    def __init__(self, config: DynamicViT, blocks: tuple[int, ...], width: int):
        super().__init__()
        self.config, self.blocks = config, blocks
        self.needs_teacher = config.distill_logits > 0 or config.distill_tokens > 0
        self.predictors = nn.ModuleList(Predictor(width) for _ in blocks)

    def before(self, block: int, tokens: Tokens) -> Mask | Merge | None:
        if block not in self.blocks:
            return None
        stage = self.blocks.index(block)
        left = kept(self.config.keep, stage + 1, tokens.grid[0] * tokens.grid[1])
        if not self.training and left == tokens.patches:
            return None
        patches = tokens.x[:, tokens.prefix :]
        alive = torch.ones_like(patches[..., 0]) if tokens.size is None else tokens.size[:, tokens.prefix :]
        scores = self.predictors[stage](patches, alive)
        return Mask.of(drawn(scores, alive)) if self.training else best(self.settled(scores[..., 0]), left)

    def forward(self, block: int, look: Look, tokens: Tokens) -> None:
        return None

    def losses(self, run: Run, teacher: Run | None, divergence: Divergence) -> dict[str, Tensor]:
        config, found = self.config, {}
        if config.ratio:
            found["ratio"] = config.ratio * ratio_loss(alive_after(run.tokens), config.keep)
        if config.distill_logits:
            assert teacher is not None, "it needs one, and says so"
            found["distill_logits"] = config.distill_logits * divergence(run.logits, teacher.logits)
        if config.distill_tokens:
            assert teacher is not None, "it needs one, and says so"
            prefix, alive = run.tokens.prefix, alive_after(run.tokens)[-1]
            student, wanted = (widened(one.features[:, prefix:]) for one in (run, teacher))
            found["distill_tokens"] = config.distill_tokens * tokens_loss(student, wanted, alive)
        return found


def kept(keep: float, stage: int, patches: int) -> int:
    """floor(keep^stage * patches), at least 1, without floating-point error: plain floor(0.7 * 90) would be 62."""
    return max(1, math.floor(round(keep**stage * patches, 9)))


def drawn(scores: Tensor, alive: Tensor) -> Tensor:
    """Sample which patches stay: scores (B, M, 2), alive (B, M) -> (B, M) of 0 and 1, with the soft gradient.

    The result can be 1 for a patch that was removed before. Only its product with `alive` is used, and this product is
    not 0 for all patches of an image.
    """
    soft = F.gumbel_softmax(scores, tau=1.0)[..., 0]
    likely = soft.detach().masked_fill(alive == 0, -1.0).argmax(-1, keepdim=True)
    hard = (soft.detach() >= 0.5).to(soft.dtype).scatter(1, likely, 1.0)
    return hard + (soft - soft.detach())  # in this order the value is 0 or 1 exactly


def best(scores: Tensor, left: int) -> Merge:
    """Keep the `left` patches with the highest scores (B, M), in raster order, and drop the others."""
    keep = descending(scores)[:, :left].sort().values
    return Merge(n_in=scores.shape[1], keep=keep, src=keep[:, :0], dst=keep[:, :0])


def alive_after(tokens: Tokens) -> Tensor:
    """Which patches are kept after every predictor: (S, B, M), with a gradient."""
    return torch.stack([step.reduction.alive for step in tokens.trail if isinstance(step.reduction, Mask)]).cumprod(0)


def ratio_loss(alive: Tensor, keep: float) -> Tensor:
    """Mean squared difference of the share of kept patches (S, B, M) to keep, keep^2..., over stages and images."""
    wanted = keep ** torch.arange(1, len(alive) + 1, device=alive.device)
    return (alive.mean(-1) - wanted[:, None]).square().mean()


def tokens_loss(student: Tensor, teacher: Tensor, alive: Tensor) -> Tensor:
    """Mean square of student - teacher, both (B, M, D), over the kept patches (B, M) of the batch.

    `alive` gets no gradient, so the loss cannot be lowered by dropping the patches that differ.
    """
    alive = alive.detach()
    return ((student - teacher).square().mean(-1) * alive).sum() / alive.sum()
