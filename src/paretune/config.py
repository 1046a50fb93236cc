"""Convert method settings to and from JSON, check them, and read the help texts below their fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from itertools import pairwise
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from paretune.errors import quoted, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LARGEST = 10**6  # largest whole number of a setting: ranks, widths, blocks, epochs
T = TypeVar("T", bound="DataclassInstance")


def to_json(config: DataclassInstance) -> dict:
    """A method's settings as JSON values: {"kind": "LoRA", "rank": 8, ...}."""
    return {"kind": type(config).__name__, **dataclasses.asdict(config)}


def from_json(described: dict, kinds: tuple[type[T], ...]) -> T:
    """The settings that `to_json` described. Raises UsageError for an unknown kind or field, with suggestions."""
    settings = dict(described)
    known = {kind.__name__: kind for kind in kinds}
    name = settings.pop("kind", "")
    if name not in known:
        raise unknown("method", name, list(known))
    fields = [field.name for field in dataclasses.fields(known[name])]
    for field in settings:
        if field not in fields:
            raise unknown(f"setting of {name}", field, fields)
    return known[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def field_help(kind: type) -> dict[str, str]:
    """The docstring below every field of a config class."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                texts[name] = " ".join(said.split())
    return texts


def type_problems(config: DataclassInstance) -> list[str]:
    """One sentence for every value that has the wrong type, is not finite, or is too large for a setting.

    The entries of a tuple are checked like single values.
    """
    typed = list(_typed_values(config))
    kind = type(config).__name__
    problems = [
        f"{kind} {name}={quoted(value)}: must be of type {getattr(hint, '__name__', hint)}"
        for name, value, hint in typed
        if not _fits(value, hint)
    ]
    return problems + [
        f"{kind} {name}={quoted(value)}: must be from -{LARGEST:,} to {LARGEST:,}"
        for name, value, _ in typed
        if any(isinstance(one, int) and abs(one) > LARGEST for one in (value if isinstance(value, tuple) else [value]))
    ]


def choice_problems(config: DataclassInstance) -> list[str]:
    """One sentence for every value that is not among the choices of its field."""
    problems = []
    for name, value, hint in _typed_values(config):
        if get_origin(hint) is Literal and value not in get_args(hint):
            *most, last = map(repr, get_args(hint))
            problems.append(f"{type(config).__name__} {name}={quoted(value)}: must be {', '.join(most)} or {last}")
    return problems


def _typed_values(config: DataclassInstance) -> list[tuple[str, Any, Any]]:
    hints = get_type_hints(type(config))
    return [(field.name, getattr(config, field.name), hints[field.name]) for field in dataclasses.fields(config)]


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is tuple:  # tuple[int, ...]
        return isinstance(value, tuple) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    if get_origin(hint) is Literal:
        return True  # choice_problems checks it
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))
