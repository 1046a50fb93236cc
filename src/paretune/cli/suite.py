"""`paretune suite`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.many import ManyValues
from paretune.cli.output import answer, interruptible, say, table
from paretune.errors import UsageError

app = typer.Typer(help="Compare methods on many tasks under one protocol, with confidence intervals.",
                  no_args_is_help=True)  # fmt: skip

Name = Annotated[str, typer.Option(help="offline, vtab1k, real, or a folder of tasks laid out as VTAB-1K.")]
Root = Annotated[Path | None, typer.Option(help="Folder with the tasks of vtab1k or real.")]


@app.command(cls=ManyValues)
def run(
    recipe: Annotated[list[str], typer.Option(metavar="NAME ...", help="One or several recipes.")],
    suite: Name = "offline",
    data: Root = None,
    model: options.Model = "paretune_tiny",
    checkpoint: options.Checkpoint = None,
    image_size: options.ImageSize = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Name from `paretune suite protocols`; by default offline, or adapter-plus for vtab1k."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings per recipe and task.")] = 3,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=10**6, help="Epochs instead of the protocol's; this makes another protocol."),
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option(metavar="NAME ...", help="Run only these tasks.")] = None,
    set_: options.SetEach = None,
    out: Annotated[Path, typer.Option(help="Folder for the training runs.")] = Path("suite"),
    ledger: Annotated[
        Path | None, typer.Option(help="File to which results are added; OUT/ledger.jsonl by default.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that train at the same time.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Train on this Ray cluster: its address, or local.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per training on a Ray cluster.")] = 0,
    device: options.Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the runs in OUT and keep the ledger's results.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Tune, train and test every recipe on every task of a suite; every result becomes a line of the ledger.

    The protocol says what is tuned and on which images. To continue after an interruption, add --resume to the same
    command.
    """
    from paretune.ledger.results import Ledger
    from paretune.suite.planning import Plan
    from paretune.suite.protocols import protocol as named
    from paretune.suite.run import LEDGER, run_suite
    from paretune.suite.suites import open_suite
    from paretune.verbs.recipes import chosen_recipes

    if doubled := sorted({name for name in recipe if recipe.count(name) > 1}):
        raise UsageError(f"--recipe {' '.join(doubled)}: each recipe once, a ledger tells them apart by name")
    _check_settings(set_ or [])
    chosen = named(protocol or ("adapter-plus" if suite == "vtab1k" else "offline"))
    opened = open_suite(suite, data)
    plan = Plan(
        suite=opened.only(tasks) if tasks else opened,
        recipes=tuple(chosen_recipes(recipe, set_ or [])),
        protocol=chosen.lasting(epochs) if epochs else chosen,
        seeds=tuple(range(seeds)),
        model=model,
        out=out,
        device=device,
        checkpoint=checkpoint,
        image_size=image_size,
    )
    book = Ledger(ledger or out / LEDGER)
    _check_resume(out, book.path, resume)
    with interruptible(lambda: "the same command with --resume goes on"):
        failed = run_suite(plan, _pool(jobs, ray, gpus), book, lambda line: say(line, err=True))
    answer({"ledger": str(book.path), "failed": failed}, as_json, lambda: _say(book, failed))
    if failed:
        raise typer.Exit(1)


def _check_settings(assignments: list[str]) -> None:
    """Raise UsageError for what the protocol decides."""
    for assignment in assignments:
        _, part, field = assignment.partition("=")[0].rpartition("schedule.")
        if part and field != "lr":
            raise UsageError(
                f"--set {assignment}: the protocol says how long and how to train; only schedule.lr is free"
            )


class _Vtab1k(ManyValues):
    """`suite run` with its suite named."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--suite", "vtab1k", *args])


app.command("vtab1k", cls=_Vtab1k, help="`suite run --suite vtab1k`: VTAB-1K's 19 tasks, from --data.")(run)


def _check_resume(out: Path, ledger: Path, resume: bool) -> None:
    taken = [str(path) for path in (out, ledger) if path.exists() and (path.is_file() or any(path.iterdir()))]
    if taken and not resume:
        raise UsageError(f"{' and '.join(taken)} already there: go on with --resume, or name others")


def _pool(jobs: int, ray: str | None, gpus: float):
    from paretune.suite.jobs import prepare, work
    from paretune.suite.pool import Here, Processes, Ray

    if ray is not None:
        return Ray(work, ray, gpus)
    if jobs > (os.cpu_count() or 1):
        raise UsageError(f"--jobs {jobs}: this machine has {os.cpu_count()} cores")
    return Processes(work, jobs, prepare) if jobs > 1 else Here(work)


def _say(ledger, failed: list[str]) -> None:
    for sentence in failed:
        say(f"failed: {sentence}")
    say(f"{len(ledger.rows()):,} results in {ledger.path}; `paretune compare {ledger.path}` shows them")


@app.command()
def protocols(as_json: options.AsJson = False) -> None:
    """List the protocols: what is tuned, and on which images."""
    from paretune.suite.protocols import PROTOCOLS

    rows = [(name, one.about) for name, one in PROTOCOLS.items()]
    answer({name: one.describe() for name, one in PROTOCOLS.items()}, as_json, lambda: table(
        "protocols", ("name", "what it says"), rows))  # fmt: skip


@app.command()
def tasks(suite: Name = "offline", data: Root = None, as_json: options.AsJson = False) -> None:
    """List the tasks of a suite and their groups."""
    from paretune.suite.suites import open_suite

    opened = open_suite(suite, data)
    answer({"suite": opened.name, "tasks": opened.groups}, as_json, lambda: table(
        opened.name, ("task", "group"), list(opened.groups.items())))  # fmt: skip
