"""Backbones that came from a local file: kept once in the cache, found by content, never by a path in a folder."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from anatomies import awake
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import paretune as pt
from paretune import stored
from paretune.cli.main import app
from paretune.files import _temporary
from paretune.frozen import fingerprint, split

VIT = "vit_tiny_patch16_224"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
CONFIG, TENSORS, BACKBONE = "adapter_config.json", "adapter_model.safetensors", "backbone.safetensors"
LORA = [pt.LoRA(rank=2)]
GONE = r"not in the cache: looked for .*{}\.safetensors; its weights came from .*vit\.safetensors.*--checkpoint FILE"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "backbones"


@pytest.fixture
def images():
    """Random images for the small model."""
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights(tmp_path):
    """A local file of weights."""
    return write_weights(tmp_path / "vit.safetensors")


def write_weights(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file(awake(timm.create_model(VIT, **TINY)).state_dict(), path)
    return path


def model_of(weights, adapters=LORA, reducer=None, classes=3, **options):
    torch.manual_seed(3)
    return pt.adapt(VIT, list(adapters), reducer, classes, checkpoint=weights, **TINY | options).eval()


@pytest.fixture
def run(weights, tmp_path):
    """A saved model whose backbone is in the cache."""
    pt.save(model_of(weights), tmp_path / "run")
    return tmp_path / "run"


def entries(cache):
    return sorted(path for path in cache.iterdir() if path.name != stored.LOCK)


def config_of(run):
    return json.loads((run / CONFIG).read_text())


def edit(run, **values):
    (run / CONFIG).write_text(json.dumps(config_of(run) | values))


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


# ------------------------------------------------------------------------------------------------------ kept once


def test_runs_of_every_kind_on_one_file_keep_its_backbone_once(weights, tmp_path, cache, images):
    kinds = {
        "linear": ([], None), "lora": (LORA, None), "adaptformer": ([pt.AdaptFormer(width=4)], pt.ToMe(r=2)),
        "fpet": (LORA, pt.FPET(block=1)), "late": ([pt.LoRA(rank=2, blocks=(1,))], None),
    }  # fmt: skip
    for name, (adapters, reducer) in kinds.items():
        model = model_of(weights, adapters, reducer)
        pt.save(model, tmp_path / name)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [CONFIG, TENSORS]
        assert torch.equal(pt.load(tmp_path / name)(images), model(images))
    (entry,) = entries(cache)
    assert entry.stem == config_of(tmp_path / "lora")["fingerprint"]
    assert entry.stat().st_size > 5 * sum(path.stat().st_size for path in (tmp_path / "lora").glob("*.safetensors"))


def test_another_size_of_images_and_other_weights_have_entries_of_their_own(weights, tmp_path, cache):
    pt.save(model_of(weights), tmp_path / "a")
    pt.save(model_of(weights, img_size=32), tmp_path / "b")
    pt.save(model_of(write_weights(tmp_path / "other.safetensors", 1)), tmp_path / "c")
    assert len(entries(cache)) == 3


def test_what_no_file_holds_is_never_only_in_the_cache(weights, tmp_path, cache, images):
    for name, model in {
        "random": pt.adapt(VIT, LORA, classes=3, **TINY),
        "module": pt.adapt(timm.create_model(VIT, **TINY), LORA, classes=3),
    }.items():
        pt.save(model, tmp_path / name)
        assert (tmp_path / name / BACKBONE).is_file()
    pt.save(model_of(weights, [pt.Full()]), tmp_path / "full")  # freezes nothing, so nothing can be kept
    assert torch.equal(pt.load(tmp_path / "full")(images), model_of(weights, [pt.Full()])(images))
    assert not cache.exists()


def test_an_embedded_backbone_needs_nothing_else_and_stays_embedded(weights, tmp_path, cache, images):
    model = model_of(weights)
    pt.save(model, tmp_path / "run", embed_backbone=True)
    assert not cache.exists()
    assert "cached_from" not in config_of(tmp_path / "run")
    weights.unlink()
    loaded = pt.load(tmp_path / "run")
    assert torch.equal(loaded(images), model(images))
    pt.save(loaded, tmp_path / "again")  # the file may be gone: only this folder has the weights
    assert (tmp_path / "again" / BACKBONE).is_file()
    assert not cache.exists()


def test_a_loaded_model_is_saved_again_with_the_same_hint(run, tmp_path, cache, weights):
    pt.save(pt.load(run), tmp_path / "again")
    assert config_of(tmp_path / "again")["cached_from"] == config_of(run)["cached_from"] == str(weights)
    assert (tmp_path / "again" / TENSORS).read_bytes() == (run / TENSORS).read_bytes()
    assert len(entries(cache)) == 1


def test_saving_over_an_embedded_backbone_removes_it_and_the_other_way_round(weights, tmp_path, images):
    for embed in (True, False, True):
        pt.save(model_of(weights), tmp_path / "run", embed_backbone=embed)
        assert (tmp_path / "run" / BACKBONE).exists() == embed
        assert torch.equal(pt.load(tmp_path / "run")(images), model_of(weights)(images))


def test_saving_only_what_is_trained_leaves_the_backbone_where_it_is(weights, tmp_path, images):
    for embed in (True, False):
        out = tmp_path / str(embed)
        pt.save(model_of(weights), out, embed_backbone=embed)
        pt.save(model_of(weights), out, only_trained=True)
        assert (out / BACKBONE).exists() == embed
        assert torch.equal(pt.load(out)(images), model_of(weights)(images))


# ------------------------------------------------------------------------------- not there, damaged, of another kind


def test_a_missing_entry_is_told_with_its_place_and_the_way_out(run, cache, weights, images):
    digest = config_of(run)["fingerprint"]
    shutil.rmtree(cache)
    with pytest.raises(pt.UsageError, match=GONE.format(digest)):
        pt.load(run)
    assert torch.equal(pt.load(run, checkpoint=weights)(images), model_of(weights)(images))
    assert entries(cache) == [cache / f"{digest}.safetensors"]  # kept again
    assert torch.equal(pt.load(run)(images), model_of(weights)(images))


def test_the_path_in_a_config_is_never_opened(run, cache, weights, tmp_path):
    shutil.rmtree(cache)
    os.mkfifo(tmp_path / "fifo")  # whoever opens it waits for ever
    for path in (weights, tmp_path / "fifo", "/etc/passwd", "\x1b[31m", "x" * 9000):
        edit(run, cached_from=str(path))
        with pytest.raises(pt.UsageError, match="not in the cache") as refusal:
            pt.load(run)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 1500


@pytest.mark.parametrize("value", [3, None, ["a"], "x" * 10_001, {"a": 1}])
def test_a_hint_that_is_no_path_is_refused(run, value):
    edit(run, cached_from=value)
    with pytest.raises(pt.UsageError, match="cached_from"):
        pt.load(run)


def test_a_fingerprint_that_is_a_path_is_refused(run, weights):
    edit(run, fingerprint=f"../../{weights.stem}")
    with pytest.raises(pt.UsageError, match="fingerprint"):
        pt.load(run)


def test_other_weights_are_refused(run, tmp_path, cache):
    shutil.rmtree(cache)
    other = write_weights(tmp_path / "other.safetensors", 1)
    with pytest.raises(pt.UsageError, match="was trained on another backbone"):
        pt.load(run, checkpoint=other)
    assert not cache.exists()
    with pytest.raises(pt.UsageError, match=r"checkpoint '.*nowhere.safetensors' is missing"):
        pt.load(run, checkpoint=tmp_path / "nowhere.safetensors")


def test_a_checkpoint_is_asked_for_only_where_the_weights_came_from_one(run, weights, tmp_path):
    pt.save(pt.adapt("paretune_tiny", LORA, classes=3, pretrained=True), tmp_path / "named")
    with pytest.raises(pt.UsageError, match="did not come from a local file: leave checkpoint out"):
        pt.load(tmp_path / "named", checkpoint=weights)
    with pytest.raises(pt.UsageError, match="exclude each other"):
        pt.load(run, timm.create_model(VIT, **TINY), checkpoint=weights)


def spoil(entry: Path, how: str) -> None:
    tensors = load_file(entry)
    name = sorted(tensors)[3]
    if how == "truncated":
        os.truncate(entry, entry.stat().st_size // 2)
    elif how == "empty":
        entry.write_bytes(b"")
    elif how == "a tensor missing":
        save_file({key: value for key, value in tensors.items() if key != name}, entry)
    else:
        tensors[name] = {
            "changed": tensors[name] + 1e-3, "of another shape": torch.zeros(2, 2),
            "not finite": torch.full_like(tensors[name], torch.nan),
        }[how]  # fmt: skip
        save_file(tensors, entry)


@pytest.mark.parametrize("how", ["truncated", "empty", "a tensor missing", "changed", "of another shape", "not finite"])
@pytest.mark.parametrize("renewed_by", ["saving", "loading"])
def test_a_damaged_entry_is_refused_and_renewed(run, cache, weights, tmp_path, images, how, renewed_by):
    (entry,) = entries(cache)
    before = entry.read_bytes()
    spoil(entry, how)
    with pytest.raises(pt.UsageError) as refusal:
        pt.load(run)
    assert entry.name in str(refusal.value)
    assert "--checkpoint FILE" in str(refusal.value)
    if renewed_by == "saving":
        pt.save(model_of(weights), tmp_path / "again")
    else:
        pt.load(run, checkpoint=weights)
    assert entry.read_bytes() == before
    assert torch.equal(pt.load(run)(images), model_of(weights)(images))


def test_a_config_that_asks_for_a_larger_model_than_the_checkpoint_is_refused_before_it_is_built(run, weights, cache):
    shutil.rmtree(cache)
    config = config_of(run)
    config["backbone"]["options"]["embed_dim"] = 16_384
    edit(run, backbone=config["backbone"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(pt.UsageError, match="does not belong to its model"):
        pt.load(run, checkpoint=weights)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


# --------------------------------------------------------------------------------------- writers, disks, leftovers


def test_many_writers_at_once_leave_one_sound_entry(weights, cache):
    frozen = split(model_of(weights))[1]
    digest, begin = fingerprint(frozen), threading.Barrier(8)

    def write(_):
        begin.wait()
        return stored.keep(frozen, digest, VIT)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(8)))
    (entry,) = entries(cache)
    assert fingerprint(load_file(entry)) == digest
    assert stored.model_of(entry) == VIT


@contextmanager
def a_full_disk(free: int):
    """No file may grow beyond `free` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_half_of_an_entry_and_no_run(weights, tmp_path, cache):
    with a_full_disk(20_000), pytest.raises(OSError, match="too large") as full:
        pt.save(model_of(weights), tmp_path / "run")
    assert full.value.filename.startswith(str(cache))
    assert entries(cache) == []
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_sentence_and_exit_code_1(run, cache):
    with a_full_disk(20_000):
        done = cli("cache", "embed", run)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "make room" in done.stderr
    assert sorted(path.name for path in run.iterdir()) == [CONFIG, TENSORS]
    assert pt.load(run)


