"""Dense Adapters of Sparse-Tuning: adapters that read the outputs of earlier adapters (Liu et al., arXiv:2405.14700).

            DA of block n-3 ── S ── down3 ──┐                 S = the token reductions in between
            DA of block n-1 ── S ── down2 ──+ ─ ReLU ─ up ─ * s ── DA of block n ──> beside the MLP of block n
            y of block n ────────── down1 ──┘                                   └──> later adapters

    DA_n = s W_up r_n,    r_n = relu(W_1 y_n + W_2 S(DA_{n-1}) + W_3 S(DA_{n-3}))          (equations 12 and 13)

Block 0 has only down1, blocks 1 and 2 have down1 and down2, all later blocks have three (the available text of the
paper lacks the equations; this wiring follows the authors' figure and their parameter counts). All projections have
biases; `up` starts at zero. y is the residual stream after attention and after the reduction of block n, without
LayerNorm. Trained parameters on ViT-B/16: 1,091,584 at width 32, 279,808 at width 8.

The larger of the two distances equals the distance between the paper's reductions, a quarter of the depth: 3 of 12
blocks, 6 of 24. The parameter counts agree: the paper gives 2.93 M for ViT-L, and this wiring has 2.94 M; with a
distance of 3 it would have 3.04 M.

`fuse` says how the sources are combined (equations 14 to 17 are missing too; this follows the text and the parameters
in Table VII):

    input    W_up relu(W (y + S(DA_{n-1}) + S(DA_{n-3})))       one pair of projections per block
    inner    as above
    output   sum over the sources of W_up,i relu(W_i source_i)     a pair per source: 1,598,464 at width 32

Later blocks get not DA_n (D channels) but the bottlenecks r_n with a constant 1 (h + 1 channels). A reduction is linear
over tokens and a projection is linear over channels, so W_2 S(s (W_up r + b)) = s [W_2 W_up | W_2 b] S([r, 1]). This is
the same function with the same gradient at a fraction of the cost and memory, even if S does not normalise.
`carry="output"` computes the plain formula; a reducer that is not linear needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.body import Body
from paretune.core.method import Branch, Shape, Site, known
from paretune.core.tokens import Tokens
from paretune.errors import UsageError


@dataclass(frozen=True)
class DenseAdapter:
    """Densely connected bottlenecks beside every MLP."""

    width: int | tuple[int, ...] = 32
    """width h of the bottlenecks, one number for all blocks or one for each; 0 = none in this block"""
    scale: float = 1.0
    """factor s on the adapters' output"""
    reads: tuple[int, ...] | None = None
    """which earlier adapters each adapter reads, as distances in blocks; () = none, a plain adapter; None = 1 and a
    quarter of the depth: 1, 3 of 12 blocks"""
    start: int = 0
    """first 0-based block whose adapter reads further back than one block"""
    fuse: Literal["inner", "input", "output"] = "inner"
    """where the sources are combined: inside the bottleneck, at its input, or at its output"""
    carry: Literal["activation", "output"] = "activation"
    """what later adapters get: the narrow activation, or the D-wide output as in the paper's formula"""
    dropout: float = 0.0
    """dropout on the bottlenecks (not stated in the paper; the authors' code: none; AdaptFormer: 0.1)"""
    blocks: tuple[int, ...] | None = None
    """0-based blocks that have an adapter; adapters read only from these blocks; None = all"""

    def problems(self, shape: Shape) -> list[str]:
        """What is wrong with these settings on a backbone of this shape."""
        reads = self.reads or ()
        return [
            *shape.block_problems("DenseAdapter", self.blocks, "width", self.width),
            *([f"DenseAdapter reads={reads}: must be different distances of at least 1 block"]
              if len(set(reads)) < len(reads) or min(reads, default=1) < 1 else []),
            *([f"DenseAdapter start={self.start}: the backbone has blocks 0 to {shape.depth - 1}"]
              if not 0 <= self.start < shape.depth else []),
            *([f"DenseAdapter dropout={self.dropout}: must be in [0, 1)"] if not 0 <= self.dropout < 1 else []),
        ]  # fmt: skip

    def attach(self, body: Body) -> None:
        """Add the branch."""
        body.branch(DenseBranch(body.shape, self, body.fresh("dense")))

    def sources(self, block: int, shape: Shape) -> list[int]:
        """The blocks whose adapters are read by the adapter of `block`, nearest first."""
        reads = {1, max(shape.depth // 4, 1)} if self.reads is None else self.reads
        found = [block - back for back in sorted(reads) if back == 1 or block >= self.start]
        return [source for source in found if source in shape.per_block(self.blocks, self.width)]


class DenseBlock(nn.Module):
    """The projections of one block: `down[0]` reads the stream, `down[1:]` (if any) the adapters of `sources`."""

    def __init__(self, sources: list[int], channels: int, width: int, config: DenseAdapter):
        super().__init__()
        self.sources = sources
        downs = 1 if config.fuse == "input" else 1 + len(sources)
        ups = downs if config.fuse == "output" else 1
        down = [nn.Linear(channels, width) for _ in range(downs)]
        up = [nn.Linear(width, channels) for _ in range(ups)]
        for one in up:
            nn.init.zeros_(one.weight)
        for linear in (*down, *up):
            nn.init.zeros_(linear.bias)
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)

    def spoken(self) -> Tensor:
        """The sum of all `up` projections as one linear map of their inputs and a constant 1: (D, ups * h + 1)."""
        ups = [known(nn.Linear, up) for up in self.up]
        return torch.cat([*(up.weight for up in ups), total([up.bias for up in ups])[:, None]], dim=1)


class DenseBranch(Branch):
    """A Dense Adapter for every block that has one."""

    places = ("mlp",)

    def __init__(self, shape: Shape, config: DenseAdapter, name: str):
        super().__init__()
        widths = shape.per_block(config.blocks, config.width)
        sources = {block: config.sources(block, shape) for block in widths}
        self.blocks = nn.ModuleDict({
            str(block): DenseBlock(sources[block], shape.width, width, config) for block, width in widths.items()
        })  # fmt: skip
        self.last_reader = {source: block for block, of_block in sources.items() for source in of_block}
        self.scale, self.fuse, self.narrow, self.name = config.scale, config.fuse, config.carry == "activation", name
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, at: Site, tokens: Tokens) -> Tokens:
        if str(at.block) not in self.blocks:
            return tokens
        here = known(DenseBlock, self.blocks[str(at.block)])
        said = [(source, self.carried(source, tokens)) for source in here.sources]
        r = [self.dropout(F.relu(u)) for u in self.bottlenecks(here, at.x, said)]
        output = total([up(one) for up, one in zip(here.up, r, strict=True)]) * self.scale
        read = [source for source in here.sources if self.last_reader[source] == at.block]
        states: dict[str, Tensor | None] = dict.fromkeys(map(self.key, read))
        if at.block in self.last_reader:
            states[self.key(at.block)] = torch.cat([*r, torch.ones_like(r[0][..., :1])], -1) if self.narrow else output
        return tokens.plus(output).carry(states)

    def key(self, block: int) -> str:
        """The name under which the state of this block's adapter is carried."""
        return f"{self.name}.{block}"

    def carried(self, source: int, tokens: Tokens) -> Tensor:
        """The state from block `source` for the current tokens: (B, N, ups * h + 1), or (B, N, D) if carry="output"."""
        if self.narrow and not all(step.reduction.linear for step in tokens.trail if step.block > source):
            raise UsageError(
                "DenseAdapter carry='activation' works only if tokens merge by a linear map, and this reducer takes "
                "the maximum; use carry='output'"
            )
        return tokens.carried[self.key(source)]

    def bottlenecks(self, here: DenseBlock, x: Tensor, said: list[tuple[int, Tensor]]) -> list[Tensor]:
        """The input of every `up`, (B, N, h) each, from the stream x (B, N, D) and the states of the sources."""
        first, *others = [known(nn.Linear, down) for down in here.down]
        if self.fuse == "input":
            if not self.narrow:
                return [first(total([x, *(state for _, state in said)]))]
            return [total([first(x), *(F.linear(state, self.reading(first, source)) for source, state in said)])]
        heard = [F.linear(state, self.reading(down, source), down.bias)
                 for down, (source, state) in zip(others, said, strict=True)]  # fmt: skip
        return [total([first(x), *heard])] if self.fuse == "inner" else [first(x), *heard]

    def reading(self, down: nn.Linear, source: int) -> Tensor:
        """The weight of `down` for the state from block `source`: (h, ups * h + 1), or (h, D) if carry="output"."""
        if not self.narrow:
            return down.weight
        return self.scale * down.weight @ known(DenseBlock, self.blocks[str(source)]).spoken()


def total(terms: list[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    return sum(terms[1:], terms[0])
