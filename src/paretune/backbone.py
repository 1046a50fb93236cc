"""Create a timm model from a name or a file."""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paretune import formats
from paretune.core import anatomy, peft_modules
from paretune.core.method import Foreign
from paretune.errors import UsageError, unknown
from paretune.schema import record, verify

EMBEDDED, HUB = "paretune_tiny", "hf-hub:"
REACHED = 3.0  # seconds to wait for the Hub to answer at all
SUFFIXES = (".npz", ".safetensors", ".pth", ".bin")
# Options of timm.create_model that name files, change the source of the weights, or allow missing weights. Only
# paretune sets them.
RESERVED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
            "pretrained_strict", "pretrained_filter_fn", "kwargs_filter")  # fmt: skip
# Options that are fixed by pretrained weights: a config must not ask for another model size.
DECIDED = ("embed_dim", "depth", "num_heads", "num_kv_heads", "mlp_ratio")


@dataclass(frozen=True)
class Backbone:
    """The origin of a backbone, with everything that is needed to create it again.

    name: timm name, `hf-hub:` id or paretune_tiny; None for a module without a timm name
    source: where its weights came from: "pretrained", "file", "random" or "module"
    options: further arguments of timm.create_model; peft: the HF PEFT config of the injected modules
    path: where the file lay, if the weights can be read from it again; a hint for people, which is never followed
    """

    name: str | None
    source: str
    options: dict = field(default_factory=dict)
    peft: dict | None = None
    path: str | None = field(default=None, compare=False)  # weights are known by their content


# timm looks for this name when a model is registered, so it comes first.
default_cfgs = generate_default_cfgs({
    EMBEDDED: {
        "file": str(files("paretune") / "assets" / "paretune_tiny.safetensors"),
        "num_classes": 500, "input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "first_conv": "patch_embed.proj", "classifier": "head",
        "fixed_input_size": True, "license": "apache-2.0",
    },
})  # fmt: skip


@register_model
def paretune_tiny(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """The embedded backbone: 12 blocks of width 96, patch 4 at 32x32, pretrained on drawn shapes and glyphs."""
    args: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 12, "num_heads": 3}
    return build_model_with_cfg(
        VisionTransformer, EMBEDDED, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **(args | kwargs)
    )


def create(
    name: str, pretrained: bool, checkpoint: str | Path | None, options: dict, tensors: dict[str, Tensor] | None = None
) -> nn.Module:
    """A timm model by name, with pretrained weights, weights from a local file, or random ones.

    checkpoint: .npz (Google's ViT), .safetensors, .pth or .bin; a pickle that holds more than tensors is refused.
    tensors: what the file holds, if its names are not those of timm.
    Raises UsageError for an unknown name, a family that paretune cannot run, weights that are not available, or a file
    that does not fit.
    """
    check_request(name, options)
    if checkpoint is not None:
        return _from_file(name, Path(checkpoint), options, tensors)
    if pretrained and not name.startswith(HUB):
        _check_family(name, options)
    try:
        with hub_in_reach() if pretrained or name.startswith(HUB) else nullcontext():
            return timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        if not options:
            raise
        raise UsageError(f"{name} does not take {options}: {reason(error)}") from error
    except (RuntimeError, OSError, ValueError) as error:
        if not pretrained and not name.startswith(HUB):
            raise
        raise UsageError(
            f"the pretrained weights or config of {name} are not available ({reason(error)}): give a local file as "
            f"checkpoint, use the embedded {EMBEDDED}, or use random weights (pretrained=False) for a test"
        ) from error


def _check_family(name: str, options: dict) -> None:
    """Raise UsageError, before anything is fetched, for a model of a class that paretune cannot run."""
    try:
        with Unfilled():
            module = timm.create_model(name, pretrained=False, **options)
    except Exception:  # not all models can be made without numbers, and options are judged later
        return
    anatomy.check(module)


@contextmanager
def hub_in_reach() -> Iterator[None]:
    """Inside, nobody waits for a Hub that is not there: what is not in the cache cannot be had, at once."""
    address = urlsplit(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    if not before and not getproxies():
        try:
            socket.create_connection((address.hostname, address.port or 443), timeout=REACHED).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_file(name: str, path: Path, options: dict, tensors: dict[str, Tensor] | None) -> nn.Module:
    if (tensors is None and path.suffix not in SUFFIXES) or not path.is_file():
        raise UsageError(f"checkpoint '{path}' is not a file that ends in {', '.join(SUFFIXES)}")
    google = path.suffix == ".npz"
    if google and not zipfile.is_zipfile(path):
        raise UsageError(
            f"checkpoint '{path}' cannot be read as weights of {name}: it is no .npz archive, or truncated"
        )
    # If the number of classes differs from the file's, timm would accept a file that lacks any tensor.
    classes = {"num_classes": options["num_classes"]} if "num_classes" in options else {}
    overlay = {"file": str(path), "custom_load": google, **classes}
    if tensors is not None:
        overlay = {"state_dict": tensors, "custom_load": False, **classes}
    try:
        module: Foreign = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        module.pretrained_cfg.pop("state_dict", None)
        return module
    except RuntimeError as error:
        raise UsageError(f"checkpoint '{path}' does not fit {name}: {reason(error)}") from error
    except Exception as error:  # readers raise any exception on a file of another format
        raise UsageError(f"checkpoint '{path}' cannot be read as weights of {name}: {reason(error)}") from error


def check_request(name: str, options: dict) -> None:
    """Raise UsageError for a name that timm does not know, or for an option that only paretune may set."""
    _refuse_reserved(options)
    if name.startswith(HUB):
        return
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or ":" in name:
        raise unknown("model", name, timm.list_models())
    if tag and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise unknown("model", name, tagged)


class Unfilled(TorchFunctionMode):
    """A context in which new modules have tensors on the meta device and initialisation is skipped."""

    FILLS = frozenset(("uniform_", "normal_", "trunc_normal_", "erfinv_", "fill_", "zero_", "mul_", "div_", "add_",
                       "clamp_"))  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Skip functions that only fill tensors with values."""
        if getattr(func, "__name__", "") in self.FILLS and args and isinstance(args[0], torch.Tensor):
            return args[0]
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Unfilled:
        self.device = torch.device("meta")
        self.device.__enter__()
        return super().__enter__()

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self.device.__exit__(exc_type, exc_val, exc_tb)


def check_options(options: dict, pretrained: bool, where: str) -> None:
    """Raise UsageError, which begins with `where`, for options of a saved config that timm's ViTs do not have."""
    _refuse_reserved(options)
    verify(options, record({}, formats.OPTIONS), f"{where}, backbone.options")
    if pretrained and (asked := [option for option in options if option in DECIDED]):
        raise UsageError(
            f"{where} has missing or wrong entries: backbone.options.{asked[0]} is fixed by the pretrained weights; "
            "leave it out"
        )


def _refuse_reserved(options: dict) -> None:
    if reserved := [option for option in options if option in RESERVED]:
        raise UsageError(f"the option {reserved[0]} is not taken here: use pretrained=True or checkpoint=FILE")


def describe(model: nn.Module) -> Backbone:
    """The origin of a module that came ready made."""
    config = getattr(model, "pretrained_cfg", None) or {}
    made_with = getattr(model, "_model_args", None)  # timm before 1.0.31 lacks it; the name alone may be wrong
    return Backbone(
        name=None if made_with is None else config.get("architecture"),
        source="module",
        options=(made_with or {}) | {"num_classes": model.num_classes},
        peft=peft_modules.describe(model),
    )


def reason(error: BaseException | str) -> str:
    """The message of an error, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
