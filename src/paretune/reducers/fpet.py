"""FPET: a differentiable merge that halves the patches (bipartite differentiable matching, FPET section 3.3).

            A b A b          every A cell of the checkerboard merges into the B cell with the most similar key;
            b A b A          tokens: 4x4 -> 8, all A cells leave, in one block (0-based block 6 of 12 in the paper)

    key    K' = K + R(K)                  K = keys averaged over heads, gradient stopped; R = 1-bit bottleneck, trained
    match  C = cos(K'_A, K'_B)                soft = sigmoid(C - mean of the row's two best)
    merge  x_b = (s_b x_b + sum_a J_ab s_a x_a) / (s_b + sum_a J_ab s_a)        J = one-hot of the row's best

Training uses J + soft - stop(soft): the value is one-hot, with the gradient of the soft value. The paper uses the
threshold soft > 0.5 instead. This gives the same map unless two keys tie; then the token is lost, and in bfloat16 most
rows tie. The remaining tokens keep raster order. Any grid, also an odd or non-square one, is split by its own rows and
columns.

The paper merges once. With several blocks, each has its own refinement, because keys differ between blocks. The cells
that the checkerboard leaves are then split by rows:

    A b A b      . a . a      . . . .        1st   cells with an even (row + column) leave
    b A b A  ->  b . b .  ->  b . b .        2nd   of the rest, the even rows leave: a grid of floor(rows / 2) x
    A b A b      . a . a      . . . .              ceil(columns / 2) is left
    b A b A      b . b .      b . b .        3rd   the checkerboard of that grid, and so on

A grid of one row or column is split as a checkerboard every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.attention import Look
from paretune.core.method import Reducer, Shape
from paretune.core.quantised import BITS, QuantisedLinear
from paretune.core.reduction import SAME, Blend, Merge, full_precision
from paretune.core.tokens import Tokens

Split = Literal["checkerboard", "alternate"]


@dataclass(frozen=True)
class FPET:
    """Merge one half of the patches into the other by a learned matching."""

    block: int | tuple[int, ...] | None = None
    """0-based block that halves the patches, between attention and MLP, or several such blocks; None = at half of the
    depth: 6 of 12 blocks"""
    split: Split = "checkerboard"
    """which half leaves: the even cells of the checkerboard, or every second patch in raster order"""
    refine_width: int = 32
    """width of the key refinement; 0 = no refinement, match the backbone's own keys"""
    refine_bits: int = 1
    """bits per weight of the refinement: 1, 2, 4 or 8"""
    stop_gradient: bool = True
    """whether to stop the gradient from the matching into the backbone's keys"""
    proportional: bool = True
    """whether attention weights tokens by their size"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        return [
            *(["FPET block=(): needs at least one block"] if self.block == () else []),
            *([f"FPET block={self.block}: the backbone has blocks 0 to {shape.depth - 1}"]
              if not all(0 <= block < shape.depth for block in self.blocks(shape)) else []),
            *([f"FPET refine_width={self.refine_width}: must be at least 0"] if self.refine_width < 0 else []),
            *([f"FPET refine_bits={self.refine_bits}: must be one of {BITS}"] if self.refine_bits not in BITS else []),
        ]  # fmt: skip

    def build(self, shape: Shape) -> FPETReducer:
        """The reducer for a backbone of this shape."""
        return FPETReducer(self, self.blocks(shape), shape.head_width)

    def blocks(self, shape: Shape) -> tuple[int, ...]:
        """The blocks that reduce, ascending."""
        if self.block is None:
            return (shape.depth // 2,)
        return tuple(sorted({self.block} if isinstance(self.block, int) else set(self.block)))


class Refinement(nn.Module):
    """K + up(dropout(relu(down K))) with quantised weights: (B, M, d) -> (B, M, d). 2 d h weights of 1 bit each."""

    def __init__(self, width: int, hidden: int, bits: int):
        super().__init__()
        self.down, self.up = QuantisedLinear(width, hidden, bits), QuantisedLinear(hidden, width, bits)
        self.dropout = nn.Dropout(0.1)
        # Not zero, because the quantiser divides by the standard deviation of the weights.
        nn.init.trunc_normal_(self.up.weight, std=1e-3, a=-2e-3, b=2e-3)

    def forward(self, keys: Tensor) -> Tensor:
        return keys + self.up(self.dropout(F.relu(self.down(keys))))


class FPETReducer(Reducer):
    """See the module."""

    def __init__(self, config: FPET, blocks: tuple[int, ...], head_width: int):
        super().__init__()
        self.config, self.blocks, self.proportional = config, blocks, config.proportional
        width, bits = config.refine_width, config.refine_bits
        self.refine = nn.ModuleList(Refinement(head_width, width, bits) if width else nn.Identity() for _ in blocks)

    def forward(self, block: int, look: Look, tokens: Tokens) -> Blend | Merge | None:
        if block not in self.blocks or tokens.patches < 2:
            return None
        turn = self.blocks.index(block)
        with full_precision(tokens.x):  # in bfloat16 most rows would tie
            keys = look.metric().detach() if self.config.stop_gradient else look.metric()
            keys = F.normalize(self.refine[turn](keys), dim=-1, eps=1e-6)
            leaving, staying = halves(tokens.grid, self.config.split, turn, keys.device)
            similarity = keys[:, leaving] @ keys[:, staying].transpose(1, 2)  # (B, |A|, |B|)
        best = self.settled(similarity, SAME).argmax(-1)
        plan = {"n_in": tokens.patches, "keep": staying[None], "src": leaving[None]}
        if not (self.training and torch.is_grad_enabled()):
            return Merge(**plan, dst=best)
        return Blend(**plan, share=straight_through(similarity, best))


def straight_through(similarity: Tensor, best: Tensor) -> Tensor:
    """The one-hot of `best`, with the gradient of sigmoid(similarity - mean of the row's two best): (B, |A|, |B|)."""
    hard = F.one_hot(best, similarity.shape[-1]).to(similarity.dtype)
    threshold = similarity.topk(min(2, similarity.shape[-1]), dim=-1).values.mean(-1, keepdim=True)
    soft = (similarity - threshold).sigmoid()
    return hard + (soft - soft.detach())  # in this order the value is the one-hot exactly


def halves(grid: tuple[int, int], split: Split, turn: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which patches leave and which stay at reduction `turn` (the first is 0), as indices into the current patches.

    Both are in raster order. Of M patches ceil(M / 2) leave; if rows of a grid of odd width leave, a few less or more.
    """
    if split == "alternate":
        left = grid[0] * grid[1] >> turn
        return parted(torch.arange(left, device=device) % 2, (left + 1) // 2)
    rows, columns, only_odd = lattice(grid, turn)
    cells = torch.arange(rows * columns, device=device)
    leaving, staying = parted((cells // columns + cells % columns) % 2, (rows * columns + 1) // 2)
    return parted(staying // columns % 2, (rows + 1) // 2 * (columns // 2)) if only_odd else (leaving, staying)


def lattice(grid: tuple[int, int], turn: int) -> tuple[int, int, bool]:
    """Rows and columns of the grid that reduction `turn` acts on, and whether only its odd cells are left."""
    rows, columns, only_odd = *grid, False
    for _ in range(turn):
        if only_odd:
            rows, columns, only_odd = rows // 2, (columns + 1) // 2, False
        elif min(rows, columns) == 1:
            rows, columns = max(rows // 2, 1), max(columns // 2, 1)
        else:
            only_odd = True
    return rows, columns, only_odd


def parted(odd: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The indices of the `count` zeros and the indices of the ones in `odd`."""
    places = torch.arange(odd.shape[0], device=odd.device)
    order = torch.argsort(odd * odd.shape[0] + places)  # a sort instead of a mask keeps the shapes static
    return order[:count], order[count:]