def test_leftovers_of_killed_writers_are_swept(weights, tmp_path, cache, monkeypatch):
    cache.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 2**22 + 1)  # no process has this number
        left = _temporary(cache)
    left.write_bytes(b"half")
    pt.save(model_of(weights), tmp_path / "run")
    assert not left.exists()


KILLED = """
import sys, time
from pathlib import Path
import torch
from paretune import stored

def half(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)

stored.write_tensors = half
stored.keep({"a": torch.ones(3)}, sys.argv[1], "a")
"""


@pytest.mark.slow
def test_a_killed_writer_holds_no_lock_and_leaves_nothing(cache):
    frozen = {"a": torch.ones(3)}
    digest = fingerprint(frozen)
    writer = subprocess.Popen([sys.executable, "-c", KILLED, digest], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    assert len(list(cache.iterdir())) == 2  # the lock and half of a file
    writer.kill()
    writer.communicate()
    assert stored.keep(frozen, digest, "a")
    (entry,) = entries(cache)
    assert fingerprint(load_file(entry)) == digest


def test_a_cache_that_cannot_be_written_is_told_and_the_backbone_embedded(
    weights, tmp_path, monkeypatch, caplog, images
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        pt.save(model_of(weights), tmp_path / "run")
    assert "backbones cannot be kept in" in caplog.text
    assert (tmp_path / "run" / BACKBONE).is_file()
    assert torch.equal(pt.load(tmp_path / "run")(images), model_of(weights)(images))


# ------------------------------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Pictures of two classes."""
    root, rng = tmp_path_factory.mktemp("tree"), np.random.default_rng(0)
    for name in ("blue", "red"):
        (root / name).mkdir()
        for i in range(5):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


ASSET = Path(pt.__file__).parent / "assets" / "paretune_tiny.safetensors"


def trained(tree, out, *more):
    return cli("train", "--data", tree, "--model", "paretune_tiny", "--checkpoint", ASSET, "--recipe", "linear",
               "--epochs", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu", "--out", out, *more)  # fmt: skip


@pytest.mark.slow
def test_the_commands_run_on_a_run_whose_backbone_is_in_the_cache(tree, tmp_path, cache):
    out, picture = tmp_path / "run", tree / "red" / "0.png"
    assert trained(tree, out).exit_code == 0
    assert not (out / BACKBONE).exists()
    again = {
        "eval": ("eval", out, "--data", tree, "--json"),
        "predict": ("predict", out, picture, "--json"),
        "show": ("show", out, picture, "--out", tmp_path / "a.png"),
    }
    for words in (*again.values(), ("report", out, "--out", tmp_path / "report.html")):
        done = cli(*words)
        assert done.exit_code == 0, done.output
    shutil.rmtree(cache)
    for words in again.values():
        done = cli(*words)
        assert done.exit_code == 2, done.output
        assert "not in the cache" in done.stderr
        assert "--checkpoint FILE" in done.stderr
    for words in again.values():
        shutil.rmtree(cache, ignore_errors=True)
        done = cli(*words, "--checkpoint", ASSET)
        assert done.exit_code == 0, done.output
    assert len(entries(cache)) == 1


def test_train_embeds_a_backbone_if_asked(tree, tmp_path, cache):
    assert trained(tree, tmp_path / "run", "--embed-backbone").exit_code == 0
    assert (tmp_path / "run" / BACKBONE).is_file()
    assert not cache.exists()


def test_cache_list_shows_what_is_kept_and_remove_removes_what_was_not_used(run, cache, weights):
    (entry,) = entries(cache)
    found = json.loads(cli("cache", "list", "--json").stdout)
    assert found["folder"] == str(cache.parent)
    (one,) = [entry for entry in found["entries"] if entry["kind"] == "backbones"]
    assert (one["path"], one["bytes"], one["model"]) == (str(entry), entry.stat().st_size, VIT)
    assert one["unused"] < 0.1
    assert VIT in cli("cache", "list").stdout
    assert cli("cache", "remove", "backbones", "--unused", 1).exit_code == 0
    assert entries(cache) == [entry]
    os.utime(entry, (0, 0))
    pt.load(run)  # is used
    cli("cache", "remove", "backbones", "--unused", 1)
    assert entries(cache) == [entry]
    os.utime(entry, (0, 0))
    assert cli("cache", "remove", "tokens").exit_code == 0
    assert entries(cache) == [entry]
    done = cli("cache", "remove", "backbones", "--unused", 1, "--json")
    assert json.loads(done.stdout)["removed"] == [str(entry)]
    assert entries(cache) == []
    assert "did you mean backbones" in cli("cache", "remove", "backbone").stderr


def test_cache_embed_makes_a_run_independent_of_the_cache(run, cache, weights, images):
    done = cli("cache", "embed", run)
    assert done.exit_code == 0, done.output
    shutil.rmtree(cache)
    weights.unlink()
    loaded = pt.load(run)
    assert loaded(images).shape == (2, 3)
    assert "cached_from" not in config_of(run)
    assert cli("cache", "embed", run).exit_code == 0  # already done
