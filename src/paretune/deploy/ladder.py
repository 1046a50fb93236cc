"""What to ship on this machine: one model as every artefact, with its reducer and without, all timed in turn.

timm         the backbone's own forward in torch, float32: the reference of the ratios
torch        the model in torch, float32
RUNTIME DTYPE, and the same "all tokens"     artefacts, each held against torch before it is timed
"""

from __future__ import annotations

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
from torch import nn

from paretune.backbone import EMBEDDED
from paretune.core.model import Adapted
from paretune.data.preprocess import prepared
from paretune.data.samples import ImageSet
from paretune.deploy.artefact import Artefact
from paretune.deploy.clock import BATCHES, TORCH, in_turn
from paretune.deploy.export import DTYPES, REPORT, export
from paretune.deploy.parity import Pictures
from paretune.deploy.runtimes import Runtime, artefact_file, open_runtime
from paretune.deploy.scoring import score
from paretune.errors import UsageError, unknown
from paretune.folding import merge, stripped
from paretune.machine import environment
from paretune.named_backbone import obtain
from paretune.schema import read
from paretune.timing.rounds import Times
from paretune.timing.table import digits

TIMM, FULL = "timm", "all tokens"
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
        yield Text(
            f"speed-up: over {TIMM}'s own forward in float32, all tokens; *: none that passed is faster and as good"
        )


def worth(one: Rung) -> float:
    """What a rung is compared by: accuracy, or how far it agrees with torch."""
    return one.accuracy if one.accuracy is not None else 1.0 if one.agreement is None else one.agreement


def share(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"


def rungs_for(to: Sequence[str], dtypes: Sequence[str]) -> list[tuple[str, str]]:
    """Every runtime with every number type that it has. Raises UsageError for unknown names, or if nothing is left."""
    for name in to:
        if name not in DTYPES:
            raise unknown("runtime", name, list(DTYPES))
    found = [(runtime, dtype) for runtime in to for dtype in DTYPES[runtime] if dtype in dtypes]
    if not found:
        raise UsageError(f"{', '.join(to)} with {', '.join(dtypes)}: no runtime has these number types")
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

    data: labelled images, not transformed, for the accuracy; rungs: (runtime, number type) pairs. With a reducer every
    rung is made twice, with it and without it.
    """
    sides = {"": model, FULL: without_reducer(model)} if model.reducer is not None else {"": model}
    made: dict[str, Path] = {}
    for runtime, dtype in rungs:
        for end, side in sides.items():
            name = " ".join(filter(None, (runtime, dtype, end)))
            tell(name)
            made[name], limits = out / name.replace(" ", "-"), (1, max(batches))
            export(side, made[name], pictures, to=runtime, dtype=dtype, batch=limits, rounds=0, overwrite=True)
    tell("timing")
    own = {" ".join(filter(None, (TORCH, end))): merge(side) for end, side in sides.items()}
    accurate: dict[str, float | None] = {}
    if data is not None:
        accurate = {name: score(Artefact(path), data).scores.get("accuracy") for name, path in made.items()}
        accurate |= {name: _accuracy(side, data) for name, side in own.items()}
    plain: dict[str, nn.Module] = {TIMM: stripped(model).eval().backbone, **own}
    name = model.spec.backbone.name if model.spec else None
    return _timed(name or "a module", plain, made, accurate, batches, rounds)


def side_by_side(files: Sequence[Path], batches: Sequence[int] = BATCHES, rounds: int = 15) -> Ladder:
    """Artefacts that are there already, timed in turn beside timm's own forward of the first one's backbone.

    Raises UsageError for files that are no artefacts, or that take images of different sizes.
    """
    facts = [open_runtime(file).description for file in files]
    if len(sizes := {one.side for one in facts}) > 1:
        raise UsageError(f"the artefacts take images of different sizes, {sorted(sizes)}: compare those of one size")
    name = facts[0].backbone
    if name is None:
        raise UsageError(f"{files[0]} does not say what its backbone is called, so there is nothing to compare it with")
    module, _ = obtain(name, False, None, {} if name == EMBEDDED else {"img_size": facts[0].side})
    return _timed(name, {TIMM: module.eval()}, {str(file): file for file in files}, {}, batches, rounds)


def without_reducer(model: Adapted) -> Adapted:
    """The same model with all its tokens, its adapters folded where they fold."""
    whole = merge(model)
    whole.reducer = None
    return whole


def _accuracy(model: Adapted, data: ImageSet) -> float | None:
    """Of the model in torch, on the pictures as an artefact prepares them."""
    seen = data.through(partial(prepared, preprocessing=model.preprocessing))
    with torch.inference_mode():
        answers = [model(torch.from_numpy(np.asarray(seen[i][0]))[None]).argmax(1).item() for i in range(len(seen))]
    return float(np.mean(np.asarray(answers) == np.asarray(data.targets))) if model.task == "multiclass" else None


def _timed(
    title: str, plain: dict[str, nn.Module], made: dict[str, Path], accurate: dict[str, float | None],
    batches: Sequence[int], rounds: int,
) -> Ladder:  # fmt: skip
    """Time modules of torch and artefacts, taking turns."""
    threads = torch.get_num_threads()
    runs = {name: open_runtime(path, threads) for name, path in made.items()}
    size = next(iter(runs.values())).description.preprocessing["input_size"]
    measured = in_turn(plain, runs, size, batches, rounds, TIMM)
    rungs = [Rung(name, measured[name], accuracy=accurate.get(name)) for name in plain]
    rungs += [_rung(name, measured[name], path, runs[name], accurate.get(name)) for name, path in made.items()]
    return Ladder(title, tuple(rungs), rounds, environment(torch.device("cpu")))


def _rung(name: str, measured: dict[int, Times], path: Path, run: Runtime, accuracy: float | None) -> Rung:
    """An artefact, with what its own report says if it lies beside it."""
    file = artefact_file(path)
    assert file is not None, "it was opened"
    size = sum(one.stat().st_size for one in file.parent.iterdir() if one.stem == file.stem)
    rows = read(file.parent / REPORT)["parity"] if (file.parent / REPORT).is_file() else []
    agreed = [row["agreement"] for row in rows if row["pictures"] == "pictures"]
    return Rung(name, measured, size, run.description.verdict, min(agreed, default=None), accuracy)
