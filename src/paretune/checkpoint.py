"""Save and load what is trained: `adapter_model.safetensors` and `adapter_config.json`, as HF PEFT names them.

The first file holds exactly the tensors with `requires_grad`, weights of few bits as packed codes, and the units of a
regression's head, which training measures; the second what they belong to. A backbone that has no name to fetch it by
(random weights, a local file, a ready-made module) is laid beside them as `backbone.safetensors`, so the folder alone
suffices. Nothing is ever unpickled, and no path or option read from a folder is followed to another file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paretune import __version__
from paretune.backbone import Backbone, create, reason
from paretune.config import to_json
from paretune.core import anatomy, guests, packed
from paretune.core.model import Adapted
from paretune.core.packed import Packed
from paretune.core.units import units_of
from paretune.errors import UsageError
from paretune.methods import methods
from paretune.plan import assemble

CONFIG, TENSORS, BACKBONE = "adapter_config.json", "adapter_model.safetensors", "backbone.safetensors"
FORMAT = 2


def save(model: Adapted, folder: str | Path, training: dict | None = None) -> None:
    """Write the trained tensors and all that is needed to load them into `folder`, which is created.

    training: JSON values to keep with it, such as the schedule. Every file is written under another name first, and the
    config last. Raises UsageError for a merged model, which has nothing apart from its backbone any more.
    """
    if model.spec is None:
        raise UsageError(
            "this model is merged, its adapters are part of the backbone now; save the model before merging"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is a file; name a folder to save into")
    folder.mkdir(parents=True, exist_ok=True)
    trained, frozen = split(model)
    modules = packed.trained(model)
    tensors = on_cpu(unpacked(trained, modules)) | packed.pack_all(modules)
    frozen = on_cpu(frozen)
    config = described(model) | {"packed": layouts(modules), "fingerprint": fingerprint(frozen), "training": training}
    fetched = model.spec.backbone.source == "pretrained"
    with Staged(folder) as staged:
        save_file(tensors, staged.path(TENSORS), metadata={"format": "pt"})
        if not fetched:
            save_file(frozen, staged.path(BACKBONE), metadata={"format": "pt"})
        staged.path(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if fetched:
        (folder / BACKBONE).unlink(missing_ok=True)


class Staged:
    """Files that appear in a folder together: written under temporary names, renamed when all of them are complete."""

    def __init__(self, folder: Path):
        self.folder, self.names = folder, []

    def path(self, name: str) -> Path:
        """Where to write the file that will be called `name`."""
        self.names.append(name)
        return self._temporary(name)

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.{os.getpid()}.tmp"

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, failure: type | None, *_: object) -> None:
        for name in self.names:
            if failure is None:
                os.replace(self._temporary(name), self.folder / name)
            else:
                self._temporary(name).unlink(missing_ok=True)


def split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that training sets and all others, by name, detached, where they are; what several names share, by
    the first. They are the model's own: what is loaded into it is seen through them."""
    tensors = model.state_dict(keep_vars=True)
    measured = {id(tensor) for units in units_of(model) for tensor in units.buffers()}
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    trained, frozen = {}, {}
    for name, tensor in tensors.items():
        if first[id(tensor)] == name:
            part = trained if tensor.requires_grad or id(tensor) in measured else frozen
            part[name] = tensor.detach()
    return trained, frozen


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a file holds them."""
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def unpacked(trained: dict[str, Tensor], modules: dict[str, Packed]) -> dict[str, Tensor]:
    """The trained tensors that are stored as they are: those of no packed module."""
    inside = {f"{name}.{own}" for name, module in modules.items() for own, _ in module.named_parameters()}
    return {name: tensor for name, tensor in trained.items() if name not in inside}


def layouts(modules: dict[str, Packed]) -> dict[str, dict]:
    """How the packed modules lie in their two tensors, in order."""
    return {name: module.layout() for name, module in modules.items()}


def fingerprint(frozen: dict[str, Tensor]) -> str:
    """sha256 over types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(frozen.items()):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def described(model: Adapted) -> dict:
    """What the model is made of, as JSON values."""
    spec = model.spec
    return {
        "library": "paretune",
        "format": FORMAT,
        "base_model_name_or_path": spec.backbone.name,
        "backbone": dataclasses.asdict(spec.backbone),
        "adapters": [to_json(adapter) for adapter in spec.adapters],
        "reducer": None if spec.reducer is None else to_json(spec.reducer),
        "classes": model.classes,
        "task": model.task,
        "preprocessing": model.preprocessing,
        "versions": {"paretune": __version__, "torch": torch.__version__, "timm": timm.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip


def load(folder: str | Path, backbone: nn.Module | None = None) -> Adapted:
    """The model that `save` wrote, in evaluation mode.

    backbone: a module to use in place of the one that the folder names; its frozen tensors must be the same.
    Raises UsageError, in a sentence, for anything that is missing, broken, or does not belong together.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        origin = origin_of(config["backbone"])
        adapters, reducer = methods(config["adapters"], config["reducer"])
        classes, expected, index = config["classes"], str(config["fingerprint"]), dict(config["packed"])
        task = config.get("task", "multiclass")  # folders of before there were others do not say
        preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in config["preprocessing"].items()}
    except UsageError:
        raise  # a sentence already
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder / CONFIG} lacks or misstates {reason(error)}; save the model again") from error

    module = _backbone(folder, origin) if backbone is None else guests.unwrap(backbone)
    anatomy.check(module)
    if origin.peft is not None and guests.describe(module) is None:
        guests.inject(module, origin.peft)
    model = assemble(module, origin, adapters, reducer, classes, task)
    model.preprocessing = preprocessing
    trained, frozen = split(model)
    fill_trained(model, trained, read_tensors(folder / TENSORS), index, folder)
    if backbone is None and origin.source != "pretrained":
        fill(model, read_tensors(folder / BACKBONE), frozen, folder / BACKBONE)
    if (found := fingerprint(frozen)) != expected:
        raise UsageError(
            f"{folder} was trained on another backbone: {origin.name or 'a module'} with fingerprint {expected[:12]}, "
            f"this one has {found[:12]}; load it with the backbone of the training"
        )
    return model.eval()


def origin_of(described: dict) -> Backbone:
    """The backbone that a config names. Raises TypeError if its parts are not what `save` writes."""
    origin = Backbone(**described)
    if not isinstance(origin.options, dict) or not isinstance(origin.name, str | None):
        raise TypeError("the backbone's name or options")
    return origin


def _backbone(folder: Path, origin: Backbone) -> nn.Module:
    if origin.name is None:
        raise UsageError(
            f"{folder} was trained on a module that timm has no name for; pass it: load(folder, backbone=...)"
        )
    return create(origin.name, origin.source == "pretrained", None, origin.options)


def read_config(folder: Path) -> dict:
    """The JSON of a saved folder. Raises UsageError if there is none or it is not ours."""
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(f"'{folder}' is not a saved model: it has no {CONFIG}; give the folder that training wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not valid JSON ({reason(error)}); save the model again") from error
    if not isinstance(config, dict) or config.get("library") != "paretune":
        raise UsageError(f"{path} was not written by paretune; an adapter of HF PEFT loads with peft")
    if config.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {config.get('format')}, this paretune reads {FORMAT}: use the version of paretune that "
            "wrote it, or train again"
        )
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UsageError if it is missing, truncated or something else."""
    if not path.is_file():
        raise UsageError(f"'{path}' is missing; save the model again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(
            f"{path} is truncated or not a safetensors file ({reason(error)}); pickles are never loaded; "
            "save the model again"
        ) from error


def fill_trained(
    model: nn.Module, trained: dict[str, Tensor], tensors: dict[str, Tensor], index: dict[str, dict], folder: Path
) -> None:
    """Copy what `save` stored of a model into another one, whose `split` is `trained` and more. Raises UsageError
    unless both are built alike."""
    modules = packed.trained(model)
    needed = layouts(modules)
    for name in {**needed, **index}:
        if index.get(name) != needed.get(name):
            raise UsageError(
                f"{folder / CONFIG} does not belong to its model: {name} is packed as {index.get(name, 'nothing')}, "
                f"the model needs {needed.get(name, 'nothing')}; save the model again"
            )
    fill(model, tensors, unpacked(trained, modules) | packed.shapes(modules), folder / TENSORS)
    packed.unpack_all(modules, tensors)


def fill(model: nn.Module, tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into the model. Raises UsageError unless their names and shapes are the `wanted` ones, and codes
    are codes and numbers numbers."""
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        says = [f"lacks {missing[0]} (and {len(missing) - 1} more)"] if missing else []
        says += [f"has {extra[0]} (and {len(extra) - 1} more), which the model does not"] if extra else []
        raise UsageError(f"{path} does not belong to its config: it {' and '.join(says)}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise UsageError(f"{path}: {name} is {tuple(tensor.shape)}, the model needs {tuple(wanted[name].shape)}")
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise UsageError(f"{path}: {name} is {tensor.dtype}, the model needs {wanted[name].dtype}")
    model.load_state_dict(tensors, strict=False)
