"""The models behind the rows of a report, which give their cost, tokens per block and pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paretune.backbone import EMBEDDED
from paretune.checkpoint import load
from paretune.core.model import Adapted
from paretune.errors import UsageError
from paretune.folding import stripped
from paretune.measure.cost import cost
from paretune.methods import Methods
from paretune.plan import adapt
from paretune.show.panels import Panels, panels
from paretune.show.rows import Row, Source, costs
from paretune.show.sources import identities


@dataclass(frozen=True, eq=False)
class Maps:
    """The pictures of one model, or the sentence `why` there are none."""

    name: str
    panels: Panels | None = None
    why: str = ""


def asked(
    sources: Sequence[Source], images: Sequence[str | Path], block: int | None
) -> tuple[list[Source], list[Maps]]:
    """The sources with the facts of their models added, and the maps of every model for the images."""
    trained, full, maps = identities(sources), [], []
    for source in sources:
        if source.kind == "run":
            source, model = opened(source)
            models = [(source.rows[0].name, model, source.rows[0].error)]
        else:
            models = built(source, trained)
        full.append(source)
        if images:
            maps += [
                Maps(name, why=why) if model is None else Maps(name, panels(model, images, block))
                for name, model, why in models
            ]
    return full, maps


def opened(run: Source) -> tuple[Source, Adapted | None]:
    """A run with the cost of its model, and the model; with the reason in its row if the model cannot be loaded."""
    (row,) = run.rows
    try:
        model = load(run.path)
    except UsageError as problem:
        return replace(run, rows=(replace(row, error=str(problem)),)), None
    found = cost(model)
    whole = cost(stripped(model)).macs
    figures = row.figures | costs(found.to_dict()) | {"macs_ratio": found.macs / whole}
    return replace(run, rows=(replace(row, figures=figures, tokens=found.tokens),)), model


def built(source: Source, trained: Collection[str | None]) -> Iterator[tuple[str, Adapted | None, str]]:
    """(name, model, why not) for the rows of a bench that no run folder stands for, untrained as they were timed.

    Rows without a reducer are left out: before training they do with the patches what the backbone alone does.
    """
    if source.kind != "bench":
        yield source.path.name, None, f"a {source.kind} holds results only: give the run folders beside it"
        return
    if source.content["model"] != EMBEDDED:
        why = f"{source.content['model']} was timed with random weights: give folders of trained models for pictures"
        yield source.path.name, None, why
        return
    for recipe, settings in {row["recipe"]: row["settings"] for row in source.content["rows"]}.items():
        row = next(row for row in source.rows if row.recipe == recipe)
        if settings is None or settings["reducer"] is None or row.identity in trained:
            continue
        try:
            size = tuple(source.content["image_size"])
            methods = Methods.from_json(settings)
            model = adapt(EMBEDDED, methods.adapters, methods.reducer, pretrained=True, img_size=size)
        except UsageError as problem:
            yield row.name, None, str(problem)
        else:
            yield f"{row.name}, untrained", model.eval(), ""


def joined(sources: Sequence[Source]) -> list[Row]:
    """The rows of all sources, in order; where a bench timed what a run trained, the run's row takes the times over.

    One row then stands for both, per batch size: accuracy, cost and file from the run, times and memory from the bench.
    """
    timed = [row for source in sources if source.kind == "bench" for row in source.rows if row.identity]
    trained = identities(sources)
    rows: list[Row] = []
    for source in sources:
        for row in source.rows:
            if source.kind == "run":
                rows += [_with_times(row, other) for other in timed if other.identity == row.identity] or [row]
            elif row.identity not in trained:
                rows.append(row)
    return rows


def _with_times(run: Row, timed: Row) -> Row:
    error = "; ".join(filter(None, (run.error, timed.error)))
    figures = timed.figures | run.figures
    if "macs_ratio" in timed.figures:
        figures["macs_ratio"] = timed.figures["macs_ratio"]  # the one that wall / MACs was computed with
    tokens, origin = run.tokens or timed.tokens, run.origin + timed.origin
    return replace(run, figures=figures, tokens=tokens, batch=timed.batch, origin=origin, error=error)
