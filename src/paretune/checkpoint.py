"""Save and load trained tensors: `adapter_model.safetensors` and `adapter_config.json`, the file names of HF PEFT.

The first file contains exactly the tensors with `requires_grad` (quantised weights as packed codes) and the units of a
regression head, which training measures. The second file describes the model. A backbone that cannot be fetched by name
(random weights, a local file, a ready-made module) is saved beside them as `backbone.safetensors`, so the folder is
self-contained. Loading never unpickles anything and never opens another file because of a path or option in the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from paretune import formats, peftconfig
from paretune.backbone import Backbone, Unfilled, check_options, create, reason
from paretune.core import anatomy, packed, peft_modules
from paretune.core.model import Adapted
from paretune.core.packed import Packed
from paretune.core.target_units import units_of
from paretune.errors import UsageError, quoted
from paretune.files import Staged
from paretune.methods import Methods
from paretune.plan import assemble
from paretune.schema import parse, read_text, verify
from paretune.tensorfile import AGAIN, check_finite, check_fit, heads, read_tensors, write_tensors
from paretune.version import __version__

CONFIG, TENSORS, BACKBONE = "adapter_config.json", "adapter_model.safetensors", "backbone.safetensors"
FORMAT = 2


def save(model: Adapted, folder: str | Path, training: dict | None = None, *, only_trained: bool = False) -> None:
    """Write the trained tensors, and everything that is needed to load them, into `folder`, which is created.

    training: JSON values to keep in the config, such as the schedule. Every file is first written under a temporary
    name; the config is written last. only_trained: the folder holds this model's backbone already, from an earlier
    call; leave it there. Raises UsageError for a merged model, whose adapters can no longer be separated
    from the backbone, for tensors that are not finite, and for anything else that `load` would refuse.
    """
    if model.spec is None:
        raise UsageError(
            "this model is merged: its adapters are part of the backbone now; save the model before merging"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is a file; name a folder to save into")
    trained, frozen = split(model)
    modules = packed.trained(model)
    tensors = on_cpu(unpacked(trained, modules)) | packed.pack_all(modules)
    frozen = on_cpu(frozen)
    for name, tensor in {**tensors, **frozen}.items():
        check_finite(name, tensor, "this model is not saved", "train it again with a smaller learning rate")
    config = described(model) | {"packed": layouts(modules), "fingerprint": fingerprint(frozen), "training": training}
    written = json.dumps(config, indent=2)
    _check_config(parse(written, "the model's config"), "the model's config", "it could not be loaded again")
    fetched = model.spec.backbone.source == "pretrained"
    folder.mkdir(parents=True, exist_ok=True)
    with Staged(folder) as staged:
        write_tensors(tensors, staged.path(TENSORS), {"format": "pt"})
        if not fetched and not only_trained:
            write_tensors(frozen, staged.path(BACKBONE), {"format": "pt"})
        staged.path(CONFIG).write_text(written + "\n", encoding="utf-8")
    if fetched:
        (folder / BACKBONE).unlink(missing_ok=True)


def split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two dicts {name: tensor}: the tensors that training sets, and all others.

    The tensors are detached but still the model's own: they show what is loaded into it later. A tensor with several
    names is listed under the first one.
    """
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
    """The tensors as they are written to a file: on the CPU and contiguous."""
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def unpacked(trained: dict[str, Tensor], modules: dict[str, Packed]) -> dict[str, Tensor]:
    """The trained tensors that are stored unchanged: those that belong to no packed module."""
    inside = {f"{name}.{own}" for name, module in modules.items() for own, _ in module.named_parameters()}
    return {name: tensor for name, tensor in trained.items() if name not in inside}


def layouts(modules: dict[str, Packed]) -> dict[str, dict]:
    """The layouts of the packed modules, in the order in which they are stored."""
    return {name: module.layout() for name, module in modules.items()}


