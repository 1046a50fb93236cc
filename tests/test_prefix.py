"""What is the same in every epoch is computed once, and nothing else changes."""

import numpy as np
import peft
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import Compose, RandomHorizontalFlip, ToTensor

import paretune as pt
from paretune.data.arrays import ImageArrays
from paretune.data.cache import decoded, is_still
from paretune.data.opening import open_splits
from paretune.data.transforms import evaluation, training
from paretune.train.fit import fit
from paretune.train.prefix import KeptTokens, Prefixed, frozen_blocks, keep, remembered

QUICK = pt.Schedule(epochs=2, batch_size=8, warmup_epochs=0, lr=3e-3)
PLENTY = 1 << 30


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
        (model_of(reducer=pt.EViT(keep=0.7)), 3),
        (model_of(reducer=pt.EViT(keep=0.7, shrink_start=2, shrink_epochs=3)), 3),
        (model_of(reducer=pt.FPET(block=6)), 6),
        (model_of(name=with_peft()), 9),
    ],
    ids=["linear", "lora", "full", "drop path", "evit", "evit later", "fpet", "hf peft in 9 to 11"],
)
def test_a_block_is_kept_if_nothing_trained_or_random_or_reducing_comes_before(model, blocks):
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
            assert torch.allclose(short(short.entering(images).x), model(images), atol=1e-5)


def test_rotary_tables_enter_the_later_blocks_too():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model = model_of(name="vit_small_patch16_rope_224", **options).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    short = Prefixed(model, 2, images[0])
    with torch.no_grad():
        assert torch.allclose(short(short.entering(images).x), model(images), atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "fpet"])
def test_training_from_kept_tokens_ends_where_training_from_images_ends(tmp_path, name):
    results = []
    for cache in (True, False):
        model = model_of(reducer=pt.FPET(block=6) if name == "fpet" else None)
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
    data = pictures().through(evaluation(model.preprocessing))
    fit(model, data, data, pt.Schedule(epochs=3, batch_size=8, warmup_epochs=0), tmp_path, quiet=True, device="cpu")
    assert sum(seen) == 2 * len(data) + 2  # training and validation images, one to learn the shapes, one for the size


def test_random_pictures_are_never_kept_as_tokens():
    model = model_of()
    data = pictures().through(training(model.preprocessing, "flip"))
    learner, kept, _, note = remembered(model, data, data, torch.no_grad, 8, 0)
    assert learner is model
    assert not isinstance(kept, KeptTokens)
    assert note == ""


def test_tokens_that_do_not_fit_are_not_kept(monkeypatch):
    class Full:
        available = 400_000

    monkeypatch.setattr("paretune.train.prefix.psutil.virtual_memory", Full)
    model = model_of()
    data = pictures().through(evaluation(model.preprocessing))
    assert remembered(model, data, data, torch.no_grad, 8, 0)[0] is model


def test_kept_tokens_have_the_targets_of_their_images():
    model = model_of().eval()
    data = pictures().through(evaluation(model.preprocessing))
    short = Prefixed(model, 12, data[0][0])
    kept = keep(short, data, torch.no_grad, 5)
    assert len(kept) == len(data)
    for i in (0, 7, 23):
        assert kept[i][1] == data[i][1]
        with torch.no_grad():
            assert torch.allclose(short(kept[i][0][None]), model(data[i][0][None]), atol=1e-5)


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
