"""Parameters, multiply-accumulates and tokens per block, counted on the model itself instead of by formulas."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from paretune.core import anatomy
from paretune.core.model import Adapted
from paretune.counts import mac_unit
from paretune.measure.counting import ForwardCount, dry_run


@dataclass(frozen=True)
class Cost:
    """What a model costs for one image of the given size.

    trained, trained_head, total: parameters; `trained` counts all, `trained_head` those of the classifier among them
    macs: multiply-accumulates of one forward (what both papers print as FLOPs)
    tokens: (in attention, in the MLP) of every block, prefix included
    """

    image_size: tuple[int, int]
    trained: int
    trained_head: int
    total: int
    macs: int
    tokens: tuple[tuple[int, int], ...]

    @property
    def trained_without_head(self) -> int:
        """Trained parameters without the classifier, as in the papers' tables."""
        return self.trained - self.trained_head

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"trained_without_head": self.trained_without_head}

    def lines(self) -> list[tuple[str, str]]:
        """The table's rows."""
        share, unit = 100 * self.trained / self.total, mac_unit([self.macs])
        return [
            ("trained parameters", f"{self.trained:,} ({share:.2f} % of {self.total:,})"),
            ("  without the head", f"{self.trained_without_head:,}"),
            ("MACs per image", f"{unit.write(self.macs)} {unit.name} at {self.image_size[0]}x{self.image_size[1]}"),
            ("tokens per block", " ".join(f"{a}" if a == m else f"{a}>{m}" for a, m in self.tokens)),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<20}{value}" for name, value in self.lines())

    def __rich__(self) -> Table:
        table = Table(show_header=False, box=None)
        for row in self.lines():
            table.add_row(*row)
        return table


def cost(model: Adapted, image_size: tuple[int, int] | None = None, reduced: bool = True) -> Cost:
    """The cost of one image; image_size (H, W) as in the preprocessing if not given. Nothing is computed or copied.

    reduced=False: the cost with all tokens, as if there were no reducer.
    MACs are half of what PyTorch's FlopCounterMode counts on the meta device in evaluation mode: convolutions, linears,
    attention and all other matrix products, also those of the matching and of folded adapter weights; not norms,
    activations, additions, sorting. The head is included.
    """
    size = image_size or tuple(model.preprocessing["input_size"][1:])
    return priced(model, size, dry_run(model, size, reduced))


def priced(model: Adapted, image_size: tuple[int, int], counted: ForwardCount) -> Cost:
    """The cost of a model, from the counts of one forward pass."""
    heads = {id(p) for head in anatomy.classifiers(model.backbone) for p in head.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    return Cost(
        image_size=image_size,
        trained=sum(p.numel() for p in trained),
        trained_head=sum(p.numel() for p in trained if id(p) in heads),
        total=sum(p.numel() for p in model.parameters()),
        macs=counted.total,
        tokens=counted.tokens,
    )
