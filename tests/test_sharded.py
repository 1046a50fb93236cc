"""Weights in several files: read as if they were one, and never a file that is not beside the index."""

import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from anatomies import awake
from safetensors.torch import save_file

import paretune as pt
from paretune.sharded import FILES, MOST_FILES, bytes_of, index_of, is_weights_folder, weights_file

VIT = "vit_tiny_patch16_224"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
KINDS = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}


def vit():
    torch.manual_seed(0)
    return awake(timm.create_model(VIT, **TINY)).eval()


def dinov2():
    """Tensors by Hugging Face's names, and what timm calls the model."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)).eval()


def shards(folder: Path, tensors: dict, kind: str, count: int = 3) -> Path:
    """Write tensors into several files and their index, which is returned."""
    folder.mkdir(exist_ok=True)
    stem, ending = KINDS[kind].rsplit(".", 1)
    place = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05}-of-{count:05}.{ending}"
        own = {name: tensors[name].contiguous() for name in sorted(tensors)[i::count]}
        save_file(own, folder / file) if kind == ".safetensors" else torch.save(own, folder / file)
        place |= dict.fromkeys(own, file)
    index = folder / f"{KINDS[kind]}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_timms_weights_in_several_files_give_the_model_they_were_written_from(tmp_path, kind):
    source, images = vit(), torch.randn(2, 3, 48, 48)
    index = shards(tmp_path / "weights", source.state_dict(), kind)
    for place in (index, index.parent, str(index.parent)):
        model = pt.adapt(VIT, checkpoint=place, **TINY).eval()
        assert torch.equal(model(images), source(images))
    assert model.spec.backbone.path == str(index.parent)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_folder_of_hugging_face_computes_what_transformers_computes(tmp_path, kind):
    source, images = dinov2(), torch.randn(2, 3, 32, 32)
    shards(tmp_path / "dinov2", source.state_dict(), kind)
    source.config.save_pretrained(tmp_path / "dinov2")
    model = pt.adapt(str(tmp_path / "dinov2")).eval()
    with torch.inference_mode():
        expected = source(images).last_hidden_state[:, 0]
        assert (model.backbone(images) - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


def test_what_transformers_itself_shards_is_read(tmp_path):
    source, images = dinov2(), torch.randn(2, 3, 32, 32)
    source.save_pretrained(tmp_path, max_shard_size="20KB")
    assert weights_file(tmp_path).name == "model.safetensors.index.json"
    assert len(index_of(weights_file(tmp_path))) > 2
    assert is_weights_folder(tmp_path)
    with torch.inference_mode():
        expected = source(images).last_hidden_state[:, 0]
        assert (pt.adapt(str(tmp_path)).eval().backbone(images) - expected).abs().max() < 1e-4


def test_a_whole_file_is_preferred_to_shards(tmp_path):
    shards(tmp_path, vit().state_dict(), ".safetensors")
    (tmp_path / FILES[0]).touch()
    assert weights_file(tmp_path).name == FILES[0]


def test_a_run_from_shards_is_saved_loaded_and_loaded_from_the_shards_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    index, images = shards(tmp_path / "weights", vit().state_dict(), ".safetensors"), torch.randn(2, 3, 48, 48)
    model = pt.adapt(VIT, [pt.LoRA(rank=2)], classes=3, checkpoint=index.parent, **TINY).eval()
    pt.save(model, tmp_path / "run")
    assert torch.equal(pt.load(tmp_path / "run")(images), model(images))
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "other"))
    assert torch.equal(pt.load(tmp_path / "run", checkpoint=index)(images), model(images))
    assert bytes_of(index) == bytes_of(index.parent) == sum(file.stat().st_size for file in index_of(index))


ELSEWHERE = [
    "../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", ".hidden.safetensors", "a\\b.safetensors", "",
    "C:\\a.safetensors", "a\x00.safetensors", "a\n.safetensors", "x" * 300 + ".safetensors", 3, None, ["a"], {"a": 1},
    "model.bin", "model.txt", "model",
]  # fmt: skip


@pytest.mark.parametrize("file", ELSEWHERE)
def test_an_index_that_names_anything_but_a_file_of_its_kind_beside_it_is_refused(tmp_path, file):
    index = shards(tmp_path / "weights", vit().state_dict(), ".safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    for name in ("model.bin", "model.txt", "model"):
        (tmp_path / "weights" / name).touch()
    found = json.loads(index.read_text())
    found["weight_map"]["head.bias"] = file
    index.write_text(json.dumps(found))
    with pytest.raises(pt.UsageError, match=r"index\.json"):
        pt.adapt(VIT, checkpoint=index.parent, **TINY)


def change(index: Path, what: str) -> None:
    """Spoil an index or its files."""
    found, first = json.loads(index.read_text()), sorted(index.parent.glob("*-00001-*"))[0]
    names = found["weight_map"]
    if what == "no file":
        first.unlink()
    elif what == "a folder for a file":
        first.unlink()
        first.mkdir()
    elif what == "a truncated file":
        os.truncate(first, 1000)
    elif what == "a tensor too many":
        names.pop("head.bias")
    elif what == "a tensor too few":
        names["more"] = names["head.bias"]
    elif what == "a tensor elsewhere":
        names["head.bias"] = next(file for file in names.values() if file != names["head.bias"])
    elif what == "many files":
        names |= {f"t{i}": f"{i}.safetensors" for i in range(MOST_FILES)}
    elif what == "many tensors":
        names |= {f"t{i}": first.name for i in range(100_001)}
    found = {"no map": {}, "a list": [], "a strange entry": found | {"more": 1}}.get(what, found)
    index.write_text("{" if what == "no JSON" else json.dumps(found))


SPOILED = {
    "no file": "incomplete: 'model-00001-of-00003.safetensors' is missing",
    "a folder for a file": "incomplete: 'model-00001-of-00003.safetensors' is missing",
    "a truncated file": "is damaged",
    "a tensor too many": "holds 'head.bias', the index does not list it there",
    "a tensor too few": "lacks 'more', the index lists it there",
    "a tensor elsewhere": "'head.bias', the index",
    "many files": "more than 1,000",
    "many tensors": "at most 100,000 entries",
    "no map": "weight_map is missing",
    "a list": "must be an object|is not a JSON object",
    "a strange entry": "'more' is unknown",
    "no JSON": "not valid JSON",
}


@pytest.mark.parametrize("what", SPOILED)
def test_damaged_shards_are_refused_in_one_sentence(tmp_path, what):
    index = shards(tmp_path / "weights", vit().state_dict(), ".safetensors")
    change(index, what)
    with pytest.raises(pt.UsageError, match=SPOILED[what]) as refusal:
        pt.adapt(VIT, checkpoint=index, **TINY)
    assert str(refusal.value).isprintable()


class Malice:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


def test_a_pickle_among_the_shards_is_never_executed(tmp_path):
    index = shards(tmp_path / "weights", vit().state_dict(), ".bin")
    next(iter(index_of(index))).write_bytes(pickle.dumps(Malice(tmp_path / "trace"), protocol=2))
    with pytest.raises(pt.UsageError, match="lacks"):
        pt.adapt(VIT, checkpoint=index, **TINY)
    assert not (tmp_path / "trace").exists()
