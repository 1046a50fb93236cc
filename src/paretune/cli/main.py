"""The commands, and how errors end them. Nothing in this file imports torch, so that --help is fast."""

from __future__ import annotations

import errno
from typing import Annotated

import typer
from typer.core import TyperGroup

from paretune.cli.ablate import ablate
from paretune.cli.advise import advise
from paretune.cli.bench import bench
from paretune.cli.cache import app as cache
from paretune.cli.compare import compare
from paretune.cli.cost import cost
from paretune.cli.data import app as data
from paretune.cli.demo import demo
from paretune.cli.evaluate import evaluate
from paretune.cli.export import export
from paretune.cli.listing import list_known
from paretune.cli.many import ManyValues
from paretune.cli.output import say
from paretune.cli.paper import paper
from paretune.cli.predict import predict
from paretune.cli.report import report
from paretune.cli.show import show
from paretune.cli.suite import app as suite
from paretune.cli.train import Resumable, train
from paretune.errors import UsageError, plain, printable
from paretune.version import __version__

# The exceptions of click for unknown arguments; some versions of typer contain their own copy of click.
_Misused = typer.BadParameter.__bases__[0]
# No room on the disk, or in the user's share of it; files.FULL is the same, and would take time to import here.
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


# What other tools call an option, and what it is called here.
OTHER_NAMES = {
    "--learning-rate": "--lr", "--backbone": "--model", "--dataset": "--data", "--output": "--out",
    "--output-dir": "--out", "--weights": "--checkpoint", "--img-size": "--image-size", "--resolution": "--image-size",
    "--size": "--image-size", "--gpu": "--device cuda", "--bs": "--batch-size", "--num-workers": "--workers",
    "--amp": "--mixed-precision bf16", "--fp16": "--mixed-precision fp16", "--bf16": "--mixed-precision bf16",
    "--method": "--recipe", "--top-k": "--top", "--num-epochs": "--epochs",
}  # fmt: skip


class _Commands(TyperGroup):
    """Ends with one sentence on stderr: exit code 2 if the command must be changed, 1 if the disk is full. Real bugs
    keep their traceback."""

    def invoke(self, ctx):
        code = 2
        try:
            return super().invoke(ctx)
        except _Misused as error:  # such as a value that is not of its option's type: as long as the value
            error.message = str(UsageError(error.message))
            if (name := OTHER_NAMES.get(getattr(error, "option_name", ""))) is not None:
                error.message += f" Did you mean {name}?"
            raise
        except UsageError as error:
            sentence = str(error)
        except OSError as error:
            if error.errno in FULL:
                where = f"{plain(error.filename)} was not written, what was there before stays as it was"
                sentence = f"{error.strerror}: {where if error.filename else 'the file was not written'}; make room"
                code = 1
            elif error.filename is None:
                raise
            else:
                sentence = f"{plain(error.filename)}: {error.strerror}"
        say(f"paretune: {printable(sentence)}", err=True)
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    name="paretune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # typer's panels cut long option names off at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        say(f"paretune {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pare tokens, tune few parameters: adapt pretrained Vision Transformers with adapters and token reducers."""


app.command(cls=Resumable)(train)
app.command()(advise)
app.command("eval")(evaluate)
app.command()(predict)
app.command(cls=ManyValues)(export)
app.command()(show)
app.command(cls=ManyValues)(report)
app.command(cls=ManyValues)(cost)
app.command()(paper)
app.command(cls=ManyValues)(bench)
app.command()(ablate)
app.command()(compare)
app.add_typer(data, name="data")
app.add_typer(suite, name="suite")
app.add_typer(cache, name="cache")
app.command("list")(list_known)
app.command()(demo)


def run() -> None:
    """Entry point of the `paretune` command."""
    app(prog_name="paretune")
