"""The cost of a model in detail: multiply-accumulates and parameters of every block and of every kind of module."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from paretune.core.model import Adapted
from paretune.measure.cost import Cost, priced
from paretune.measure.counting import ForwardCount, Place, dry_run

GROUPS = {
    "embed": "patch, position and prefix embedding",
    "attention": "norm, q k v, attention, output",
    "mlp": "norm, MLP",
    "leaves": "adapters on linears, gone when folded",
    "branches": "adapters beside attention or MLP",
    "reducer": "who leaves, who merges",
    "head": "final norm, pooling, classifier",
    "unused": "no part of the forward",
}


@dataclass(frozen=True)
class Part:
    """One row: a block, or a kind of module.

    tokens: (in attention, in the MLP) of a block, prefix included; None for other rows
    macs: multiply-accumulates by kind of module; parameters, trained: all parameters, and the trained ones
    """

    name: str
    tokens: tuple[int, int] | None
    macs: dict[str, int]
    parameters: int
    trained: int

    @property
    def total(self) -> int:
        """Multiply-accumulates of the row."""
        return sum(self.macs.values())


@dataclass(frozen=True)
class Detail:
    """A cost in detail: `blocks` from embed to head, `groups` by kind of module; each adds up to the cost."""

    cost: Cost
    blocks: tuple[Part, ...]
    groups: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: those of the cost, and the two lists of rows."""
        rows = {"blocks": [asdict(part) for part in self.blocks], "groups": [asdict(part) for part in self.groups]}
        return self.cost.to_dict() | rows


def detail(model: Adapted, image_size: tuple[int, int] | None = None) -> Detail:
    """The cost of one image as `cost` counts it, by block and by kind of module.

    A parameter belongs to the block that uses it first.
    """
    size = image_size or tuple(model.preprocessing["input_size"][1:])
    counted = dry_run(model, size)
    whole, lines = priced(model, size, counted), _lines(model, counted)
    tokens = {
        "embed": None,
        **{f"block {i}": pair for i, pair in enumerate(whole.tokens)},
        "leaves": None,  # those outside of the blocks
        "head": None,
        "unused": None,
    }
    blocks = [_part(name, pair, [line for line in lines if line.row == name]) for name, pair in tokens.items()]
    groups = [_part(kind, None, [line for line in lines if line.place.part == kind]) for kind in GROUPS]
    return Detail(whole, *(tuple(p for p in parts if p.total or p.parameters) for parts in (blocks, groups)))


class _Line(NamedTuple):
    """The counts of one part of the forward pass."""

    place: Place
    macs: int
    parameters: int
    trained: int

    @property
    def row(self) -> str:
        return self.place.part if self.place.block is None else f"block {self.place.block}"


def _lines(model: Adapted, counted: ForwardCount) -> list[_Line]:
    known, lines = dict(model.named_parameters()), []
    for place in {**counted.macs, **counted.tensors}:
        here = [known[name] for name in counted.tensors.get(place, [])]
        trained = sum(p.numel() for p in here if p.requires_grad)
        lines.append(_Line(place, counted.macs[place], sum(p.numel() for p in here), trained))
    return lines


def _part(name: str, tokens: tuple[int, int] | None, lines: list[_Line]) -> Part:
    macs = {kind: sum(line.macs for line in lines if line.place.part == kind) for kind in GROUPS}
    return Part(
        name=name,
        tokens=tokens,
        macs={kind: count for kind, count in macs.items() if count},
        parameters=sum(line.parameters for line in lines),
        trained=sum(line.trained for line in lines),
    )
