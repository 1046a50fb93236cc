"""`paretune bench`"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.errors import UsageError


def bench(
    model: options.Model,
    recipe: Annotated[
        list[str], typer.Option(metavar="NAME ...", help="One or several; timm's own forward is always measured too.")
    ] = ["sparse-tuning"],  # noqa: B006 - typer reads it, nobody changes it
    batch: Annotated[list[int], typer.Option(metavar="N ...", help="Batch sizes.")] = [1, 8, 32],  # noqa: B006
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile everyone; its time is told apart.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Also training steps and the memory that they need.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fold leaves such as LoRA before the forward is timed.")
    ] = False,
    baseline: Annotated[
        str, typer.Option(help="Whom ratios refer to: timm, or a recipe that keeps all tokens.")
    ] = "timm",
    rounds: Annotated[int, typer.Option(help="Timed runs of everyone, in turns.")] = 15,
    warmup: Annotated[int, typer.Option(help="Untimed runs of everyone before.")] = 2,
    threads: Annotated[int | None, typer.Option(help="Of torch on a CPU; by default as many as it takes.")] = None,
    rss: Annotated[
        bool | None, typer.Option(help="Peak of the resident memory, on Linux; by default with --train on a CPU.")
    ] = None,
    set_: options.SetEach = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the result to this file.")] = None,
) -> None:
    """Time and memory of recipes beside the plain backbone with fused attention, measured on this machine.

    Everyone runs once a round, in shuffled order; medians, spreads, and ratios to the baseline of the same round.
    Ctrl-C prints what is measured so far. --recipe, --batch and --set take several values: --batch 1 8 32.
    """  # fmt: skip
    if json_ is not None and (json_.is_dir() or not json_.absolute().parent.is_dir()):
        raise UsageError(f"--json {json_}: name a file in a folder that exists")
    from rich.console import Console

    from paretune.cli.build import chosen_recipes
    from paretune.files import write_json
    from paretune.timing.bench import bench

    with _progress() as watch:
        result = bench(
            model, chosen_recipes(recipe, set_ or []), batch, image_size=image_size, device=device, dtype=dtype,
            compile=compile_, train=train, merge=merge, baseline=baseline, rounds=rounds, warmup=warmup,
            threads=threads, rss=rss, watch=watch,
        )  # fmt: skip
    if not result.complete:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever presses again wants to leave at once
    if json_ is not None:
        write_json(json_, result.to_dict())
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(result)
    if result.errors or not result.complete:
        raise typer.Exit(1 if result.complete else 130)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr where that is a terminal; drawn between measurements only, so that it costs none of them time."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("building")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total, refresh=True)
