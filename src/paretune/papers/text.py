"""Checked tables as rows of text, for the terminal and for docs/papers.md."""

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
# The papers' tables, compared with paretune

Written by `paretune paper all --markdown`; a test computes this page again. It contains every number for parameters,
multiply-accumulates, memory and time that is printed in Sparse-Tuning
([arXiv:2405.14700](https://arxiv.org/abs/2405.14700)) and FPET ([arXiv:2503.20282](https://arxiv.org/abs/2503.20282)),
beside the number that paretune computes.

- **reproduced**: one way of counting rounds to the printed digits. The verdict names it.
- **differs**: no way of counting does. The nearest one is shown.
- **cannot be reproduced**: paretune does not have the method, or the number is seconds or bytes on another machine.

Papers seldom say how they count. Parameters are counted without the head or with a head. Multiply-accumulates, which
both papers print as FLOPs, are counted in four ways. *Plain* is the count of `paretune cost`. *LayerNorm x5* adds 5 for
every number in a LayerNorm, as fvcore does. With *leaves folded*, adapters on linears are part of these linears. With
*merge as matrix product*, patches are merged by a product with a matrix, as in the training of a learned matching.

Memory is compared as the ratio of two rows. Our numbers are the bytes that autograd saves for the backward pass on a
CPU; the papers' numbers also include weights, workspace and the reserve of the allocator. A ratio is reproduced if it
is within 5 % of the printed one. The same is true for times, if `--bench` gives a measurement. Accuracies need the
weights and the data. For printed accuracies, two means are computed: the flat mean over all numbers, and the mean of
the means of VTAB's three groups.
"""


def computed(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The numbers for which paretune has a value, one per row. The verdict says how it was counted."""
    rows = [(f.row, f.quantity, f.printed, f.ours, f.difference, _verdict(f)) for f in findings if f.verdict != CANNOT]
    above = [None, *(row[0] for row in rows)]
    return [("" if row[0] == before else row[0], *row[1:]) for before, row in zip(above, rows, strict=False)]


def missing(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """The numbers that cannot be reproduced, by reason, without accuracies, which are in the table of means."""
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
    """Printed means, beside the computed ones."""
    return [(m.row, m.label, m.printed, _two(m.flat), _two(m.group), m.which) for m in found]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def listed(checked: Iterable[Checked]) -> list[tuple[str, ...]]:
    """One row per table: the number of findings with each verdict."""
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
