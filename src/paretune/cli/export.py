"""`paretune export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say
from paretune.errors import UsageError, quoted


def export(
    run: options.Saved,
    to: Annotated[str, typer.Option(help="onnx, openvino, torch, or triton: an ONNX file in Triton's layout.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    dtype: Annotated[str, typer.Option(help="fp32; bf16 (openvino, torch); int8 (onnx, openvino).")] = "fp32",
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH ...",
            help="Pictures to check with, files or folders; by default those of the run's own data.",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="MIN:MAX", help="Images at once; one number makes a graph of that batch alone.")
    ] = "1:64",
    target: Annotated[
        str | None, typer.Option(help="tensorrt: refuse operations that TensorRT is known to get wrong.")
    ] = None,
    check: Annotated[int, typer.Option(min=1, max=100_000, help="Pictures to check with.")] = 64,
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            max=10**6,
            help="Timed runs of the artefact, of the same without its reducer, and of torch; 0 leaves timing out.",
        ),
    ] = 7,
    checkpoint: options.ItsCheckpoint = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of --out.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a trained model for another runtime, and check that it answers as the model in torch does.

    The folder holds the artefact, which alone is enough for `predict`, `eval` and `paretune.Artefact`, and export.json,
    the report of the check. Adapters that fold are folded first. An artefact that fails its check is written, says so
    itself, and the exit code is 1.
    """  # fmt: skip
    from rich.console import Console

    from paretune.checkpoint import load
    from paretune.deploy.export import check as check_wishes
    from paretune.deploy.export import export
    from paretune.deploy.pictures import pictures_for

    limits = _batch(batch)
    check_wishes("onnx" if to == "triton" else to, dtype, limits, target)
    model = load(run, checkpoint=checkpoint)
    report = export(
        model, out, pictures_for(model, run, images or [], check), to=to, dtype=dtype, batch=limits, target=target,
        rounds=rounds, overwrite=overwrite, tell=lambda line: say(line, err=True),
    )  # fmt: skip
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    answer(report.to_json(), as_json, lambda: (console.print(report), say(f"saved in {out}")))
    if report.failures:
        raise typer.Exit(1)


def _batch(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise UsageError(f"--batch {quoted(text)}: give two numbers such as 1:64, or one such as 8") from None
