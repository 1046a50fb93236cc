"""The one error a user can cause."""

from __future__ import annotations

from difflib import get_close_matches


class UsageError(ValueError):
    """Something was asked that cannot be done.

    The message says what was asked, what is possible and what to do. The command line prints it without a traceback
    and ends with exit code 2.
    """


class Diverged(UsageError):
    """A training whose loss is no number any more: a smaller learning rate may help."""


def unknown(kind: str, asked: str, known: list[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest names as a suggestion."""
    by_lower = {name.lower(): name for name in known}
    near = [by_lower[name] for name in get_close_matches(asked.lower(), by_lower, n=3)]
    some = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return UsageError(
        f"unknown {kind} '{asked}': " + (f"did you mean {' or '.join(near)}?" if near else f"known: {some}")
    )


def refuse(problems: list[str], what: str) -> None:
    """Raise one UsageError that lists every problem at once; return if there is none."""
    if problems:
        raise UsageError(f"{what}: " + "; ".join(problems))
