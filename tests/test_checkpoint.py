"""Saved folders: exactly what is trained, loaded from the folder alone, refused in a sentence when anything is off."""

import json
import os
import pickle
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from anatomies import awake
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import nn

import paretune as pt
from paretune.core import packed
from paretune.core.model import Adapted
from paretune.core.quantised import QuantisedLinear

VIT = "vit_tiny_patch16_224"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48, "num_classes": 7}
CONFIG, TENSORS, BACKBONE = "adapter_config.json", "adapter_model.safetensors", "backbone.safetensors"
CODES, SCALES = "packed.codes", "packed.scales"


@torch.no_grad()
def model_of(backbone: str | nn.Module = VIT, seed: int = 0, **options) -> Adapted:
    """A small adapted model in evaluation mode whose trained tensors are all away from zero."""
    torch.manual_seed(seed)
    options = TINY | options if backbone == VIT else options
    model = pt.adapt(backbone, [pt.LoRA(rank=2)], pt.FPET(block=1), ["ash", "beech", "oak"], **options)
    for tensor in model.parameters():
        tensor.add_(0.1 * torch.randn_like(tensor)) if tensor.requires_grad else None
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Random images for the small model."""
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with a saved model."""
    pt.save(model_of(), tmp_path / "saved")
    return tmp_path / "saved"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(folder: Path, *path: str, to: object) -> None:
    """Set one value of the config."""
    config = json.loads((folder / CONFIG).read_text())
    target = config
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = to
    (folder / CONFIG).write_text(json.dumps(config))


def test_a_folder_holds_the_config_the_trained_tensors_and_a_backbone_that_lives_nowhere_else(saved):
    model = model_of()
    assert sorted(contents(saved)) == [CONFIG, TENSORS, BACKBONE]
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    packed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, QuantisedLinear)}
    assert len(packed) == 2
    assert packed < trained
    assert set(load_file(saved / TENSORS)) == trained - packed | {CODES, SCALES}
    assert set(load_file(saved / BACKBONE)) == set(model.state_dict()) - trained
    assert "backbone.head.weight" in trained
    assert json.loads((saved / CONFIG).read_text())["classes"] == ["ash", "beech", "oak"]


def test_a_backbone_that_can_be_fetched_by_name_is_not_saved_again(saved):
    model = model_of("paretune_tiny", pretrained=True)
    pt.save(model, saved)
    assert sorted(contents(saved)) == [CONFIG, TENSORS]
    assert sum(map(len, contents(saved).values())) < 300_000
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(pt.load(saved)(images), model(images))


BITS = {
    "1 bit": (pt.AdaptFormer(width=32, bits=1),),
    "2 bits, no whole bytes": (pt.LoRA(rank=3, bits=2, at="q v fc2"),),
    "4 bits": (pt.AdaptFormer(width=5, bits=4),),
    "8 bits": (pt.LoRA(rank=1, bits=8, at="proj"),),
    "all at once": (pt.AdaptFormer(width=3, bits=1), pt.LoRA(rank=1, bits=8), pt.RepAdapter(rank=2), pt.LoRA(bits=4)),
}


@torch.no_grad()
def few_bits(adapters: tuple, width: int = 24) -> Adapted:
    """A small model in evaluation mode with these adapters and 1-bit refinement, all trained tensors away from zero."""
    torch.manual_seed(0)
    model = pt.adapt(VIT, list(adapters), pt.FPET(block=0), 3, **TINY | {"embed_dim": width})
    for tensor in model.parameters():
        tensor.add_(0.1 * torch.randn_like(tensor)) if tensor.requires_grad else None
    return model.eval()


