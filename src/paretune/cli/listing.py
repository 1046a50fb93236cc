"""`paretune list`"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.errors import unknown

KINDS = ("models", "recipes", "adapters", "reducers")


def list_known(
    kind: Annotated[str | None, typer.Argument(help=f"List only one of {', '.join(KINDS)}.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the backbones, recipes, adapters and reducers that paretune knows, with their settings."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, list(KINDS))
    kinds = KINDS if kind is None else (kind,)
    found = {k: _FIND[k]() for k in kinds}
    answer(found, as_json, lambda: [_SAY[k](found[k]) for k in kinds])


def _models() -> list[str]:
    import timm

    from paretune.backbone import EMBEDDED

    found = {name for module in ("vision_transformer", "deit", "eva") for name in timm.list_models(module=module)}
    return [EMBEDDED, *sorted(found - {EMBEDDED})]


def _recipes() -> dict[str, str]:
    from paretune.catalogue import RECIPES

    return {name: recipe.about for name, recipe in RECIPES.items()}


def _adapters() -> dict:
    from paretune.adapters import ADAPTERS

    return _methods(ADAPTERS)


def _reducers() -> dict:
    from paretune.reducers import REDUCERS

    return _methods(REDUCERS)


def _methods(kinds: tuple[type, ...]) -> dict:
    """{"LoRA": {"about": ..., "settings": {"rank": {"default": 8, "help": ...}}}}"""
    from paretune.config import field_help

    found = {}
    for kind in kinds:
        texts = field_help(kind)
        settings = {f.name: {"default": f.default, "help": texts.get(f.name, "")} for f in fields(kind)}
        found[kind.__name__] = {"about": (kind.__doc__ or "").strip().splitlines()[0], "settings": settings}
    return found


def _say_models(names: list[str]) -> None:
    say("models: timm names; if you ask for a variant that paretune cannot run, the error names the reason")
    say("  " + "\n  ".join(names))


def _say_recipes(found: dict[str, str]) -> None:
    from paretune.catalogue import RECIPES

    rows = [(name, str(RECIPES[name].methods), about) for name, about in found.items()]
    table("recipes", ("name", "adapters and reducer", "what it is"), rows, words=3)


def _say_methods(found: dict) -> None:
    for name, method in found.items():
        rows = [(key, str(about["default"]), about["help"]) for key, about in method["settings"].items()]
        table(f"{name}: {method['about']}", ("setting", "default", "meaning"), rows, words=3)


_FIND = {"models": _models, "recipes": _recipes, "adapters": _adapters, "reducers": _reducers}
_SAY: dict[str, Callable[[Any], None]] = {
    "models": _say_models,
    "recipes": _say_recipes,
    "adapters": _say_methods,
    "reducers": _say_methods,
}
