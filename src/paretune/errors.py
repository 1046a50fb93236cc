"""UsageError, the error for everything that a user can correct, and helpers for its messages."""

from __future__ import annotations

import reprlib
from difflib import get_close_matches

SHOWN = 200  # limit of the characters of a value that a message repeats
LONGEST = 4000  # limit of the characters of a message


class UsageError(ValueError):
    """The request cannot be fulfilled.

    The message says what was asked, what is possible and what to do. The command line prints it without a traceback
    and ends with exit code 2. The message is one line of printable characters, for all names and values in it.
    """

    def __init__(self, sentence: str):
        half = SHOWN // 2  # both ends of a long word are kept: they are the most useful parts of a path
        words = (word if len(word) <= SHOWN else f"{word[:half]}...{word[-half:]}" for word in sentence.split(" "))
        shown = printable(" ".join(words))
        super().__init__(shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}...")


def printable(text: str, keep: str = "") -> str:
    """The text with escapes such as \\x1b in place of non-printable characters, except for those in `keep`."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class Diverged(UsageError):
    """The training loss is NaN or infinite: a smaller learning rate may help."""


def unknown(kind: str, asked: str, known: list[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest names as a suggestion."""
    by_lower = {name.lower(): name for name in known}
    near = [by_lower[name] for name in get_close_matches(asked.lower()[:SHOWN], by_lower, n=3)]
    some = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return UsageError(
        f"unknown {kind} '{plain(asked)}': " + (f"did you mean {' or '.join(near)}?" if near else f"known: {some}")
    )


def refuse(problems: list[str], what: str) -> None:
    """Raise one UsageError that lists every problem at once; return if there is none."""
    if problems:
        raise UsageError(f"{what}: " + "; ".join(problems))


def quoted(value: object) -> str:
    """`value` for a message: text in quotes, only printable characters, at most 200 of them."""
    try:
        text = repr(value[:SHOWN]) if isinstance(value, str) else plain(reprlib.repr(value))
    except (ValueError, RecursionError):  # a number with thousands of digits, or deeply nested lists
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]}...{text[-1]}"


def plain(text: object) -> str:
    """A name for a message: without quotes, only printable characters, a long name without its middle."""
    whole = str(text)
    short = whole if len(whole) <= SHOWN else f"{whole[: SHOWN // 2]}...{whole[-SHOWN // 2 + 3 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