@pytest.mark.parametrize("adapters", BITS.values(), ids=BITS)
@pytest.mark.parametrize("width", [24, 22])  # 22: rows of no whole bytes
def test_weights_of_few_bits_are_stored_in_few_bits_and_give_the_same_logits(adapters, width, tmp_path, images):
    model = few_bits(adapters, width)
    pt.save(model, tmp_path)
    stored = load_file(tmp_path / TENSORS)
    layers = [m for m in model.modules() if isinstance(m, QuantisedLinear)]
    assert len(layers) > 2
    assert len(stored[CODES]) == sum(-(-m.weight.numel() * m.bits // 8) for m in layers)
    assert len(stored[SCALES]) == 2 * len(layers)
    assert not {name for name in stored if any(name.startswith(layer) for layer in index_of(tmp_path))}
    loaded = pt.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    before = contents(tmp_path)
    pt.save(loaded, tmp_path)
    assert contents(tmp_path)[TENSORS] == before[TENSORS]


def index_of(folder: Path) -> dict:
    """What the config says is packed."""
    return json.loads((folder / CONFIG).read_text())["packed"]


def test_the_index_names_what_is_packed(saved):
    layers = {name: module for name, module in model_of().named_modules() if isinstance(module, QuantisedLinear)}
    assert list(index_of(saved)) == list(layers)
    assert [entry["shape"] for entry in index_of(saved).values()] == [[32, 12], [12, 32]]
    assert {entry["bits"] for entry in index_of(saved).values()} == {1}


@pytest.mark.parametrize(
    ("recipe", "published"), [("bi-adaptformer", 73_920), ("bi-lora", 147_840), ("fpet-bi-adaptformer", 73_920 + 528)]
)
def test_vit_base_with_one_bit_a_weight_takes_the_published_bytes_and_a_small_header(recipe, published):
    with torch.device("meta"):
        backbone = timm.create_model("vit_base_patch16_224", weight_init="skip")
    model = pt.adapt(backbone, pt.recipe(recipe).adapters, pt.recipe(recipe).reducer)
    layers = [m.to_empty(device="cpu") for m in model.modules() if isinstance(m, QuantisedLinear)]
    file = save(packed.pack_all(packed.trained(nn.ModuleList(layers))), {"format": "pt"})
    assert sum(m.weight.numel() for m in layers) // 8 + 8 * len(layers) == published
    assert len(file) == published + 184


def test_loading_packs_nothing_and_walks_the_tensors_once(tmp_path, monkeypatch):
    pt.save(few_bits((pt.AdaptFormer(width=3, bits=1), pt.LoRA(rank=1, bits=8))), tmp_path)
    walks, walk = [], Adapted.state_dict

    def counted(model: Adapted, **how) -> dict:
        walks.append(next(model.parameters()).device.type)
        return walk(model, **how)

    monkeypatch.setattr(Adapted, "state_dict", counted)
    monkeypatch.setattr(QuantisedLinear, "pack", lambda self: pytest.fail("random weights were packed"))
    pt.load(tmp_path)
    assert walks == ["meta", "cpu"]  # the model without numbers that the files are compared with, and the model


def test_what_was_loaded_trains_on(tmp_path, images):
    pt.save(few_bits((pt.AdaptFormer(width=16, bits=1), pt.LoRA(rank=2, bits=4))), tmp_path)
    model = pt.load(tmp_path).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
        optimizer.step()
    assert loss < 0.2
    pt.save(model.eval(), tmp_path)
    assert torch.equal(pt.load(tmp_path)(images), model(images))


def test_loading_needs_only_the_folder(saved, tmp_path, monkeypatch, images):
    shutil.move(saved, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    loaded = pt.load("elsewhere")
    assert torch.equal(loaded(images), model_of()(images))
    assert (loaded.classes, loaded.preprocessing) == (model_of().classes, model_of().preprocessing)
    assert (loaded.spec, loaded.training) == (model_of().spec, False)


def test_what_was_loaded_can_be_saved_and_loaded_again(saved, tmp_path, images):
    pt.save(pt.load(saved), tmp_path / "again")
    assert torch.equal(pt.load(tmp_path / "again")(images), model_of()(images))
    assert contents(tmp_path / "again")[TENSORS] == contents(saved)[TENSORS]


def test_a_module_without_a_name_loads_with_the_module_it_was_trained_on(tmp_path, images):
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return awake(timm.models.VisionTransformer(**TINY)).eval()

    model = model_of(make(0))
    pt.save(model, tmp_path)
    with pytest.raises(pt.UsageError, match=r"no name for; pass it: load\(folder, backbone=...\)"):
        pt.load(tmp_path)
    with pytest.raises(pt.UsageError, match="trained on another backbone"):
        pt.load(tmp_path, backbone=make(1))
    assert torch.equal(pt.load(tmp_path, backbone=make(0))(images), model(images))


def test_a_merged_model_is_not_saved_as_an_adapter(tmp_path):
    with pytest.raises(pt.UsageError, match="merged"):
        pt.save(pt.merge(model_of()), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


class Malice:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


def change_tensors(change):
    """A spoiler that rewrites the trained tensors."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / TENSORS)
        change(tensors)
        save_file(tensors, folder / TENSORS)

    return spoil


def other_backbone(folder: Path) -> None:
    tensors = load_file(folder / BACKBONE)
    tensors["backbone.cls_token"] += 1e-3
    save_file(tensors, folder / BACKBONE)


def truncate(name: str):
    """A spoiler that cuts a file in half."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def set_to(value: object, *path: str):
    """A spoiler that sets one value of the config."""
    return lambda folder: edit(folder, *path, to=value)


def options(**settings: object):
    """A spoiler that adds an option for the backbone."""
    return lambda folder: [edit(folder, "backbone", "options", name, to=value) for name, value in settings.items()]


def floats_for_codes(tensors: dict) -> None:
    tensors[CODES] = tensors[CODES].float()


def frozen_refinement(folder: Path) -> None:
    model = model_of()
    model.reducer.refine.requires_grad_(False)
    pt.save(model, folder)
    assert index_of(folder) == {}
    assert sum(name.startswith("reducer.refine") for name in load_file(folder / BACKBONE)) == 2


def other_bits(folder: Path) -> None:
    edit(folder, "packed", next(iter(index_of(folder))), "bits", to=2)


HEAD = "backbone.head.weight"
SPOILED = {
    "another backbone": (other_backbone, "trained on another backbone"),
    "a missing key": (change_tensors(lambda t: t.pop(HEAD)), f"lacks {HEAD}"),
    "an extra key": (change_tensors(lambda t: t.update(more=t[HEAD] + 1)), "has more .* which the model does not"),
    "a wrong shape": (change_tensors(lambda t: t.update({HEAD: t[HEAD][:, 1:] + 1})), r"\(3, 23\).*needs \(3, 24\)"),
    "codes that are missing": (change_tensors(lambda t: t.pop(CODES)), f"lacks {CODES}"),
    "too few codes": (change_tensors(lambda t: t.update({CODES: t[CODES][1:] + 0})), r"\(95,\).*needs \(96,\)"),
    "codes that are floats": (change_tensors(floats_for_codes), "is torch.float32, the model needs torch.uint8"),
    "a scale too many": (change_tensors(lambda t: t.update({SCALES: torch.ones(5)})), r"\(5,\).*needs \(4,\)"),
    "codes of other bits": (other_bits, "is packed as .*'bits': 2.*, the model needs .*'bits': 1"),
    "codes of nothing": (set_to({"bits": 1, "shape": [2, 2]}, "packed", "head"), "head is packed .* needs nothing"),
    "an empty index": (set_to({}, "packed"), "down is packed as nothing, the model needs .'bits': 1"),
    "an index that is a number": (set_to(3, "packed"), "missing or wrong entries"),
    "a frozen refinement": (frozen_refinement, "down is packed as nothing, the model needs .'bits': 1"),
    "truncated tensors": (truncate(TENSORS), "truncated or not a safetensors file"),
    "a truncated backbone": (truncate(BACKBONE), "truncated or not a safetensors file"),
    "a truncated config": (truncate(CONFIG), "not valid JSON"),
    "a pickle": (lambda f: (f / TENSORS).write_bytes(pickle.dumps(Malice(f / "trace"))), "pickles are never loaded"),
    "a torch file": (lambda f: torch.save({"a": Malice(f / "trace")}, f / TENSORS), "pickles are never loaded"),
    "no tensors": (lambda folder: (folder / TENSORS).unlink(), f"{TENSORS}' is missing"),
    "no backbone": (lambda folder: (folder / BACKBONE).unlink(), f"{BACKBONE}' is missing"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), f"has no {CONFIG}"),
    "no folder": (shutil.rmtree, "is not a saved model"),
    "a config of bytes": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe{"), "not valid JSON"),
    "a config that is a list": (lambda folder: (folder / CONFIG).write_text("[]"), "not written by paretune"),
    "a folder of peft": (lambda f: (f / CONFIG).write_text('{"peft_type": "LORA"}'), "HF PEFT loads with peft"),
    "an unknown format": (set_to(99, "format"), "format 99.*use the version of paretune that wrote it"),
    "an unknown method": (set_to([{"kind": "Lora"}], "adapters"), "unknown method 'Lora'.* LoRA"),
    "an unknown setting": (set_to({"kind": "FPET", "blok": 1}, "reducer"), "did you mean block"),
    "a setting that does not fit": (set_to({"kind": "FPET", "block": 9}, "reducer"), "blocks 0 to 1"),
    "no fingerprint": (set_to(None, "fingerprint"), "another backbone|missing or wrong entries"),
    "no backbone entry": (set_to(None, "backbone"), "missing or wrong entries"),
    "no preprocessing": (set_to(None, "preprocessing"), "missing or wrong entries"),
    "a number as adapter": (set_to([3], "adapters"), "missing or wrong entries"),
    "a word as rank": (set_to([{"kind": "LoRA", "rank": "8"}], "adapters"), "rank"),
    "a number as options": (set_to(3, "backbone", "options"), "options|missing or wrong entries"),
    "an unknown option": (options(depht=3), "depht"),
    "heads that do not divide the width": (options(num_heads=5), "divisible"),
    "an unknown backbone": (set_to("vit_tiny_patch61_224", "backbone", "name"), f"did you mean {VIT}"),
    "a local backbone": (set_to("local-dir:/etc", "backbone", "name"), "unknown model"),
    "a path as backbone": (set_to("../../etc/passwd", "backbone", "name"), "unknown model"),
    "a file to load afterwards": (options(checkpoint_path="/etc/passwd"), "not taken"),
    "a file to load from": (options(pretrained_cfg_overlay={"file": "/etc/passwd"}), "not taken"),
    "weights from elsewhere": (options(pretrained_cfg={"url": "file:///etc/passwd"}), "not taken"),
    "a cache elsewhere": (options(cache_dir="/etc"), "not taken"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_sentence(saved, what):
    spoil, sentence = SPOILED[what]
    spoil(saved)
    with pytest.raises(pt.UsageError, match=sentence) as refusal:
        pt.load(saved)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600
    assert not (saved / "trace").exists()


@contextmanager
def a_full_disk(free: int):
    """No file may grow beyond `free` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("free", [1_000, 20_000])
def test_a_disk_that_fills_up_while_saving_leaves_the_old_model_as_it_was(saved, images, free):
    before, sizes = contents(saved), {name: len(data) for name, data in contents(saved).items()}
    assert sizes[CONFIG] > 1_000
    assert sizes[TENSORS] < 20_000 < sizes[BACKBONE]
    with a_full_disk(free), pytest.raises((OSError, SafetensorError, pt.UsageError)):
        pt.save(model_of(seed=5), saved)
    assert contents(saved) == before
    assert torch.equal(pt.load(saved)(images), model_of()(images))


def test_training_notes_that_are_no_json_leave_the_old_model_as_it_was(saved):
    before = contents(saved)
    with pytest.raises((TypeError, pt.UsageError)):
        pt.save(model_of(seed=5), saved, training={"epochs": {1, 2}})
    assert contents(saved) == before


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(pt.UsageError, match="file"):
        pt.save(model_of(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here first"
