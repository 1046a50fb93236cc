"""From the words of the command line to a recipe and a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from paretune.cli.overrides import override
from paretune.core.model import Adapted
from paretune.plan import Recipe, adapt, recipe


def chosen_recipe(name: str, assignments: list[str] | None, schedule: dict) -> Recipe:
    """The recipe `name` with every --set, and with the entries of `schedule` that are not None.

    Warm-up keeps its share of the training where only the number of epochs is changed.
    """
    chosen = override(recipe(name), assignments or [])
    asked = {key: value for key, value in schedule.items() if value is not None}
    if "epochs" in asked:
        share = chosen.schedule.warmup_epochs / chosen.schedule.epochs
        asked = {"warmup_epochs": share * asked["epochs"], **asked}
    return replace(chosen, schedule=replace(chosen.schedule, **asked))


def build(
    name: str,
    recipe: Recipe,
    classes: list[str] | int | None,
    image_size: int | None,
    pretrained: bool,
    checkpoint: Path | None,
    seed: int = 0,
) -> Adapted:
    """The backbone `name` as `recipe` wants it; new tensors are drawn from `seed`."""
    options = {} if image_size is None else {"img_size": image_size}
    if recipe.schedule.drop_path:
        options["drop_path_rate"] = recipe.schedule.drop_path
    torch.manual_seed(seed)
    return adapt(name, recipe.adapters, recipe.reducer, classes, pretrained, checkpoint, **options)
