"""The columns of the comparison table: their names, meanings and number formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paretune.counts import mac_unit
from paretune.training.log import duration


@dataclass(frozen=True)
class Column:
    """A figure of a row: `key` in `Row.figures`, a short `head`, its `meaning` in a sentence, and how it is written."""

    key: str
    head: str
    meaning: str
    write: Callable[[float], str]


def whole(value: float) -> str:
    """12,345"""
    return f"{value:,.0f}"


def scaled(unit: float, digits: int = 1) -> Callable[[float], str]:
    """Writes a value in `unit`, e.g. bytes in units of 1000."""
    return lambda value: f"{value / unit:,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent: 12,345, 1.23, 0.00123."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - _exponent(value))
    return f"{value:,.{places}f}"


def percent(value: float) -> str:
    """0.8844 as 88.44 %."""
    return f"{value:.2%}".replace("%", " %")


def times(value: float) -> str:
    """A ratio: 0.67."""
    return f"{value:.2f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


COLUMNS = (  # scores first: a narrow screen shows them beside the name
    Column("accuracy", "accuracy", "share of right answers, its 95 % interval, and on what", percent),
    Column("mean_average_precision", "mean AP", "of labels: the mean over them of the average precision", percent),
    Column("r2", "R2", "of target numbers: the share of their variance that is explained", times),
    Column("group_mean", "group mean", "of a ledger: the mean of the accuracies of the groups of tasks", percent),
    Column("agreement", "same answers", "of an artefact: the share of pictures that it answers as torch does", percent),
    Column("same_patches", "same patches", "of an artefact: the share of patches that go the same way", percent),
    Column("batch", "batch", "images per batch while timing", whole),
    Column("trained", "trained", "trained parameters, the classifier included", whole),
    Column("trained_without_head", "without head", "trained parameters, the classifier left out", whole),
    Column("file_bytes", "file kB", "adapter_model.safetensors: what is kept per task, in 1000 bytes", scaled(1e3)),
    Column("artefact_bytes", "artefact MB", "the files of an artefact, in million bytes", scaled(1e6)),
    Column("macs", "MACs", "multiply-accumulates per image", whole),  # `present` chooses the unit
    Column("seconds", "train time", "how long training took, with its looks at the validation images", duration),
    Column("macs_ratio", "MAC ratio", "multiply-accumulates divided by those of the backbone alone", times),
    Column("tokens", "tokens left", "tokens in the last MLP, class token and the like included", whole),
    Column("ms_per_image", "ms/image", "milliseconds per image in evaluation, the median of the rounds", significant),
    Column("wall_ratio", "wall ratio", "time divided by the baseline's, the median of paired runs", times),
    Column("wall_per_macs", "wall / MACs", "wall ratio / MAC ratio: 1 = all arithmetic saved is time saved", times),
    Column("step_ms", "step ms/image", "milliseconds per image of forward, backward, update", significant),
    Column("step_ratio", "step ratio", "time of a training step divided by the baseline's", times),
    Column("saved_bytes", "saved MB", "what a batch keeps for the backward pass, in million bytes", scaled(1e6)),
    Column("saved_ratio", "saved ratio", "the same divided by the baseline's", times),
    Column("peak_rss", "RSS MB", "by how much a step raises the process's memory, in million bytes", scaled(1e6)),
    Column("cuda_peak_forward", "GPU MB", "peak of the GPU's allocator, forward, in million bytes", scaled(1e6)),
    Column("cuda_peak_step", "GPU step MB", "the same in a training step", scaled(1e6)),
)  # fmt: skip

SCORES = ("accuracy", "mean_average_precision", "r2")  # each row has one of them at most: what its task is scored by


def present(figures: Sequence[dict[str, float]]) -> list[Column]:
    """The columns for which at least one row has a figure; multiply-accumulates in one unit for all rows."""
    unit = mac_unit(row.get("macs") for row in figures)
    found = [column for column in COLUMNS if any(column.key in row for row in figures)]
    in_unit = {"head": unit.name, "meaning": unit.meaning, "write": unit.write}
    return [replace(one, **in_unit) if one.key == "macs" else one for one in found]
