"""`--set reducer.keep=0.5`: change one setting of a recipe; the type of its field decides how the value is read."""

from __future__ import annotations

from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from paretune.errors import UsageError, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from paretune.catalogue import Recipe

T = TypeVar("T", bound="DataclassInstance")


def override(recipe: Recipe, assignments: list[str]) -> Recipe:
    """`recipe` with every "KEY=VALUE" applied.

    KEY is adapter.FIELD, adapter.INDEX.FIELD, reducer.FIELD or schedule.FIELD. Raises UsageError for an unknown key
    (with a suggestion), a value of the wrong type, and a setting of something that the recipe does not have.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected KEY=VALUE, as in --set reducer.keep=0.5")
        recipe = _assign(recipe, key.strip(), text.strip())
    return recipe


def _assign(recipe: Recipe, key: str, text: str) -> Recipe:
    part, _, rest = key.partition(".")
    if part == "adapter":
        index, field = _adapter_index(recipe, key, rest)
        changed = _changed(recipe.adapters[index], key, field, text)
        return replace(recipe, adapters=(*recipe.adapters[:index], changed, *recipe.adapters[index + 1 :]))
    if part not in ("reducer", "schedule"):
        raise unknown("setting", key, ["adapter.FIELD", "adapter.INDEX.FIELD", "reducer.FIELD", "schedule.FIELD"])
    if getattr(recipe, part) is None:
        raise UsageError(f"--set {key}: the recipe '{recipe.name}' has no {part}")
    return replace(recipe, **{part: _changed(getattr(recipe, part), key, rest, text)})


def _adapter_index(recipe: Recipe, key: str, rest: str) -> tuple[int, str]:
    """("0.rank" or "rank") -> (0, "rank"); the number may be left out if there is only one adapter."""
    first, dot, field = rest.partition(".")
    count = len(recipe.adapters)
    if count == 0:
        raise UsageError(f"--set {key}: the recipe '{recipe.name}' has no adapter")
    if not dot and count > 1:
        raise UsageError(f"--set {key}: say which adapter, adapter.0.{rest} to adapter.{count - 1}.{rest}")
    if dot and first not in map(str, range(count)):
        raise UsageError(f"--set {key}: the recipe '{recipe.name}' has adapters 0 to {count - 1}")
    return (int(first), field) if dot else (0, rest)


def _changed(config: T, key: str, field: str, text: str) -> T:
    names = [f.name for f in fields(config)]
    if field not in names:
        raise unknown(f"setting of {type(config).__name__}", field, names)
    hint = get_type_hints(type(config))[field]
    try:
        return replace(config, **{field: parse(text, hint)})
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"--set {key}={text}: expected {_spoken(hint)}") from None


def parse(text: str, hint: Any) -> Any:
    """`text` as int, float, bool, str, None, Literal, tuple[T, ...] or a union of these; ValueError if it is not."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first(text, inner)
    if origin is Literal:
        return _one_of(text, {str(choice): choice for choice in inner})
    if origin is tuple:
        if text in ("()", "[]"):
            return ()
        return tuple(parse(item.strip(), inner[0]) for item in text.strip("()[] ,").split(","))
    if hint is bool:
        return _one_of(text.lower(), {"true": True, "false": False})
    return _one_of(text.lower(), {"none": None}) if hint is NoneType else hint(text)


def _one_of(text: str, choices: dict[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(text)
    return choices[text]


def _first(text: str, hints: tuple) -> Any:
    for hint in hints:
        try:
            return parse(text, hint)
        except ValueError:
            continue
    raise ValueError(text)


def _spoken(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_spoken, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"{_spoken(get_args(hint)[0]).removeprefix('a ')}s separated by commas"
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "none"}.get(hint, str(hint))
