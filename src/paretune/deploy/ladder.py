"""What to ship on this machine: one model as every artefact, with its reducer and without, all timed in turn.

timm         the backbone's own forward in torch, float32: the reference of the ratios
torch        the model in torch, float32
RUNTIME DTYPE, and the same "all tokens"     artefacts, each held against torch before it is timed
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from paretune.core.model import Adapted
from paretune.data.samples import ImageSet
from paretune.deploy.artefact import Artefact
from paretune.deploy.export import DTYPES, REPORT, export
from paretune.deploy.parity import Pictures
from paretune.deploy.runtimes import open_runtime
from paretune.deploy.scoring import score
from paretune.errors import UsageError
from paretune.folding import merge, stripped
from paretune.machine import environment
from paretune.timing.rounds import Times, interleaved, times
from paretune.timing.table import digits

TIMM, TORCH, FULL = "timm", "torch", "all tokens"
BATCHES = (1, 8)
WARM = 2
VERSION = 1


@dataclass(frozen=True)
class Rung:
    """One way to run the model.

    name: for people; times: {batch: Times}; bytes: of the files, None in torch
    verdict, agreement: of the check against torch with the same tokens, None in torch
    accuracy: of labelled images, a share; None if there were none
    """

    name: str
    times: dict[int, Times]
    bytes: int | None = None
    verdict: str | None = None
    agreement: float | None = None
    accuracy: float | None = None

    def ms(self, batch: int) -> float:
        """Milliseconds per image."""
        return self.times[batch].ms_per_image


@dataclass(frozen=True)
class Ladder:
    """The rungs, in the order in which they were made, and the machine on which they were timed."""

    model: str
    rungs: tuple[Rung, ...]
    rounds: int
    machine: dict[str, Any]

    def front(self, batch: int) -> list[Rung]:
        """The rungs that passed and of which none is both faster and as accurate (as alike, without labels)."""
        good = [one for one in self.rungs if one.verdict != "failed"]

        def beaten(one: Rung) -> bool:
            return any(o.ms(batch) < one.ms(batch) and worth(o) >= worth(one) for o in good if o is not one)

        return [one for one in good if not beaten(one)]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        rows = [asdict(one) | {"times": {str(b): t.to_dict() for b, t in one.times.items()}} for one in self.rungs]
        return {"kind": "ladder", "version": VERSION, "model": self.model, "rounds": self.rounds,
                "machine": self.machine, "rows": rows}  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        at, batches = self.machine, list(self.rungs[0].times)
        threads = f"{at['threads']} of {at['cores']} threads"
        yield Text(f"{self.model}; {at['name']}, {threads}; {self.rounds} rounds, taking turns")
        grid = Table(box=box.SIMPLE_HEAD)
        grid.add_column("")
        for name in ("MB", "check", "same answers", "accuracy"):
            grid.add_column(name, justify="right")
        for batch in batches:
            for name in (f"ms/image\nbatch {batch}", "speed-up", "front"):
                grid.add_column(name, justify="right")
        fronts = {batch: self.front(batch) for batch in batches}
        for one in self.rungs:
            cells = [share(one.agreement), share(one.accuracy)]
            for batch in batches:
                faster = one.times[batch].ratio
                cells += [digits(one.ms(batch)), "-" if faster is None else f"{1 / faster:.2f}x",
                          "*" if one in fronts[batch] else ""]  # fmt: skip
            grid.add_row(one.name, "-" if one.bytes is None else f"{one.bytes / 1e6:,.1f}", one.verdict or "-", *cells)
        yield grid
        yield Text(f"speed-up: over {TIMM}'s own forward in float32; *: none that passed is faster and as good")


def worth(one: Rung) -> float:
    """What a rung is compared by: accuracy, or how far it agrees with torch."""
    return one.accuracy if one.accuracy is not None else 1.0 if one.agreement is None else one.agreement


def share(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"


def rungs_for(to: Sequence[str], dtypes: Sequence[str]) -> list[tuple[str, str]]:
    """Every runtime with every number type that it has. Raises UsageError if nothing is left."""
    found = [(runtime, dtype) for runtime in to for dtype in dtypes if dtype in DTYPES.get(runtime, ())]
    if not found:
        raise UsageError(f"none of {', '.join(to)} has {' or '.join(dtypes)}: there is {DTYPES}")
    return found


def climb(
    model: Adapted,
    pictures: Pictures,
    out: Path,
    *,
    rungs: Sequence[tuple[str, str]],
    data: ImageSet | None = None,
    batches: Sequence[int] = BATCHES,
    rounds: int = 15,
    tell: Callable[[str], object] = lambda line: None,
) -> Ladder:
    """Export the model in every way into folders of `out`, check each, and time all of them in turn.

    data: labelled images, not transformed, for the accuracy; rungs: (runtime, number type) pairs.
    """
    sides = {"": model, FULL: without_reducer(model)} if model.reducer is not None else {"": model}
    made: dict[str, Path] = {}
    for runtime, dtype in rungs:
        for end, side in sides.items():
            name = " ".join(filter(None, (runtime, dtype, end)))
            tell(name)
            made[name] = out / name.replace(" ", "-")
            limits = (1, max(batches))
            export(side, made[name], pictures, to=runtime, dtype=dtype, batch=limits, rounds=0, overwrite=True)
    tell("timing")
    measured = _timed(model, made, batches, rounds)
    found = [Rung(TIMM, measured[TIMM]), Rung(TORCH, measured[TORCH])]
    for name, folder in made.items():
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        agreed = min(row["agreement"] for row in report["parity"] if row["pictures"] == "pictures")
        accuracy = None if data is None else score(Artefact(folder), data).scores.get("accuracy")
        found.append(Rung(name, measured[name], report["bytes"], report["verdict"], agreed, accuracy))
    name = model.spec.backbone.name if model.spec else None
    return Ladder(name or "a module", tuple(found), rounds, environment(torch.device("cpu")))


def without_reducer(model: Adapted) -> Adapted:
    """The same model with all its tokens, its adapters folded where they fold."""
    whole = merge(model)
    whole.reducer, whole.spec = None, None
    return whole


def _timed(model: Adapted, made: dict[str, Path], batches: Sequence[int], rounds: int) -> dict[str, dict[int, Times]]:
    threads = torch.get_num_threads()
    calls: dict[str, Callable[[Any], Any]] = {name: open_runtime(path, threads) for name, path in made.items()}
    plain, own = stripped(model).eval().backbone, merge(model)
    groups, rng = [], np.random.default_rng(0)
    for batch in batches:
        images = rng.standard_normal((batch, *model.preprocessing["input_size"]), np.float32)
        given = torch.from_numpy(images)
        group: dict[tuple[str, int], Callable[[], Any]] = {(TIMM, batch): partial(plain, given)}
        group[TORCH, batch] = partial(own, given)
        groups.append(group | {(name, batch): partial(call, images) for name, call in calls.items()})
    seconds: dict[tuple[str, int], list[float]] = {key: [] for group in groups for key in group}
    with torch.inference_mode():
        for key, taken in interleaved(groups, rounds + WARM, torch.device("cpu")):
            if isinstance(taken, Exception):
                raise taken
            seconds[key].append(taken)
    found: dict[str, dict[int, Times]] = {}
    for (name, batch), taken in seconds.items():
        found.setdefault(name, {})[batch] = times(taken[WARM:], batch, seconds[TIMM, batch][WARM:])
    return found
