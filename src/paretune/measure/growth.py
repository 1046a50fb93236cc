"""How the cost of a recipe grows with the size of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from paretune.catalogue import Recipe
from paretune.core import anatomy
from paretune.core.body import AdapterSettings
from paretune.core.method import ReducerSettings
from paretune.core.model import Adapted
from paretune.errors import UsageError, quoted
from paretune.formats import MOST_SIDE
from paretune.measure.cost import cost
from paretune.plan import adapt


@dataclass(frozen=True)
class Growth:
    """The cost of a recipe at one image size: multiply-accumulates, the same with all tokens, the tokens at the input
    and those left in the last MLP."""

    recipe: str
    image_size: tuple[int, int]
    macs: int
    macs_all_tokens: int
    tokens: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Multiply-accumulates as a share of those of the same model with all its tokens."""
        return self.macs / self.macs_all_tokens

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"ratio": self.ratio}


def growth(name: str, recipe: Recipe, sizes: Sequence[int], classes: int | None = None) -> list[Growth]:
    """The recipe on the backbone `name` for square images of these sides, smallest first; no weights are made.

    Raises UsageError, by name, for sizes that the backbone's patches do not tile.
    """
    check_sizes(weightless(name, (), None, None), sizes)
    return [_at(name, recipe, size, classes) for size in sorted(set(sizes))]


def weightless(
    name: str, adapters: Sequence[AdapterSettings], reducer: ReducerSettings | None, classes: int | None, **options: Any
) -> Adapted:
    """`adapt` on the meta device: tensors without values, in a fraction of a second for any size."""
    with torch.device("meta"):
        return adapt(name, adapters, reducer, classes, **options)


def check_sizes(model: Adapted, sizes: Sequence[int]) -> None:
    """Raise UsageError unless the patches of this model tile squares of all these sides."""
    if large := [size for size in sizes if size > MOST_SIDE]:
        raise UsageError(f"images of side {quoted(large[0])} are too large: give sides of at most {MOST_SIDE:,} pixels")
    own, grid = model.preprocessing["input_size"][1:], anatomy.shape(model.backbone).grid
    patch = tuple(side // cells for side, cells in zip(own, grid, strict=True))
    if wrong := [size for size in sizes if any(size < p or size % p for p in patch)]:
        near = [max(1, round(size / patch[0])) * patch[0] for size in wrong]
        raise UsageError(
            f"patches of {patch[0]}x{patch[1]} do not tile images of side {', '.join(map(str, wrong))}; "
            f"the nearest that fit are {', '.join(map(str, near))}"
        )


def _at(name: str, recipe: Recipe, size: int, classes: int | None) -> Growth:
    try:
        model = weightless(name, recipe.adapters, recipe.reducer, classes, img_size=size)
    except UsageError as error:
        raise UsageError(f"{recipe.name} at {size}x{size}: {error}") from error
    reduced, whole = cost(model), cost(model, reduced=False)
    return Growth(recipe.name, (size, size), reduced.macs, whole.macs, (reduced.tokens[0][0], reduced.tokens[-1][1]))
