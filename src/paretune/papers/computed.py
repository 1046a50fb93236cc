"""The quantities of the published tables, computed by paretune in all ways in which papers count.

    parameters   without the head, with one of the table's heads, or weights only
    MACs         plain, as `cost` counts; leaves folded; LayerNorm x5 per number, as fvcore counts; merge as matrix
                 product, as in the training of some reducers
    memory       the bytes that autograd saves for the backward pass, alone or with weights, gradients and AdamW
    time         only from a file of `paretune bench`

Memory and time are used only for ratios of two rows. The ways of counting ("readings") do not depend on the methods:
folded leaves, products and norms come from the counts of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

from paretune.core import anatomy
from paretune.core.model import Adapted
from paretune.measure.counting import ForwardCount, dry_run
from paretune.measure.fake_memory import saved_bytes
from paretune.measure.growth import weightless
from paretune.measure.memory import tensor_bytes
from paretune.methods import Methods
from paretune.papers.tables import Setting

CLASSES = 100
WEIGHTS_ONLY = "weights only, without head and biases"
NORM_COST = 5  # fvcore's multiply-accumulates per number that goes through a LayerNorm


class MacReading(NamedTuple):
    """A way to count multiply-accumulates."""

    products: bool
    folded: bool
    normed: bool

    def __str__(self) -> str:
        parts = ("merge as matrix product", "leaves folded", f"LayerNorm x{NORM_COST}")
        return ", ".join(name for name, on in zip(parts, self, strict=True) if on) or "plain"


MAC_READINGS = tuple(MacReading(*on) for on in product((False, True), repeat=3))  # the simplest first


class Workshop:
    """Builds every setting once, and keeps its counts."""

    def __init__(self) -> None:
        self.models: dict[str, Adapted] = {}
        self.counts: dict[tuple[str, bool], ForwardCount] = {}
        self.saved: dict[tuple[str, int], int] = {}

    def model(self, setting: Setting) -> Adapted:
        """The setting without weights, with a head of 100 classes. Raises UsageError if it cannot be built."""
        if setting.key() not in self.models:
            self.models[setting.key()] = _built(setting)
        return self.models[setting.key()]

    def parameters(self, setting: Setting, heads: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Fraction]]:
        """Trained parameters, for every reading."""
        model = self.model(setting)
        in_head = {id(p) for head in anatomy.classifiers(model.backbone) for p in head.parameters()}
        body = [p for p in model.parameters() if p.requires_grad and id(p) not in in_head]
        count = sum(p.numel() for p in body)
        yield "without the head", Fraction(count)
        head = sum(p.numel() for p in model.parameters() if id(p) in in_head)
        for name, classes in heads.items():
            yield f"with {name}", count + Fraction(head, CLASSES) * Fraction(sum(classes), len(classes))
        yield WEIGHTS_ONLY, Fraction(sum(p.numel() for p in body if p.dim() > 1))

    def macs(self, setting: Setting, reading: MacReading) -> int:
        """Multiply-accumulates of one image."""
        counted = self.counted(setting, reading.products)
        folded = sum(count for place, count in counted.macs.items() if place.part == "leaves")
        return counted.total - reading.folded * folded + reading.normed * NORM_COST * counted.normed

    def counted(self, setting: Setting, training: bool) -> ForwardCount:
        """The counts of a forward pass."""
        if (setting.key(), training) not in self.counts:
            model = self.model(setting)
            size = tuple(model.preprocessing["input_size"][1:])
            self.counts[setting.key(), training] = dry_run(model, size, training=training)
        return self.counts[setting.key(), training]

    def memory(self, setting: Setting, batch: int) -> dict[str, int]:
        """Bytes of a training step with this batch size, for every reading."""
        model, saved = self.model(setting), self.saved_bytes(setting, batch)
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        held = tensor_bytes(model) + 3 * trained  # the gradient and AdamW's two moments
        return {
            f"saved for the backward, batch {batch}": saved,
            f"saved for the backward, weights, gradients and AdamW, batch {batch}": saved + held,
        }

    def saved_bytes(self, setting: Setting, batch: int) -> int:
        """Bytes that autograd saves in a training forward."""
        if (setting.key(), batch) not in self.saved:
            self.saved[setting.key(), batch] = saved_bytes(self.model(setting), batch)
        return self.saved[setting.key(), batch]

    def timed(
        self, bench: dict[str, Any], one: Setting, other: Setting, quantity: str, batch: int | None
    ) -> tuple[str, Fraction] | None:
        """The ratio of two settings in a file of `paretune bench`, with a text that says where it was measured.

        batch: the preferred batch size; else the largest one is used. None if the file lacks one of the settings.
        """
        if {one.backbone, other.backbone} != {bench["model"].partition(".")[0]}:
            return None
        for size in sorted({row["batch"] for row in bench["rows"]}, key=lambda size: (size != batch, -size)):
            rows = [row for row in bench["rows"] if row["batch"] == size]
            first, second = (self._measured(rows, setting, quantity) for setting in (one, other))
            if first and second:
                over = Fraction(first) / Fraction(second)
                how = ", leaves folded" if bench.get("merged") else ""
                where = f"measured on {bench['machine']['name']}, batch {size}{how}"
                return where, 1 / over if quantity == "throughput" else over
        return None

    def _measured(self, rows: list[dict], setting: Setting, quantity: str) -> float | None:
        """The figure of the first row that ran this setting and has this figure."""
        figures = (_figure(row, quantity) for row in rows if self._ran(row, setting))
        return next((figure for figure in figures if figure is not None), None)

    def _ran(self, row: dict, setting: Setting) -> bool:
        """Whether a row of the file ran this setting; timm's own row, which has no settings, trains everything."""
        if row["settings"] is None:
            model = self.model(setting)
            return model.reducer is None and all(p.requires_grad for p in model.parameters())
        return Methods.from_json(row["settings"]) == setting.methods


def _built(setting: Setting) -> Adapted:
    return weightless(setting.backbone, setting.methods.adapters, setting.methods.reducer, CLASSES)


def _figure(row: dict, quantity: str) -> float | None:
    """The measured quantity: seconds of a batch, or bytes."""
    parts = {"inference time": "forward", "throughput": "forward", "training time": "step"}
    if quantity in parts:
        return row[parts[quantity]] and row[parts[quantity]]["median"]
    return row["memory"]["cuda_peak_step" if quantity == "training memory" else "cuda_peak_forward"]
