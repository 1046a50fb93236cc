"""The one error a user can cause."""

from __future__ import annotations

from difflib import get_close_matches


class UsageError(ValueError):
    """Something was asked that cannot be done.

    The message says what was asked, what is possible and what to do. The command line prints it without a traceback
    and ends with exit code 2.
    """


def unknown(kind: str, asked: str, known: list[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest names as a suggestion."""
    near = get_close_matches(asked, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."
    return UsageError(f"unknown {kind} '{asked}': {hint}")


def refuse(problems: list[str], what: str) -> None:
    """Raise one UsageError that lists every problem at once; return if there is none."""
    if problems:
        raise UsageError(f"{what}: " + "; ".join(problems))
