"""Save and load trained tensors: `adapter_model.safetensors` and `adapter_config.json`, the file names of HF PEFT.

The first file contains exactly the tensors with `requires_grad` (quantised weights as packed codes) and the units of a
regression head, which training measures. The second file describes the model. The backbone is elsewhere or beside them:

    pretrained      fetched by its name
    a local file    kept once for all runs in a cache (`stored.py`), found by its fingerprint
    anything else   `backbone.safetensors` in the folder, which then needs nothing else; with embed_backbone=True always

Loading never unpickles anything and never opens another file because of a path or option in the folder.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from paretune import stored
from paretune.backbone import Backbone, Unfilled, create, reason
from paretune.core import anatomy, packed, peft_modules
from paretune.core.model import Adapted
from paretune.core.packed import Packed
from paretune.errors import UsageError, plain
from paretune.files import Staged
from paretune.frozen import fingerprint, on_cpu, share, split
from paretune.methods import Methods
from paretune.named_backbone import obtain
from paretune.plan import assemble
from paretune.saved import CONFIG, check_config, described, read_config
from paretune.schema import parse
from paretune.sharded import bytes_of
from paretune.tensorfile import AGAIN, check_finite, check_fit, heads, read_tensors, write_tensors

TENSORS, BACKBONE = "adapter_model.safetensors", "backbone.safetensors"


def save(
    model: Adapted,
    folder: str | Path,
    training: dict | None = None,
    *,
    embed_backbone: bool = False,
    only_trained: bool = False,
) -> None:
    """Write the trained tensors, and everything that is needed to load them, into `folder`, which is created.

    training: JSON values to keep in the config, such as the schedule
    embed_backbone: put the backbone into the folder too, also if it came from a local file and would otherwise be kept
        in the cache; a folder for another machine needs this. Pretrained backbones are always fetched by their name.
    only_trained: the folder's config and backbone are this model's, from an earlier call; leave the backbone there

    Every file is first written under a temporary name; the config is written last. Raises UsageError for a merged
    model, whose adapters can no longer be separated from the backbone, for tensors that are not finite, and for
    anything else that `load` would refuse; OSError if the disk is full.
    """
    if model.spec is None:
        raise UsageError(
            "this model is merged: its adapters are part of the backbone now; save the model before merging"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is a file: give a folder to save into")
    trained, frozen = split(model)
    modules = packed.trained(model)
    tensors = on_cpu(unpacked(trained, modules)) | packed.pack_all(modules)
    frozen = on_cpu(frozen)
    for name, tensor in {**tensors, **frozen}.items():
        check_finite(name, tensor, "this model is not saved", "train it again with a smaller learning rate")
    config = described(model) | {"packed": layouts(modules), "fingerprint": fingerprint(frozen), "training": training}
    origin, beside = model.spec.backbone, False
    if origin.source != "pretrained":
        if only_trained:
            beside = (folder / BACKBONE).exists()
        else:
            beside = embed_backbone or not _kept(origin, frozen, config["fingerprint"])
        config |= {} if beside else {"cached_from": origin.path}
    written = json.dumps(config, indent=2)
    check_config(parse(written, "the model's config"), "the model's config", "it could not be loaded again")
    folder.mkdir(parents=True, exist_ok=True)
    with Staged(folder) as staged:
        write_tensors(tensors, staged.path(TENSORS), {"format": "pt"})
        if beside and not only_trained:
            write_tensors(frozen, staged.path(BACKBONE), {"format": "pt"})
        staged.path(CONFIG).write_text(written + "\n", encoding="utf-8")
    if not beside:
        (folder / BACKBONE).unlink(missing_ok=True)


def _kept(origin: Backbone, frozen: dict[str, Tensor], digest: str) -> bool:
    """Keep a backbone in the cache, if it is one that can be read again from its file; whether it is there now."""
    if origin.source != "file" or origin.path is None or not frozen:
        return False
    return stored.keep(frozen, digest, origin.name or "")


def unpacked(trained: dict[str, Tensor], modules: dict[str, Packed]) -> dict[str, Tensor]:
    """The trained tensors that are stored unchanged: those that belong to no packed module."""
    inside = {f"{name}.{own}" for name, module in modules.items() for own, _ in module.named_parameters()}
    return {name: tensor for name, tensor in trained.items() if name not in inside}


def layouts(modules: dict[str, Packed]) -> dict[str, dict]:
    """The layouts of the packed modules, in the order in which they are stored."""
    return {name: module.layout() for name, module in modules.items()}


def load(folder: str | Path, backbone: nn.Module | None = None, *, checkpoint: str | Path | None = None) -> Adapted:
    """Load the model that `save` wrote, in evaluation mode.

    backbone: a module to use instead of the backbone that the folder names; its frozen tensors must be the same
    checkpoint: the local file or folder that the backbone's weights came from, if the cache holds them no more; they
        must be the same, and are then kept in the cache again

    Models of equal backbones share the memory of their frozen tensors until one of them changes them (`frozen.share`).
    Raises UsageError for anything that is missing, damaged, or does not belong together. The model is first built on
    the meta device, so that loading never allocates more memory than the folder's own tensors need.
    """
    folder = Path(folder)
    config = read_config(folder)
    origin = Backbone(**config["backbone"], path=config.get("cached_from"))
    file = None
    if checkpoint is not None:
        _check_asked(folder, origin, backbone)
    elif backbone is None:
        file = _file_of_backbone(folder, config)
    if backbone is None:
        _check_sizes(folder, config, origin, file, checkpoint)
    tensors = read_tensors(folder / TENSORS)
    own = {} if file is None else read_tensors(file, AGAIN if origin.path is None else stored.ADVICE)
    module = _backbone(folder, origin, checkpoint) if backbone is None else peft_modules.unwrap(backbone)
    anatomy.check(module)
    if origin.peft is not None and peft_modules.describe(module) is None:
        peft_modules.inject(module, origin.peft)
    model = _assembled(module, origin, config, folder)
    trained, frozen = split(model)
    fill_trained(model, trained, tensors, config["packed"], folder)
    if file is not None:
        fill(model, own if origin.path is None else stored.named(own, frozen, file), frozen, file)
    if (found := fingerprint(frozen)) != (expected := config["fingerprint"]):
        if file is not None and origin.path is not None:
            raise UsageError(f"{file} is damaged: it does not hold what its name says; {stored.ADVICE}")
        raise UsageError(
            f"{folder} was trained on another backbone: {origin.name or 'a module'} with fingerprint {expected[:12]}, "
            f"this one has {found[:12]}; load it with the backbone of the training"
        )
    if checkpoint is not None and origin.path is not None:
        with suppress(OSError):  # a full disk is no reason not to use the model
            stored.keep(frozen, found, origin.name or "")
    share(model, frozen, found)
    return model.eval()


def _check_asked(folder: Path, origin: Backbone, backbone: nn.Module | None) -> None:
    """Raise UsageError for a checkpoint that is asked for where none is needed."""
    if backbone is not None:
        raise UsageError("backbone and checkpoint exclude each other: the module has its weights already")
    if origin.source != "file":
        raise UsageError(f"the backbone of '{plain(folder)}' did not come from a local file: leave checkpoint out")


def _file_of_backbone(folder: Path, config: dict) -> Path | None:
    """The file with the frozen tensors: beside the others, or in the cache; None if they are fetched by name."""
    if config["backbone"]["source"] == "pretrained":
        return None
    if "cached_from" in config:
        return stored.find(config["fingerprint"], folder, config["cached_from"])
    return folder / BACKBONE


def _assembled(module: nn.Module, origin: Backbone, config: dict, folder: Path) -> Adapted:
    """The model of a config on an existing backbone, with initial tensors."""
    methods = Methods.from_json(config)
    task = config.get("task", "multiclass")  # older folders have no task
    model = assemble(module, origin, methods.adapters, methods.reducer, config["classes"], task)
    if config["base_model_name_or_path"] != origin.name:
        raise UsageError(f"{folder / CONFIG} has missing or wrong entries: it names two backbones; {AGAIN}")
    model.temperature = config.get("temperature", 1.0)  # only calibrated models have one
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
            f"{folder / CONFIG} has missing or wrong entries: preprocessing.input_size is {list(size)}, which the "
            f"backbone does not accept ({reason(error)}); {AGAIN}"
        ) from error


def _check_sizes(
    folder: Path, config: dict, origin: Backbone, file: Path | None, checkpoint: str | Path | None
) -> None:
    """Raise UsageError unless the folder's files have tensors with the names and shapes that its config asks for.

    file: where the frozen tensors are. Compares a model on the meta device with the headers of the files. HF PEFT
    cannot inject its modules on the meta device; for a model with HF PEFT modules only the backbone is compared, and
    `peftconfig.check` limits the rest. Of a checkpoint only the size is compared, before it is read.
    """
    with Unfilled():
        module = _backbone(folder, replace(origin, source="random"))
        anatomy.check(module)
        if checkpoint is not None:
            _check_room(module, folder, bytes_of(Path(checkpoint)), plain(checkpoint))  # of a byte or more each
        if origin.peft is not None:
            if file is not None:
                _check_room(module, folder, sum(tensor.numel() for tensor in heads(file).values()), file.name)
            return
        model = _assembled(module, origin, config, folder)
    trained, frozen = split(model)
    modules = packed.trained(model)
    check_index(modules, config["packed"], folder)
    check_fit(heads(folder / TENSORS), unpacked(trained, modules) | packed.shapes(modules), folder / TENSORS)
    if file is not None:
        found = heads(file, AGAIN if origin.path is None else stored.ADVICE)
        check_fit(found if origin.path is None else stored.named(found, frozen, file), frozen, file)


def _check_room(module: nn.Module, folder: Path, held: int, where: str) -> None:
    """Raise UsageError if the backbone without its head has more numbers than the file `where` can hold."""
    needed = sum(tensor.numel() for name, tensor in module.state_dict().items() if not name.startswith("head"))
    if needed > held:
        raise UsageError(
            f"{folder / CONFIG} does not belong to its model: it asks for a backbone of {needed:,} numbers, "
            f"{where} holds {held:,}; save the model again"
        )


def _backbone(folder: Path, origin: Backbone, checkpoint: str | Path | None = None) -> nn.Module:
    if origin.name is None:
        raise UsageError(
            f"{folder} was trained on a module that timm has no name for; pass it: load(folder, backbone=...)"
        )
    if checkpoint is not None:
        return obtain(origin.name, False, checkpoint, origin.options)[0]
    return create(origin.name, origin.source == "pretrained", None, origin.options)


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
