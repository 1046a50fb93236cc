"""What is the same in every epoch is computed once, and nothing else changes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import timm
import torch
from PIL import Image
from test_contract import third
from torchvision.transforms import Compose, RandomHorizontalFlip, ToTensor

import paretune as pt
from paretune.data.arrays import ImageArrays
from paretune.data.cache import decoded, is_still
from paretune.data.opening import open_splits
from paretune.data.transforms import evaluation, training
from paretune.training.fit import fit
from paretune.training.kept import KeptTokens
from paretune.training.prefix import Passes, Prefixed, frozen_blocks, keep, remembered

QUICK = pt.Schedule(epochs=2, batch_size=8, warmup_epochs=0, lr=3e-3)
PLENTY = 1 << 30
PLAIN = Passes(torch.no_grad, 8)


def pictures(count=24, seed=0):
    targets = np.arange(count) % 2
    noise = np.random.default_rng(seed).integers(0, 80, (count, 32, 32, 3))
    images = (noise + 100 * targets[:, None, None, None]).astype(np.uint8)
    return ImageArrays(images, targets, ("dark", "bright"))


def model_of(adapters=(), reducer=None, name="paretune_tiny", **options):
    torch.manual_seed(0)
    return pt.adapt(name, list(adapters), reducer, ["dark", "bright"], pretrained=name == "paretune_tiny", **options)


def with_peft():
    """A backbone in whose last three blocks HF PEFT has put LoRA."""
    config = peft.LoraConfig(r=2, target_modules=r"blocks\.(9|10|11)\.attn\.qkv")
    return peft.inject_adapter_in_model(config, timm.create_model("paretune_tiny"))


IMAGE = torch.linspace(-1, 1, 3 * 32 * 32).view(3, 32, 32)


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (model_of(), 12),
        (model_of([pt.LoRA(rank=2)]), 0),
        (model_of([pt.Full()]), 0),
        (model_of(drop_path_rate=0.1), 1),  # the rate grows from 0 in block 0
        (model_of(reducer=pt.EViT(keep=0.7)), 12),
        (model_of([pt.LoRA(rank=2, blocks=(8, 9))], pt.EViT(keep=0.7)), 8),
        (model_of([pt.DenseAdapter(width=4, blocks=(8, 9, 10, 11))], pt.ToMe(r=4)), 8),
        (model_of([pt.VPT(prompts=2, blocks=(10, 11))], pt.EViT(keep=0.7)), 10),
        (model_of(reducer=pt.EViT(keep=0.7, shrink_start=2, shrink_epochs=3)), 3),
        (model_of(reducer=pt.FPET(block=6)), 6),
        (model_of(name=with_peft()), 9),
    ],
    ids=[
        "linear",
        "lora",
        "full",
        "drop path",
        "evit",
        "lora behind evit",
        "dense behind tome",
        "prompts",
        "evit later",
        "fpet",
        "hf peft in 9 to 11",
    ],
)
def test_a_block_is_kept_if_nothing_trained_or_random_or_changing_comes_before(model, blocks):
    if model.reducer is not None:
        model.reducer.at_epoch(0)
    assert frozen_blocks(model, IMAGE) == blocks
    assert model.training


@pytest.mark.parametrize("adapters", [[], [pt.LoRA(rank=2)]], ids=["linear", "lora"])
def test_the_rest_of_the_forward_gives_what_the_whole_one_gives(adapters):
    model = model_of(adapters, pt.FPET(block=6)).eval()
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for blocks in (0, 4, 6):
        short = Prefixed(model, blocks, images[0])
        with torch.no_grad():
            assert torch.allclose(short(short.entering(images)), model(images), atol=1e-5)


def test_rotary_tables_enter_the_later_blocks_too():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model = model_of(name="vit_small_patch16_rope_224", **options).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    short = Prefixed(model, 2, images[0])
    with torch.no_grad():
        assert torch.allclose(short(short.entering(images)), model(images), atol=1e-5)


LATE = {"blocks": (8, 9, 10, 11)}
METHODS = {
    "linear": ([], None),
    "fpet": ([], pt.FPET(block=6)),
    "evit before lora": ([pt.LoRA(rank=2, **LATE)], pt.EViT(keep=0.7)),
    "tome before dense adapters": ([pt.DenseAdapter(width=4, **LATE)], pt.ToMe(r=4)),
    "pooling before adapters": ([pt.AdaptFormer(width=4, **LATE)], pt.Pool(by="max")),
}


@pytest.mark.parametrize("name", third(METHODS, pytest.mark.slow))
def test_training_from_kept_tokens_ends_where_training_from_images_ends(tmp_path, name):
    results = []
    for cache in (True, False):
        model = model_of(*METHODS[name])
        seen = [pictures(seed=i).through(evaluation(model.preprocessing)) for i in range(2)]
        results.append(fit(model, *seen, QUICK, tmp_path / str(cache), cache=cache, quiet=True, device="cpu"))
    kept, plain = results
    for with_cache, without in zip(kept.history, plain.history, strict=True):
        assert with_cache["val_loss"] == pytest.approx(without["val_loss"], abs=1e-5)
        assert with_cache["train_loss"] == pytest.approx(without["train_loss"], abs=1e-5)
    saved = [pt.load(tmp_path / str(cache)).state_dict() for cache in (True, False)]
    assert all(torch.allclose(a, saved[1][key], atol=1e-5) for key, a in saved[0].items())


def test_the_first_blocks_run_once_per_image_whatever_the_number_of_epochs(tmp_path, monkeypatch):
    seen = []
    entering = Prefixed.entering
    monkeypatch.setattr(Prefixed, "entering", lambda self, images: seen.append(len(images)) or entering(self, images))
    model = model_of()
    data = pictures(seed=71).through(evaluation(model.preprocessing))
    fit(model, data, data, pt.Schedule(epochs=3, batch_size=8, warmup_epochs=0), tmp_path, quiet=True, device="cpu")
    assert sum(seen) == 2 * len(data) + 2  # training and validation images, and the first of each for the shapes
    seen.clear()
    again = model_of()
    fit(again, data, data, QUICK, tmp_path / "again", quiet=True, device="cpu")
    assert sum(seen) == 2  # the first of each, compared with what the first training kept


def test_random_pictures_are_never_kept_as_tokens():
    model = model_of()
    data = pictures().through(training(model.preprocessing, "flip"))
    learner, kept, _, note = remembered(model, data, data, PLAIN)
    assert learner is model
    assert not isinstance(kept, KeptTokens)
    assert note.startswith("blocks 0 to 11 run again in every epoch")


def test_tokens_that_do_not_fit_are_not_kept(monkeypatch):
    class Memory:
        available = 400_000

    class Disk:
        free = 100_000

    monkeypatch.setattr("paretune.training.kept.psutil.virtual_memory", Memory)
    monkeypatch.setattr("paretune.training.kept.shutil.disk_usage", lambda folder: Disk)
    model = model_of()
    data = pictures(seed=72).through(evaluation(model.preprocessing))
    assert remembered(model, data, data, PLAIN)[0] is model


def test_kept_tokens_have_the_targets_of_their_images():
    model = model_of().eval()
    data = pictures().through(evaluation(model.preprocessing))
    short = Prefixed(model, 12, data[0][0])
    kept = keep(short, data, Passes(torch.no_grad, 5), training=False)
    assert len(kept) == len(data)
    for i in (0, 7, 23):
        assert kept[i][1] == data[i][1]
        with torch.no_grad():
            assert torch.allclose(short([part[None] for part in kept[i][0]]), model(data[i][0][None]), atol=1e-5)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An own folder for kept tokens."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def computed(model, data):
    """How many images the first blocks run on, of a data set whose tokens are asked for."""
    learner, kept, _, _ = remembered(model, data, data, PLAIN)
    seen = []
    entering = learner.entering
    learner.entering = lambda images: seen.append(len(images)) or entering(images)
    kept = keep(learner, data, PLAIN, training=True)
    return sum(seen), kept


def folders(store):
    return sorted(path for path in store.iterdir() if path.is_dir())


def test_other_pictures_weights_reducers_orders_and_transforms_find_no_tokens(store):
    model = model_of()
    data = pictures(8).through(evaluation(model.preprocessing))
    others = [
        (model, pictures(8, seed=1).through(data.transform)),
        (model, data.part(np.arange(8)[::-1], "turned")),
        (model, data.through(Compose([*data.transform.transforms, lambda x: x]))),  # cannot be told from others
        (model_of(reducer=pt.EViT()), data),
        (model_of(reducer=pt.EViT(keep=0.5)), data),
        (model_of([pt.LoRA(rank=1, blocks=(11,))]), data),
    ]
    with torch.no_grad():
        changed = model_of()
        changed.backbone.blocks[3].mlp.fc1.bias[0] += 1e-3
    first = keep(Prefixed(model, 12, data[0][0]), data, PLAIN, training=True)
    assert computed(model, data)[0] == 1
    for i, (other, images) in enumerate([*others, (changed, data)]):
        blocks = frozen_blocks(other, data[0][0])
        before = len(folders(store))
        kept = keep(Prefixed(other, blocks, data[0][0]), images, PLAIN, training=True)
        assert len(folders(store)) == before + (i != 2), i
        assert len(kept) == len(first)


def test_adapters_that_differ_behind_the_same_blocks_share_the_tokens(store):
    data = pictures(8).through(evaluation(model_of().preprocessing))
    late = [pt.LoRA(rank=2, blocks=(8,)), pt.AdaptFormer(width=4, blocks=(8, 9)), pt.LoRA(rank=4, blocks=(8, 11))]
    for adapter in late:
        model = model_of([adapter], pt.EViT())
        keep(Prefixed(model, 8, data[0][0]), data, PLAIN, training=True)
    assert len(folders(store)) == 1


def test_damaged_tokens_are_computed_again(store):
    model = model_of()
    data = pictures(8).through(evaluation(model.preprocessing))
    prefixed = Prefixed(model, 12, data[0][0])
    good = keep(prefixed, data, PLAIN, training=True).stores[0].clone()
    file = folders(store)[0] / "0.bin"
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(keep(prefixed, data, PLAIN, training=True).stores[0], good)
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(keep(prefixed, data, PLAIN, training=True).stores[0], good)


@pytest.mark.slow
def test_a_kill_while_tokens_are_computed_leaves_nothing_that_is_found(store):
    script = f"""
