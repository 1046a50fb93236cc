"""`paretune cache`"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.errors import UsageError, unknown

app = typer.Typer(help="See and clean what paretune keeps on this machine, and make a run independent of it.",
                  no_args_is_help=True)  # fmt: skip
KINDS = {
    "backbones": "weights of --checkpoint that several runs share",
    "tokens": "tokens before the first trained block, of earlier trainings",
    "pictures": "notes on pictures that were checked",
    "offline": "pictures that paretune drew",
}
DAY = 24 * 3600


@dataclass(frozen=True)
class Kept:
    """Something in the cache. unused: days since it was last used; model: the name of a backbone's model."""

    kind: str
    path: Path
    bytes: int
    unused: float
    model: str = ""


@app.command("list")
def list_kept(as_json: options.AsJson = False) -> None:
    """Show what is kept, how large it is, and when it was last used."""
    from paretune.files import cache_folder

    found = [one for kind in KINDS for one in _kept(kind)]
    value = {"folder": str(cache_folder()), "entries": [asdict(one) | {"path": str(one.path)} for one in found]}
    answer(value, as_json, lambda: _say(found, cache_folder()))


@app.command()
def remove(
    kind: Annotated[str, typer.Argument(help=f"What to remove: {', '.join(KINDS)}.")],
    unused: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Only what was not used for so many days; 0 means all.")
    ] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Remove what is kept. paretune computes it again when it is needed.

    Backbones are read again from their files: a run whose backbone was removed asks once for --checkpoint.
    """
    from paretune import stored
    from paretune.files import remove_folder

    if kind not in KINDS:
        raise unknown("kind of kept files", kind, list(KINDS))
    gone = [one for one in _kept(kind) if one.unused >= unused]
    for one in gone:
        if kind == "backbones":
            stored.remove(one.path)
        elif one.path.is_dir():
            remove_folder(one.path)
        else:
            one.path.unlink(missing_ok=True)
    freed = sum(one.bytes for one in gone)
    value = {"removed": [str(one.path) for one in gone], "bytes": freed}
    answer(value, as_json, lambda: say(f"{len(gone)} {kind} removed, {_size(freed)}"))


@app.command()
def embed(run: options.Saved, checkpoint: options.ItsCheckpoint = None, as_json: options.AsJson = False) -> None:
    """Put the backbone of a run into its folder, which can then move to another machine."""
    from paretune.checkpoint import BACKBONE, load, read_config, save

    config = read_config(run)
    if config["backbone"]["source"] == "pretrained":
        raise UsageError(f"{run} needs no backbone inside: it is fetched by its name, {config['backbone']['name']}")
    if "cached_from" in config:
        save(load(run, checkpoint=checkpoint), run, config.get("training"), embed_backbone=True)
    size = (run / BACKBONE).stat().st_size
    value = {"run": str(run), "bytes": size}
    answer(value, as_json, lambda: say(f"{run / BACKBONE} holds the backbone now, {_size(size)}"))


def _kept(kind: str) -> Iterator[Kept]:
    """Everything of one kind. What processes left behind that no longer run is removed."""
    from paretune import stored
    from paretune.files import cache_folder, sweep

    folder, now = cache_folder() / kind, time.time()
    sweep(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() or path.name.startswith(".") or path.name == "lock" or path.suffix == ".lock":
            continue
        with suppress(FileNotFoundError):  # another process removes it
            size = sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())
            model = stored.model_of(path) if kind == "backbones" else ""
            yield Kept(kind, path, size, max(0.0, now - path.stat().st_mtime) / DAY, model)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _say(found: list[Kept], folder: Path) -> None:
    rows = []
    for kind, about in KINDS.items():
        own = [one for one in found if one.kind == kind]
        rows.append((kind, about, f"{len(own):,}", _size(sum(one.bytes for one in own))))
    table(str(folder), ("kind", "what it is", "entries", "size"), rows, words=2)
    if backbones := [one for one in found if one.kind == "backbones"]:
        shown = [(one.path.stem[:12], one.model, _size(one.bytes), f"{one.unused:.0f}") for one in backbones]
        table("backbones", ("fingerprint", "model", "size", "days unused"), shown, words=2)
