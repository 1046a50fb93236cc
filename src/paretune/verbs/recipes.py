"""Recipes with changed settings, and the model that a recipe makes of a backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paretune.catalogue import Recipe, recipe
from paretune.core import anatomy
from paretune.core.model import Adapted
from paretune.data.task import Task
from paretune.training.prepare import built, size_option
from paretune.verbs.overrides import override


def chosen_recipe(name: str | Recipe, assignments: list[str] | None, schedule: dict) -> Recipe:
    """The recipe `name`, or a recipe itself, with every --set, and with the entries of `schedule` that are not None.

    If only the number of epochs changes, warm-up keeps its share of the training.
    """
    return with_schedule(override(recipe(name) if isinstance(name, str) else name, assignments or []), schedule)


def with_schedule(chosen: Recipe, schedule: dict) -> Recipe:
    """The recipe with the entries of `schedule` that are not None; other epochs keep the share of warm-up."""
    asked = {key: value for key, value in schedule.items() if value is not None}
    if "epochs" in asked:
        share = chosen.schedule.warmup_epochs / chosen.schedule.epochs
        asked = {"warmup_epochs": share * asked["epochs"], **asked}
    return replace(chosen, schedule=replace(chosen.schedule, **asked))


def chosen_recipes(names: list[str], assignments: list[str]) -> list[Recipe]:
    """The recipes with every --set: KEY=VALUE applies to all of them, NAME.KEY=VALUE to one."""
    own, common = {name: [] for name in names}, []
    for assignment in assignments:
        name, _, rest = assignment.partition(".")
        own[name].append(rest) if name in own else common.append(assignment)
    return [chosen_recipe(name, [*common, *own[name]], {}) for name in names]


def build(
    name: str,
    recipe: Recipe,
    classes: list[str] | int | None,
    image_size: int | None,
    pretrained: bool,
    checkpoint: Path | None,
    seed: int = 0,
    task: Task = "multiclass",
) -> Adapted:
    """The backbone `name` with the methods of `recipe`; `seed` initialises the new tensors."""
    given = {"seed": seed, "task": task, "pretrained": pretrained, "checkpoint": checkpoint}
    return built(name, recipe.methods, recipe.schedule, classes, **given, **size_option(image_size))


def lost(model: Adapted) -> str:
    """A sentence if the patches do not cover the whole input; "" if they do."""
    shape, side = anatomy.shape(model.backbone), model.preprocessing["input_size"][-1]
    patch, covered = shape.patch[1], shape.grid[1] * shape.patch[1]
    if not (edge := side - covered):
        return ""
    told = f"patches of {patch} pixels cover {covered} of {side}, {edge} pixels at two edges are not seen"
    return f"{told}: --image-size {covered} or {covered + patch} loses none"