import os, signal, torch
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_prefix import *
model = model_of()
data = pictures(24).through(evaluation(model.preprocessing))
prefixed, calls = Prefixed(model, 12, data[0][0]), []
entering = prefixed.entering
def dying(images):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return entering(images)
prefixed.entering = dying
keep(prefixed, data, PLAIN, training=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not list(store.glob("*/kept.json"))
    assert list(store.glob(".paretune-*.tmp"))
    model = model_of()
    data = pictures(24).through(evaluation(model.preprocessing))
    kept = keep(Prefixed(model, 12, data[0][0]), data, PLAIN, training=True)
    with torch.no_grad():
        whole = model.train().finish(12, Prefixed(model, 12, data[0][0]).frame.tokens(kept.stores))
    assert torch.allclose(whole.logits, model(torch.stack([data[i][0] for i in range(24)])), atol=1e-5)
    assert not list(store.glob(".paretune-*.tmp"))  # what the dead process left is gone


def test_the_longest_unused_tokens_make_room(store, monkeypatch):
    model = model_of()
    sets = [pictures(8, seed).through(evaluation(model.preprocessing)) for seed in range(3)]
    prefixed = Prefixed(model, 12, sets[0][0][0])
    size = keep(prefixed, sets[0], PLAIN, training=True).nbytes
    monkeypatch.setattr("paretune.training.kept.MOST", int(2.6 * size))
    first = folders(store)[0]
    keep(prefixed, sets[1], PLAIN, training=True)
    second = next(folder for folder in folders(store) if folder != first)
    os.utime(first, (2e9, 2e9))  # used after the second one
    keep(prefixed, sets[2], PLAIN, training=True)
    assert first in folders(store)
    assert second not in folders(store)
    assert len(folders(store)) == 2


def test_is_still_notices_every_generator():
    import random

    assert is_still(lambda: torch.ones(2).sum())
    for draw in (lambda: torch.rand(1), random.random, lambda: np.random.rand()):  # noqa: NPY002
        assert not is_still(draw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 255, (20 + i, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_decoded_pictures_give_the_same_tensors_to_the_bit(folder, augment):
    model = model_of()
    data = open_splits(folder).train.through(training(model.preprocessing, augment))
    memory = decoded(data, PLENTY)
    assert isinstance(memory, ImageArrays)
    assert memory.images.shape[1:] == (32, 32, 3)
    for i in range(len(data)):
        torch.manual_seed(i)
        image, target = data[i]
        torch.manual_seed(i)
        again, same = memory[i]
        assert torch.equal(image, again)
        assert target == same


def test_random_crops_and_pictures_of_many_sizes_are_decoded_every_time(folder):
    data = open_splits(folder).train
    for transform in (training(model_of().preprocessing, "crop"), Compose([RandomHorizontalFlip(), ToTensor()])):
        assert decoded(seen := data.through(transform), PLENTY) is seen
    plain = data.through(Compose([lambda picture: picture.rotate(0), ToTensor()]))
    assert decoded(plain, PLENTY) is plain


def test_a_data_set_that_does_not_fit_is_decoded_every_time(folder):
    data = open_splits(folder).train.through(evaluation(model_of().preprocessing))
    assert decoded(data, 100) is data
