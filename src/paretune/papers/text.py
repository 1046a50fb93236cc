"""Checked tables as rows of text, for the terminal and for the page in the docs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from paretune.papers.check import Checked
from paretune.papers.means import Mean
from paretune.papers.verdict import ACCURACY, CANNOT, VERDICTS, Finding

COMPUTED = ("row", "quantity", "printed", "ours", "differs by", "verdict")
MISSING = ("cannot be reproduced", "what")
MEANS = ("row", "of", "printed", "flat mean", "group mean", "printed is the")
LIST = ("table", "what", "numbers", *VERDICTS)

PREFACE = """\
# The papers' tables, held against paretune

Written by `paretune paper all --markdown`; a test computes it anew. Every number that Sparse-Tuning
([arXiv:2405.14700](https://arxiv.org/abs/2405.14700)) and FPET ([arXiv:2503.20282](https://arxiv.org/abs/2503.20282))
print about parameters, multiply-accumulates, memory and time stands here beside what paretune computes.

- **reproduced**: one way of counting rounds to the printed digits; it is named.
- **differs**: none does. The nearest is shown.
- **cannot be reproduced**: paretune has not the method, or the number is seconds or bytes of a machine.

Papers seldom say how they count. Parameters come without the head or with one. Multiply-accumulates, which both papers
print as FLOPs, come *plain*, as `paretune cost` counts; with *LayerNorm x5*, at 5 per number, as fvcore does; with
*leaves folded*, adapters on linears being part of these; with the *merge as matrix product*, as a learned matching is
trained.

Memory is compared as the ratio of two rows: ours is what autograd saves for the backward pass on a CPU, theirs includes
weights, workspace and what the allocator holds. It is reproduced within 5 %; time likewise, where `--bench` passes a
measurement. Accuracies need the weights and the data; of those that are printed, the means are computed: flat over all
numbers, and of the means of VTAB's three groups.
"""


def computed(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The numbers for which paretune has a value, one per row; the verdict says how it was counted."""
    rows = [(f.row, f.quantity, f.printed, f.ours, f.difference, _verdict(f)) for f in findings if f.verdict != CANNOT]
    above = [None, *(row[0] for row in rows)]
    return [("" if row[0] == before else row[0], *row[1:]) for before, row in zip(above, rows, strict=False)]


def missing(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """The numbers that cannot be reproduced, by reason; accuracies are left to the table of means."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for f in findings:
        if f.verdict == CANNOT and f.quantity != ACCURACY:
            reasons.setdefault(f.why, {}).setdefault(f.row, []).append(f"{f.quantity} {f.printed}")
    return [
        (why, "; ".join(f"{row}: {', '.join(dict.fromkeys(numbers))}" for row, numbers in rows.items()))
        for why, rows in reasons.items()
    ]


def _verdict(finding: Finding) -> str:
    to = f", to {finding.to}" if finding.to else ""
    return f"{finding.verdict}: {finding.how}{to}." + (f" {finding.why}" if finding.why else "")


def means(found: Iterable[Mean]) -> list[tuple[str, ...]]:
    """Printed means beside the ones computed."""
    return [(m.row, m.label, m.printed, _two(m.flat), _two(m.group), m.which) for m in found]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def listed(checked: Iterable[Checked]) -> list[tuple[str, ...]]:
    """One row per table: how many numbers have which verdict."""
    return [(c.key, c.title, str(len(c.findings)), *map(str, c.counts().values())) for c in checked]


def markdown(checked: Sequence[Checked]) -> str:
    """The page."""
    parts = [PREFACE, _grid(LIST, listed(checked), words=2)]
    for one in checked:
        parts.append(f"## {one.key}\n\n{one.title} (arXiv:{one.arxiv})")
        if rows := computed(one.findings):
            parts.append(_grid(COMPUTED, rows, words=2))
        if left := missing(one.findings):
            parts.append(_grid(MISSING, left, words=2))
        if one.means:
            parts.append(_grid(MEANS, means(one.means), words=2))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    rule = ["---" if i < words or name in ("verdict", "printed is the") else "---:" for i, name in enumerate(header)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
