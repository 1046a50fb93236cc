"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MOST_SEED = 2**63 - 1  # random generators and files take no larger numbers

Data = Annotated[
    str,
    typer.Option(
        help="Image folder with train/ and val/, each with a folder per class, or just a folder per class; or "
        "FILE.csv, tar shards, a VTAB-1K task, hf:NAME, cifar100:ROOT, ... (docs/data.md)."
    ),
]
Model = Annotated[str, typer.Option(help="timm name, hf-hub:... id, folder of weights, or paretune_tiny (embedded).")]
Recipe = Annotated[str, typer.Option(help="Recipe, a named setting; `paretune list recipes` shows them.")]
Saved = Annotated[Path, typer.Argument(help="Folder that `paretune train` wrote.")]
Answering = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that `paretune train` wrote, or an artefact of `paretune export`.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: adapter.rank=4, reducer.keep=0.5, "
                 "schedule.min_lr=0; adapter.1.rank=4 if there are several adapters. Repeatable."),
]  # fmt: skip
SetEach = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE ...", help="Change a setting of every recipe, as in `paretune train`; "
                 "of one recipe: NAME.KEY=VALUE, as in lora.adapter.rank=4."),
]  # fmt: skip
ImageSize = Annotated[
    int | None, typer.Option(min=1, max=8192, help="Side of the square input in pixels; the backbone's own by default.")
]
Pretrained = Annotated[bool, typer.Option(help="Start from pretrained weights.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Local weights: .safetensors, .npz (Google ViT), .pth, .bin, or a folder.")
]
EmbedBackbone = Annotated[
    bool,
    typer.Option(
        "--embed-backbone",
        help="Put the weights of --checkpoint into OUT too, so that OUT can move to another machine; otherwise all "
        "runs share one copy in the cache.",
    ),
]
ItsCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="Local weights that the model was trained from, if the cache holds its backbone no more."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BatchSize = Annotated[int, typer.Option(min=1, max=10**6, help="Images per batch.")]
Workers = Annotated[int, typer.Option(min=0, max=1024, help="Processes that load images; 0 loads in the main one.")]
Memory = Annotated[
    str,
    typer.Option(
        help="What a batch keeps for the backward pass: full; exact, less, by computing parts again, with the same "
        "gradients; low, less, by 8-bit derivatives of GELUs."
    ),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out unreadable images, at the start and during training.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
