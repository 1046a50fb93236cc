"""How far a model in bfloat16 is from float32, and how much of it is the choice of tokens.

    python scripts/bf16_choices.py WEIGHTS IMAGES...      e.g. real/dinov2_vits14.safetensors real/textile/test/*/*.jpg

The float32 model runs a third time with the reductions that the bfloat16 model made: what is left are sums.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor

import paretune as pt
from paretune.core.method import Reducer
from paretune.data.images import open_image
from paretune.data.transforms import evaluation

REDUCERS = {"no reducer": None, "ToMe r=16": pt.ToMe(r=16), "EViT": pt.EViT(), "DynamicViT": pt.DynamicViT()}


class Recorded(Reducer):
    """Answers with the reductions of an earlier forward."""

    def __init__(self, trail: tuple, proportional: bool):
        super().__init__()
        self.trail, self.proportional = trail, proportional

    def _at(self, block: int, when: str) -> list:
        return [step.reduction for step in self.trail if (step.block, step.when) == (block, when)]

    def before(self, block, tokens):
        return self._at(block, "before")

    def forward(self, block, look, tokens):
        return self._at(block, "middle")


def far(one: Tensor, other: Tensor) -> float:
    """The norm of the difference over the norm."""
    return ((one.float() - other.float()).norm() / other.float().norm()).item()


@torch.no_grad()
def main(weights: str, files: list[str]) -> None:
    """Print a line for every reducer."""
    for name, reducer in REDUCERS.items():
        torch.manual_seed(0)
        model = pt.adapt("vit_small_patch14_dinov2", [], reducer, 10, checkpoint=weights, img_size=224).eval()
        transform = evaluation(model.preprocessing)
        images = torch.stack([transform(open_image(file)) for file in files])
        whole, half = model.run(images), copy.deepcopy(model).bfloat16().run(images.bfloat16())
        line = f"{name:12} logits {far(half.logits, whole.logits):.4f}"
        if reducer is not None:
            same = (whole.tokens.groups() == half.tokens.groups()).float().mean().item()
            again = copy.deepcopy(model)
            again.reducer = Recorded(half.tokens.trail, model.reducer.proportional)
            chosen = again.run(images).logits
            line += f"   by the choice {far(chosen, whole.logits):.4f}   by the sums {far(half.logits, chosen):.4f}"
            line += f"   patches in the same slot {same:.2f}"
        print(line)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
