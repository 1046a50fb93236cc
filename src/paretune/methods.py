"""All methods by name: from JSON to settings, whatever the registers hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from paretune.adapters import ADAPTERS
from paretune.config import from_json, to_json
from paretune.errors import UsageError
from paretune.reducers import REDUCERS


def methods(adapters: Sequence[dict], reducer: dict | None) -> tuple[tuple[Any, ...], Any]:
    """The settings of adapters and of a reducer or None, as `config.to_json` describes them.

    Raises UsageError for an unknown kind or field, with suggestions.
    """
    return tuple(from_json(one, ADAPTERS) for one in adapters), reducer and from_json(reducer, REDUCERS)


def completed(settings: dict) -> dict:
    """`settings` with {adapters, reducer} as this version would write them: what they leave to a default is said.

    So a setting that a method gained since does not make recorded ones look different. Methods that no register holds,
    or that have settings which are not known here, are left as they are.
    """
    try:
        adapters, reducer = methods(settings["adapters"], settings["reducer"])
    except UsageError:
        return settings
    described = {"adapters": [to_json(one) for one in adapters], "reducer": reducer and to_json(reducer)}
    return {**settings, **json.loads(json.dumps(described))}  # tuples are lists there


def absent(adapters: Sequence[dict], reducer: dict | None) -> list[str]:
    """The kinds that no register holds."""
    known = {kind.__name__ for kind in (*ADAPTERS, *REDUCERS)}
    return [one["kind"] for one in [*adapters, *([reducer] if reducer else [])] if one["kind"] not in known]
