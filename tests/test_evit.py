"""EViT: where it reduces, and how the share of kept patches falls during a training but not in its evaluations."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import paretune as pt
from paretune.core.method import Shape
from paretune.data import ImageArrays
from paretune.data.transforms import evaluation
from paretune.measure.memory import saved_bytes
from paretune.training.fit import fit

SHAPE = Shape(depth=12, width=16, head_width=8, grid=(6, 6), prefix=1)
SHRINKING = pt.EViT(keep=0.5, blocks=(1,), shrink_start=1, shrink_epochs=2)
# Patch tokens of 16 after block 1 in epochs 0, 1...: all, all, ceil(0.75 * 16) and a fused one, ceil(0.5 * 16) and one.
TOKENS = (16, 16, 13, 9)
SCHEDULE = pt.Schedule(epochs=4, batch_size=8, lr=5e-3, warmup_epochs=1)


def small_model(reducer=SHRINKING):
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2}
    return pt.adapt("vit_tiny_patch16_224", [pt.LoRA(rank=2)], reducer, ["ant", "bee"], **size)


def small_sets(model):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (24, 16, 16, 3)).astype(np.uint8), np.arange(24) % 2
    images[np.arange(24), 4:12, 4:12, labels] //= 8
    data = ImageArrays(images, labels, ("ant", "bee"), evaluation(model.preprocessing))
    return data.part(slice(16), "train"), data.part(slice(16, None), "val")


class Counting:
    """Notes, forward by forward, how many patch tokens block 1 leaves, in training and in evaluation."""

    def __init__(self, model):
        self.seen = {"train": [], "eval": []}
        model.reducer.register_forward_hook(self.note)

    def note(self, reducer, args, reduction):
        block, _, tokens = args
        if block == 1:
            left = tokens.patches if reduction is None else reduction.n_out
            self.seen["train" if reducer.training else "eval"].append(left)


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, {3, 6, 9}), (24, {6, 12, 18}), (4, {1, 2, 3}), (6, {1, 3, 4}), (2, {0, 1}), (1, {0})]
)
def test_by_default_it_reduces_at_a_quarter_half_and_three_quarters_of_the_depth(depth, blocks):
    assert pt.EViT().build(replace(SHAPE, depth=depth)).blocks == blocks
    assert pt.EViT(blocks=(0,)).build(replace(SHAPE, depth=depth)).blocks == {0}


def test_the_share_falls_along_the_cosine_of_the_authors():
    config = pt.EViT(keep=0.7, shrink_start=10, shrink_epochs=100)
    assert [config.share(epoch) for epoch in (0, 9, 10)] == [1.0, 1.0, 1.0]
    for epoch in range(10, 110):
        cosine = 0.7 + 0.3 * 0.5 * (1 + math.cos(math.pi * (epoch - 10) / 100))
        assert config.share(epoch) == pytest.approx(cosine, abs=1e-12)
    assert [config.share(epoch) for epoch in (110, 111, 500)] == [0.7] * 3
    assert [pt.EViT(keep=0.7, shrink_start=2).share(epoch) for epoch in (0, 1, 2, 3)] == [1.0, 1.0, 0.7, 0.7]
    assert [pt.EViT(keep=0.7).share(epoch) for epoch in (0, 1)] == [0.7, 0.7]


def test_only_training_follows_the_schedule_and_only_where_someone_tells_the_epoch():
    model, images = small_model(), torch.randn(2, 3, 16, 16)
    assert model.train().run(images).tokens.patches == 9
    for epoch, left in enumerate(TOKENS):
        model.reducer.at_epoch(epoch)
        assert model.train().run(images).tokens.patches == left
        assert copy.deepcopy(model).run(images).tokens.patches == left
        assert model.eval().run(images).tokens.patches == 9


def test_the_trainer_tells_it_every_epoch_and_evaluates_with_the_final_share(tmp_path):
    model = small_model()
    counting = Counting(model)
    fit(model, *small_sets(model), SCHEDULE, tmp_path, device="cpu", quiet=True)
    assert counting.seen["train"] == [left for left in TOKENS for _ in range(2)]  # two batches an epoch
    assert set(counting.seen["eval"]) == {9}
    assert model.run(torch.zeros(1, 3, 16, 16)).tokens.patches == 9


def test_all_patches_in_the_first_epochs_need_the_memory_of_all_patches():
    images, model = torch.zeros(8, 3, 16, 16), small_model()
    short = saved_bytes(model, images)
    model.reducer.at_epoch(0)
    assert saved_bytes(model, images) > short


def test_a_resumed_run_goes_on_with_the_share_of_its_epoch(tmp_path):
    whole, parts = small_model(), small_model()
    fit(whole, *small_sets(whole), SCHEDULE, tmp_path / "whole", device="cpu", quiet=True)
    train, val = small_sets(parts)
    counting = Counting(parts)

    def interrupted(reducer, args):
        if len(counting.seen["train"]) == 2 * 2 + 1 and reducer.training:  # in the first batch of epoch 2
            raise KeyboardInterrupt

    hook = parts.reducer.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, train, val, SCHEDULE, tmp_path / "parts", device="cpu", quiet=True)
    hook.remove()
    again = small_model()
    counting = Counting(again)
    fit(again, train, val, SCHEDULE, tmp_path / "parts", device="cpu", quiet=True, resume=True)
    assert counting.seen["train"] == [13, 13, 9, 9]
    tensors = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0] | tensors[1])


def test_a_saved_schedule_is_loaded_again(tmp_path):
    model = small_model()
    pt.save(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["reducer"]["shrink_epochs"] == 2
    assert pt.load(tmp_path).spec.reducer == SHRINKING


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shrink_start": -1}, "EViT shrink_start=-1: must be at least 0"),
        ({"shrink_epochs": -2}, "EViT shrink_epochs=-2: must be at least 0"),
        ({"blocks": (3, 12)}, "EViT blocks=(3, 12): the backbone has blocks 0 to 11"),
        ({"keep": 0.0}, "EViT keep=0.0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_named(settings, says):
    (problem,) = pt.EViT(**settings).problems(SHAPE)
    assert problem.startswith(says)


def test_a_reducer_without_a_block_is_refused():
    for empty in (pt.EViT(blocks=()), pt.FPET(block=()), pt.ToMe(blocks=())):
        with pytest.raises(pt.UsageError, match="needs at least one block"):
            pt.adapt("paretune_tiny", [], empty, 2)