def fingerprint(frozen: dict[str, Tensor]) -> str:
    """SHA-256 of the types, shapes and values of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(frozen.items()):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def described(model: Adapted) -> dict:
    """The description of the model, as JSON values."""
    spec = model.spec
    return {
        "library": "paretune",
        "format": FORMAT,
        "base_model_name_or_path": spec.backbone.name,
        "backbone": dataclasses.asdict(spec.backbone),
        **Methods(spec.adapters, spec.reducer).to_json(),
        "classes": model.classes,
        "task": model.task,
        "preprocessing": model.preprocessing,
        "versions": {"paretune": __version__, "torch": torch.__version__, "timm": timm.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip


def load(folder: str | Path, backbone: nn.Module | None = None) -> Adapted:
    """Load the model that `save` wrote, in evaluation mode.

    backbone: a module to use instead of the backbone that the folder names; its frozen tensors must be the same.
    Raises UsageError for anything that is missing, damaged, or does not belong together. The model is first built on
    the meta device, so that loading never allocates more memory than the folder's own tensors need.
    """
    folder = Path(folder)
    config = read_config(folder)
    origin = Backbone(**config["backbone"])
    beside = backbone is None and origin.source != "pretrained"  # whether the folder contains the backbone's tensors
    if backbone is None:
        _check_sizes(folder, config, origin)
    tensors = read_tensors(folder / TENSORS)
    own = read_tensors(folder / BACKBONE) if beside else {}
    module = _backbone(folder, origin) if backbone is None else peft_modules.unwrap(backbone)
    anatomy.check(module)
    if origin.peft is not None and peft_modules.describe(module) is None:
        peft_modules.inject(module, origin.peft)
    model = _assembled(module, origin, config, folder)
    trained, frozen = split(model)
    fill_trained(model, trained, tensors, config["packed"], folder)
    if beside:
        fill(model, own, frozen, folder / BACKBONE)
    if (found := fingerprint(frozen)) != (expected := config["fingerprint"]):
        raise UsageError(
            f"{folder} was trained on another backbone: {origin.name or 'a module'} with fingerprint {expected[:12]}, "
            f"this one has {found[:12]}; load it with the backbone of the training"
        )
    return model.eval()


def _assembled(module: nn.Module, origin: Backbone, config: dict, folder: Path) -> Adapted:
    """The model of a config on an existing backbone, with initial tensors."""
    methods = Methods.from_json(config)
    task = config.get("task", "multiclass")  # older folders have no task
    model = assemble(module, origin, methods.adapters, methods.reducer, config["classes"], task)
    if config["base_model_name_or_path"] != origin.name:
        raise UsageError(f"{folder / CONFIG} lacks or misstates something: it names two backbones; {AGAIN}")
    own = model.preprocessing["input_size"]
    model.preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in config["preprocessing"].items()}
    if (asked := model.preprocessing["input_size"]) != own:
        _check_input(module, asked, folder)
    return model


@torch.no_grad()
def _check_input(module: nn.Module, size: tuple[int, int, int], folder: Path) -> None:
    """Raise UsageError unless the backbone accepts images of this size, which differs from its own."""
    try:
        anatomy.embed(module, torch.zeros(1, *size, device=next(module.parameters()).device))
    except (UsageError, RuntimeError, AssertionError) as error:
        raise UsageError(
            f"{folder / CONFIG} lacks or misstates something: preprocessing.input_size is {list(size)}, which the "
            f"backbone does not take ({reason(error)}); {AGAIN}"
        ) from error


def _check_sizes(folder: Path, config: dict, origin: Backbone) -> None:
    """Raise UsageError unless the folder's files have tensors with the names and shapes that its config asks for.

    Compares a model on the meta device with the headers of the files. HF PEFT cannot inject its modules on the meta
    device; for a model with HF PEFT modules only the backbone is compared, and `peftconfig.check` limits the rest.
    """
    with Unfilled():
        module = _backbone(folder, replace(origin, source="random"))
        anatomy.check(module)
        if origin.peft is not None:
            _check_room(module, folder, origin)
            return
        model = _assembled(module, origin, config, folder)
    trained, frozen = split(model)
    modules = packed.trained(model)
    check_index(modules, config["packed"], folder)
    check_fit(heads(folder / TENSORS), unpacked(trained, modules) | packed.shapes(modules), folder / TENSORS)
    if origin.source != "pretrained":
        check_fit(heads(folder / BACKBONE), frozen, folder / BACKBONE)


def _check_room(module: nn.Module, folder: Path, origin: Backbone) -> None:
    """Raise UsageError if the backbone without its head has more numbers than the folder's file."""
    if origin.source != "pretrained":
        needed = sum(tensor.numel() for name, tensor in module.state_dict().items() if not name.startswith("head"))
        held = sum(tensor.numel() for tensor in heads(folder / BACKBONE).values())
        if needed > held:
            raise UsageError(
                f"{folder / CONFIG} does not belong to its model: it asks for a backbone of {needed:,} numbers, "
                f"{BACKBONE} holds {held:,}; save the model again"
            )


def _backbone(folder: Path, origin: Backbone) -> nn.Module:
    if origin.name is None:
        raise UsageError(
            f"{folder} was trained on a module that timm has no name for; pass it: load(folder, backbone=...)"
        )
    return create(origin.name, origin.source == "pretrained", None, origin.options)


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
    _check_config(config, str(path), AGAIN)
    return config


def _check_config(config: dict, where: str, advice: str) -> None:
    """Raise UsageError for a config from which no model should be built."""
    verify(config, formats.CONFIG, where, advice)
    backbone = config["backbone"]
    check_options(backbone.get("options", {}), backbone["source"] == "pretrained", where)
    if backbone.get("peft") is not None:
        peftconfig.check(backbone["peft"], where)


def check_index(modules: dict[str, Packed], index: dict[str, dict], folder: Path) -> None:
    """Raise UsageError unless the packed modules are laid out as the config says."""
    needed = layouts(modules)
    for name in {**needed, **index}:
        if index.get(name) != needed.get(name):
            raise UsageError(
                f"{folder / CONFIG} does not belong to its model: {name} is packed as {index.get(name, 'nothing')}, "
                f"the model needs {needed.get(name, 'nothing')}; save the model again"
            )


def fill_trained(
    model: nn.Module, trained: dict[str, Tensor], tensors: dict[str, Tensor], index: dict[str, dict], folder: Path
) -> None:
    """Copy the stored tensors of a model into another one with the same structure.

    trained: the first part of the other model's `split`. Raises UsageError if the structures differ.
    """
    modules = packed.trained(model)
    check_index(modules, index, folder)
    fill(model, tensors, unpacked(trained, modules) | packed.shapes(modules), folder / TENSORS)
    packed.unpack_all(modules, tensors)


def fill(model: nn.Module, tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into the model. Raises UsageError as `check_fit`."""
    check_fit(tensors, wanted, path)
    model.load_state_dict(tensors, strict=False)
