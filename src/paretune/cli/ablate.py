"""`paretune ablate`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, interruptible, say, table
from paretune.counts import GMACS, MacUnit, mac_unit

_OUT = Path("ablation")


def ablate(
    paper: Annotated[str, typer.Argument(help="sparse-tuning or fpet.")],
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables of the paper, such as V IX or figure-3; all by default.")
    ] = None,
    model: options.Model = "vit_base_patch16_224",
    data: Annotated[
        Path | None,
        typer.Option(help="Train every row on this image folder (with test/), or on `digits`, the demo's images."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings per row.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, max=10**6, help="Passes over the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, max=10**6, help="Images per batch.")] = 32,
    lr: Annotated[float, typer.Option(min=0, help="Highest learning rate.")] = 1e-3,
    out: Annotated[
        Path, typer.Option(help="Folder for the training runs and their ledger; finished runs are not repeated.")
    ] = _OUT,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Compute the rows of a paper's ablations: parameters and MACs beside the printed ones, accuracy on your images.

    Without --data nothing is trained. With --data every row is trained with every seed. To continue after an
    interruption, run the same command again. The model must have as many blocks as the rows need: 12.
    """
    from paretune.catalogue import Schedule
    from paretune.papers.ablation import ablation
    from paretune.papers.variants import variants

    schedule = Schedule(epochs=epochs, batch_size=batch_size, lr=lr, warmup_epochs=epochs / 10)
    rows = variants(paper, tables or ())
    with interruptible(lambda: f"the same command goes on with the trainings in {out}"):
        found = ablation(rows, model, data, range(seeds), schedule, out, device, lambda line: say(line, err=True))
    answer(found, as_json, lambda: _say(found))


def _say(found: dict) -> None:
    for name, part in found["tables"].items():
        unit = mac_unit(row["macs"] for row in part["rows"])
        table(f"{name}: {part['title']}", _header(found, unit), [_cells(row, found, unit) for row in part["rows"]])
        if part["order"]:
            say(f"  {part['order']['text']}\n")


def _header(found: dict, unit: MacUnit) -> list[str]:
    accuracy = [f"accuracy, {len(found['seeds'])} seeds", "paper"] if found["data"] else []
    return ["row", "parameters (M)", "paper", unit.name, f"paper ({GMACS.name})", *accuracy]


def _cells(row: dict, found: dict, unit: MacUnit) -> list[str]:
    printed = [row["printed"].get(quantity, "-") for quantity in ("parameters", "MACs")]
    cells = [row["row"], f"{row['trained'] / 1e6:.2f}", printed[0], unit.write(row["macs"]), printed[1]]
    if not found["data"]:
        return cells
    paper = "-" if row["paper_accuracy"] is None else f"{row['paper_accuracy']:.2f}"
    return [*cells, f"{100 * row['accuracy']:.2f} ± {100 * row['deviation']:.2f}", paper]
