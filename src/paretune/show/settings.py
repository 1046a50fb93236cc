"""The settings of the runs of a report, side by side: those that differ first, then those that are the same in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paretune.show.rows import Source


@dataclass(frozen=True)
class Settings:
    """`names` of the runs; `apart`: settings that differ, each with a value for every run; `same`: the others."""

    names: tuple[str, ...]
    apart: tuple[tuple[str, tuple[str, ...]], ...]
    same: tuple[tuple[str, str], ...]


def settings(sources: Sequence[Source]) -> Settings:
    """Of all runs, in the order in which a run names them; what a run does not say is a dash."""
    runs = [source for source in sources if source.settings]
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: tuple(run.settings.get(key, "–") for run in runs) for key in keys}
    apart = tuple((key, some) for key, some in values.items() if len(set(some)) > 1)
    same = tuple((key, some[0]) for key, some in values.items() if len(set(some)) == 1)
    return Settings(tuple(run.rows[0].name for run in runs), apart, same)
