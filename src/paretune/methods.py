"""`Methods`: the adapters and the token reducer of a model as one object, with JSON, key and printed form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from paretune.adapters import ADAPTERS
from paretune.config import from_json, to_json
from paretune.core.body import AdapterSettings
from paretune.core.method import ReducerSettings
from paretune.errors import UsageError
from paretune.reducers import REDUCERS


@dataclass(frozen=True)
class Methods:
    """The settings of adapters, in order, and of a token reducer or None.

    The head is not part of it: every model has the same kind of head, which has no settings.
    """

    adapters: tuple[AdapterSettings, ...] = ()
    reducer: ReducerSettings | None = None

    @classmethod
    def from_json(cls, described: dict) -> Methods:
        """The methods that `to_json` described; other keys of `described` are ignored.

        Raises UsageError for an unknown kind or field, with suggestions, and KeyError where a key is missing.
        """
        adapters, reducer = described["adapters"], described["reducer"]
        return cls(tuple(from_json(one, ADAPTERS) for one in adapters), reducer and from_json(reducer, REDUCERS))

    def to_json(self) -> dict:
        """{"adapters": [{"kind": "LoRA", "rank": 8, ...}], "reducer": {"kind": "FPET", ...} or None}."""
        reducer = None if self.reducer is None else to_json(self.reducer)
        return {"adapters": [to_json(one) for one in self.adapters], "reducer": reducer}

    def __str__(self) -> str:
        """ "LoRA(rank=4) + FPET(block=6)": only settings without their default. "LoRA, all tokens": no reducer."""
        adapters = " + ".join(map(_printed, self.adapters)) or "no adapter"
        return f"{adapters}, all tokens" if self.reducer is None else f"{adapters} + {_printed(self.reducer)}"

    def key(self) -> str:
        """A string that is equal for equal methods."""
        return json.dumps(self.to_json(), sort_keys=True)


def _printed(method: AdapterSettings | ReducerSettings) -> str:
    """A method as in Python, without the settings that have their default."""
    own = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)
           if getattr(method, field.name) != field.default}  # fmt: skip
    settings = ", ".join(f"{name}={value!r}" for name, value in own.items())
    return type(method).__name__ + (f"({settings})" if settings else "")


def completed(settings: dict) -> dict:
    """`settings` with {adapters, reducer} as this version would write them, missing settings filled with defaults.

    So recorded settings stay equal after a method gets a new setting. Methods or settings that are unknown to this
    version are not changed.
    """
    try:
        described = Methods.from_json(settings).to_json()
    except UsageError:
        return settings
    return {**settings, **json.loads(json.dumps(described))}  # tuples are lists there


def absent(adapters: Sequence[dict], reducer: dict | None) -> list[str]:
    """The kinds of methods that this version does not know."""
    known = {kind.__name__ for kind in (*ADAPTERS, *REDUCERS)}
    return [one["kind"] for one in [*adapters, *([reducer] if reducer else [])] if one["kind"] not in known]
