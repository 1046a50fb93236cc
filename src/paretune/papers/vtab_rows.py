"""Rows of published VTAB-1K tables as entries of a comparison, with the protocols that produced their numbers.

Most rows of the papers' tables are copied from the papers of the methods. They were trained by different codes under
different protocols. The protocols below come from these papers and codes:

    vpt        Jia et al. 2022 (arXiv:2203.12119): tuned on val200, last epoch, the original pictures from TFDS
    noah       Zhang et al. 2022 (arXiv:2206.04673), petl-vit: Jie et al. 2022-2023 (arXiv:2207.07039, 2212.03145):
               trained on all 1,000 images, best test accuracy over the epochs, pictures stored again as JPEG
    fpet       as petl-vit, but images are not normalised
    ssf, dyt   the same, with the backbone's normalisation; ssf uses another backbone (AugReg)

A value that a paper does not state is missing here, and comparisons report it as not stated.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from paretune.data.vtab import VTAB
from paretune.errors import UsageError, unknown
from paretune.ledger.entries import PUBLISHED, Entry, Terms, flat, gathered
from paretune.papers.means import means
from paretune.papers.tables import UNITS, PrintedMean, PublishedTable, tables

LABEL = "19 tasks"  # the label of means in tables of VTAB-1K
ORIGINAL, AUGREG = "vit_base_patch16_224.orig_in21k", "vit_base_patch16_224.augreg_in21k"
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF, NOTHING = {"mean": [0.5] * 3, "std": [0.5] * 3}, {"mean": [0.0] * 3, "std": [1.0] * 3}
ON_TEST = {"selection": "test", "epoch": "best on test", "test_used": "to choose the epoch", "train": "train800val200"}
ON_VAL = {"selection": "val200", "epoch": "last", "test_used": "once", "train": "train800val200"}

# The protocol by its name: the backbone, the normalisation, the images used to choose, whether pictures are lossy.
PROTOCOLS: dict[str, tuple[str, dict | None, dict, str]] = {
    "vpt": (ORIGINAL, IMAGENET, ON_VAL, "lossless"),
    "noah": (ORIGINAL, IMAGENET, ON_TEST, "lossy"),
    "petl-vit": (ORIGINAL, IMAGENET, ON_TEST, "lossy"),
    "fpet": (ORIGINAL, NOTHING, ON_TEST, "lossy"),
    "ssf": (AUGREG, HALF, ON_TEST, "lossy"),
    "dyt": (ORIGINAL, HALF, ON_TEST, "lossy"),
    "synqt": (ORIGINAL, IMAGENET, ON_TEST, "unknown"),
    "sparse-tuning": (ORIGINAL, None, ON_TEST, "lossy"),
    "not stated": (ORIGINAL, None, {}, "unknown"),
}
# The protocol of a row, by the table and by the row's name up to its first space or comma.
ROWS = {
    "fpet-2": {
        "vpt": ("Full", "Linear", "VPT-Shallow", "VPT-Deep", "BitFit"),
        "noah": ("NOAH",),
        "petl-vit": ("FacT-TT", "RepAdapter", "Pruned"),
        "ssf": ("SSF",),
        "synqt": ("SynQT",),
        "fpet": ("LoRA", "AdaptFormer", "Bi-LoRA", "Bi-AdaptFormer", "FPET-RepAdapter", "FPET-LoRA",
                 "FPET-AdaptFormer", "FPET-Bi-LoRA", "FPET-Bi-AdaptFormer"),
    },
    "sparse-tuning-II": {
        "vpt": ("Full", "Linear", "BitFit", "VPT"),
        "noah": ("Adapter", "LoRA", "NOAH"),
        "petl-vit": ("ConvPass", "AdaptFormer", "FacT"),
        "ssf": ("SSF",),
        "synqt": ("SynQT",),
        "dyt": ("DyT",),
        "sparse-tuning": ("Sparse-Tuning",),
        "not stated": ("Res-Tuning", "PYRA"),
    },
}  # fmt: skip


def published_entries(name: str) -> list[Entry]:
    """The entries of TABLE, of TABLE:ROW, or of ROW if only one table has it.

    Raises UsageError for an unknown name, for a row of several tables, and for a row without numbers.
    """
    known = _known()
    if (key := {table.lower(): table for table in ROWS}.get(name.lower())) is not None:
        return [_entry(table, mean) for table, mean in known.values() if table.key == key and mean.of is not None]
    fits = [place for place in known if name.lower() in (place.lower(), place.lower().partition(":")[2])]
    if not fits:
        raise unknown("published row", name, [*known, *ROWS])
    if len(fits) > 1:
        raise UsageError(f"'{name}' is a row of several tables: use {' or '.join(PUBLISHED + place for place in fits)}")
    table, mean = known[fits[0]]
    if mean.of is None:
        raise UsageError(f"{fits[0]} cannot be compared: {mean.reason}")
    return [_entry(table, mean)]


def _known() -> dict[str, tuple[PublishedTable, PrintedMean]]:
    """Every row by "TABLE:ROW", without the numbers of its references."""
    rows = ((table, mean) for key in ROWS for table in [tables()[key]] for mean in table.means if mean.label == LABEL)
    return {f"{table.key}:{_named(mean)}": (table, mean) for table, mean in rows}


def _named(mean: PrintedMean) -> str:
    """The name of a row without references and commas: "DyT [33], r = 0.7" is "DyT r=0.7"."""
    return re.sub(r" \[\d+\]", "", mean.row).replace(",", "").replace(" = ", "=")


def _entry(table: PublishedTable, mean: PrintedMean) -> Entry:
    assert mean.of is not None, "the caller has checked it"
    scores: dict[str, dict[int | None, float]] = {
        task: {None: share / 100} for task, share in zip(VTAB, mean.of, strict=True)
    }
    return Entry(
        name=_named(mean),
        recipe=_named(mean),
        origin=PUBLISHED + table.key,
        scores=scores,
        groups={task: known.group for task, known in VTAB.items()},
        terms=_terms(protocol_of(table.key, mean.row)),
        trained=_count(table, mean.row, "parameters"),
        macs=_count(table, mean.row, "MACs"),
        tokens=None,
        printed=(mean.printed, means(mean).which),
    )


def protocol_of(table: str, row: str) -> str:
    """The name of the protocol of a row."""
    first = re.split(r"[ ,]", row)[0]
    (name,) = [name for name, rows in ROWS[table].items() if first in rows]
    return name


def _terms(protocol: str) -> Terms:
    backbone, normalisation, choice, lossy = PROTOCOLS[protocol]
    pairs: list[tuple[str, Any]] = [("suite", "vtab1k"), ("backbone.name", backbone)]
    pairs += flat("backbone.normalisation", HALF)  # the same for both checkpoints
    pairs += [("protocol.name", protocol), *flat("protocol", choice)]
    pairs += flat("protocol.preprocessing", normalisation) if normalisation else []
    pairs += [(f"metric of {task}", "accuracy") for task in VTAB]
    return gathered([*pairs, *((f"data.lossy of {task}", lossy) for task in VTAB)])


def _count(table: PublishedTable, row: str, quantity: str) -> int | None:
    """A printed number, in units of one, or None."""
    own = [n for n in table.numbers if (n.row, n.quantity) == (row, quantity)]
    found = [Decimal(n.value) * UNITS[n.unit] for n in own if n.value is not None]
    return int(found[0]) if found else None
