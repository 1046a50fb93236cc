"""`paretune bench`"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paretune.cli import options
from paretune.cli.ladder import deploy_run, time_artefacts
from paretune.errors import UsageError

if TYPE_CHECKING:
    from paretune.deploy.ladder import Ladder
    from paretune.timing.result import Bench


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            help="timm name, hf-hub:... id, folder of weights, or paretune_tiny. Not with --artefact, --deploy."
        ),
    ] = None,
    recipe: Annotated[
        list[str],
        typer.Option(metavar="NAME ...", help="One or several recipes; timm's own forward is always included."),
    ] = ["sparse-tuning"],  # noqa: B006 - typer reads it, nobody changes it
    batch: Annotated[list[int], typer.Option(metavar="N ...", help="Batch sizes.")] = [1, 8, 32],  # noqa: B006
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile for all models; compile time is reported separately.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Also measure training steps and their memory.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fold leaves such as LoRA before the forward is timed.")
    ] = False,
    baseline: Annotated[
        str, typer.Option(help="Reference of the ratios: timm, or a recipe that keeps all tokens.")
    ] = "timm",
    rounds: Annotated[int, typer.Option(help="Timed runs of every model; the models take turns.")] = 15,
    warmup: Annotated[int, typer.Option(help="Untimed runs of every model before the timed ones.")] = 2,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch on a CPU; torch's own choice by default.")
    ] = None,
    rss: Annotated[
        bool | None, typer.Option(help="Measure the peak resident memory (Linux); by default with --train on a CPU.")
    ] = None,
    memory: options.Memory = "full",
    rival: Annotated[
        str | None,
        typer.Option(
            help="hf-peft: also measure HF PEFT's LoRA in plain timm, with the settings of the recipe that is a LoRA."
        ),
    ] = None,
    set_: options.SetEach = None,
    artefact: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE ...", help="Artefacts of `paretune export` to time beside timm's own forward."),
    ] = None,
    deploy: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Export this run in every way, check each artefact, and time all, with and without the reducer.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the artefacts of --deploy.")] = None,
    to: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help="Runtimes of --deploy: torch, onnx, openvino.")
    ] = None,
    numbers: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help="Number types of --deploy: fp32, bf16, int8.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled images for the accuracy of --deploy; its split val, or all.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the result to this file.")] = None,
) -> None:
    """Measure time and memory of recipes on this machine, beside the plain backbone with fused attention.

    Every model runs once per round, in shuffled order. The output has medians, spreads, and ratios to the baseline in
    the same round. Ctrl-C prints what was measured so far. --recipe, --batch and --set take several values, as in
    --batch 1 8 32.
    """  # fmt: skip
    if json_ is not None and (json_.is_dir() or not json_.absolute().parent.is_dir()):
        raise UsageError(f"--json {json_}: name a file in a folder that exists")
    if artefact:
        _finish(time_artefacts(artefact, batch, rounds), json_)
        return
    if deploy is not None:
        _finish(deploy_run(deploy, out, to, numbers, data, batch, rounds), json_)
        return
    if model is None:
        raise UsageError("bench needs --model NAME, or artefacts: --artefact FILE, --deploy RUN")
    from paretune.timing.bench import bench
    from paretune.verbs.recipes import chosen_recipes

    with _progress() as watch:
        result = bench(
            model, chosen_recipes(recipe, set_ or []), batch, image_size=image_size, device=device, dtype=dtype,
            compile=compile_, train=train, merge=merge, baseline=baseline, rounds=rounds, warmup=warmup,
            threads=threads, rss=rss, memory=memory, rival=rival, watch=watch,
        )  # fmt: skip
    if not result.complete:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the program at once
    _finish(result, json_)
    if result.errors or not result.complete:
        raise typer.Exit(1 if result.complete else 130)


def _finish(result: Bench | Ladder, path: Path | None) -> None:
    """Write the result, and print it."""
    from rich.console import Console

    from paretune.files import write_json

    if path is not None:
        write_json(path, result.to_dict())
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(result)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr if that is a terminal. It is drawn only between measurements, not during them."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("building")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total, refresh=True)
