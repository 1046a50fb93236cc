"""The one error a user can cause."""

from __future__ import annotations

from difflib import get_close_matches

ECHO, SENTENCE = 200, 4000  # characters: of one value that is repeated, and of a whole error


def printable(text: str, keep: str = "") -> str:
    """The text with escapes such as \\x1b for what a terminal would obey or cannot show; characters in `keep` stay."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """A value as an error repeats it: its repr, printable, and cut after 200 characters."""
    try:
        text = printable(repr(value[: ECHO + 1] if isinstance(value, str | bytes | list | tuple) else value))
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists without end
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= ECHO else f"{text[:ECHO]}..."


class UsageError(ValueError):
    """Something was asked that cannot be done.

    The message says what was asked, what is possible and what to do, on one line that a terminal can show. The command
    line prints it without a traceback and ends with exit code 2.
    """

    def __init__(self, sentence: str):
        half = ECHO // 2  # both ends, for a path says most there
        words = (word if len(word) <= ECHO else f"{word[:half]}...{word[-half:]}" for word in sentence.split(" "))
        sentence = printable(" ".join(words))
        super().__init__(sentence if len(sentence) <= SENTENCE else f"{sentence[:SENTENCE]}...")


class Diverged(UsageError):
    """A training whose loss is no number any more: a smaller learning rate may help."""


def unknown(kind: str, asked: str, known: list[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest names as a suggestion."""
    by_lower = {name.lower(): name for name in known}
    near = [by_lower[name] for name in get_close_matches(asked.lower()[:ECHO], by_lower, n=3)]
    some = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return UsageError(
        f"unknown {kind} '{asked[:ECHO]}': " + (f"did you mean {' or '.join(near)}?" if near else f"known: {some}")
    )


def refuse(problems: list[str], what: str) -> None:
    """Raise one UsageError that lists every problem at once; return if there is none."""
    if problems:
        raise UsageError(f"{what}: " + "; ".join(problems))
