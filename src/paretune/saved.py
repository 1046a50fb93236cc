"""`adapter_config.json`: what describes a saved model, and which of its values are believed."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import timm
import torch

from paretune import formats, peftconfig
from paretune.backbone import check_options
from paretune.core.model import Adapted
from paretune.errors import UsageError, quoted
from paretune.methods import Methods
from paretune.schema import parse, read_text, verify
from paretune.tensorfile import AGAIN
from paretune.version import __version__

CONFIG = "adapter_config.json"
FORMAT = 2


def described(model: Adapted) -> dict:
    """The description of the model, as JSON values."""
    spec = model.spec
    return {
        "library": "paretune",
        "format": FORMAT,
        "base_model_name_or_path": spec.backbone.name,
        "backbone": {k: v for k, v in dataclasses.asdict(spec.backbone).items() if k != "path"},
        **Methods(spec.adapters, spec.reducer).to_json(),
        "classes": model.classes,
        "task": model.task,
        "preprocessing": model.preprocessing,
        **({} if model.temperature == 1 else {"temperature": model.temperature}),
        "versions": {"paretune": __version__, "torch": torch.__version__, "timm": timm.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip


def read_config(folder: Path) -> dict:
    """The config of a saved folder. Raises UsageError if there is none, or if paretune did not write it."""
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(f"'{folder}' is not a saved model: it has no {CONFIG}; give the folder that training wrote")
    config = parse(read_text(path, AGAIN), str(path), AGAIN)
    if not isinstance(config, dict) or config.get("library") != "paretune":
        raise UsageError(f"{path} was not written by paretune; an adapter of HF PEFT loads with peft")
    if config.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {quoted(config.get('format'))}, this paretune reads {FORMAT}: use the version of "
            "paretune that wrote it, or train again"
        )
    check_config(config, str(path), AGAIN)
    return config


def check_config(config: dict, where: str, advice: str) -> None:
    """Raise UsageError for a config from which no model should be built."""
    verify(config, formats.CONFIG, where, advice)
    backbone = config["backbone"]
    check_options(backbone.get("options", {}), backbone["source"] == "pretrained", where)
    if backbone.get("peft") is not None:
        peftconfig.check(backbone["peft"], where)
