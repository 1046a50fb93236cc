"""Options that take several values after one flag: `--batch 1 8` is the same as `--batch 1 --batch 8`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from typer.core import TyperCommand


class ManyValues(TyperCommand):
    """A command without arguments, in which a plain word belongs to the repeatable option before it."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        """Read the words of the command line."""
        flags = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        return super().parse_args(ctx, list(spread(args, flags)))


def spread(words: Iterable[str], flags: set[str]) -> Iterator[str]:
    """`words` with each of `flags` repeated before every value that follows it."""
    flag, taken = None, False
    for word in words:
        if word.startswith("-") and (flag is None or taken):
            name = word.partition("=")[0]
            flag, taken = (name if name in flags else None), "=" in word
        elif flag is not None and taken:
            yield flag
        else:
            taken = True
        yield word
