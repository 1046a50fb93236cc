"""Method settings to and from JSON, and the help texts that stand under their fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from paretune.errors import unknown


def to_json(config: Any) -> dict:
    """A method's settings as JSON values: {"kind": "LoRA", "rank": 8, ...}."""
    return {"kind": type(config).__name__, **dataclasses.asdict(config)}


def from_json(described: dict, kinds: tuple[type, ...]) -> Any:
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
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    texts = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = " ".join(text.value.value.split())
    return texts
