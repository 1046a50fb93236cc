"""RandAugment, mixup and cutmix: what they do to images and classes, and that the seed decides all of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_tasks import SHORT as TASKS
from test_train import SHORT, run, same, small_model, small_sets, tensors, timeless

import paretune as pt
from paretune.data import ImageArrays
from paretune.data.transforms import training
from paretune.errors import UsageError
from paretune.training.fit import fit
from paretune.training.mixing import Mixing, mixing
from paretune.training.order import SeededEpochs

MIXED = replace(SHORT, mixup=0.4, cutmix=1.0)


def batch(count=6):
    """Images whose pixels all are the number of the image."""
    return torch.arange(count).float()[:, None, None, None].expand(count, 3, 8, 8), torch.arange(count) % 3


def test_mixup_mixes_images_and_classes_in_the_same_shares():
    np.random.seed(0)  # noqa: NPY002
    images, labels = batch()
    mixed, shares = Mixing(replace(SHORT, mixup=1.0), 3)(images, labels)
    part = (mixed[0, 0, 0, 0] / 5).item()  # image 0 is black, its partner is number 5
    assert 0 < part < 1
    assert torch.allclose(mixed, images * (1 - part) + images.flip(0) * part)
    assert torch.allclose(shares[0], torch.tensor([1 - part, 0, part]), atol=1e-6)
    assert torch.allclose(shares.sum(1), torch.ones(6))


def test_cutmix_pastes_a_rectangle_and_counts_its_area():
    np.random.seed(3)  # noqa: NPY002
    images, labels = batch()
    mixed, shares = Mixing(replace(SHORT, cutmix=1.0), 3)(images, labels)
    foreign = (mixed[0, 0] == 5).float().mean().item()
    assert 0 < foreign < 1
    assert set(mixed[0].unique().tolist()) == {0.0, 5.0}
    assert shares[0, 2].item() == pytest.approx(foreign)


def test_the_middle_of_an_odd_batch_and_the_images_that_came_in_stay_as_they_are():
    images, labels = batch(5)
    before = images.clone()
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002
        mixed, shares = Mixing(MIXED, 3)(images, labels)
        assert torch.equal(mixed[2], images[2])
        assert shares[2].tolist() == [0, 0, 1]
        assert not torch.equal(mixed, images)
    assert torch.equal(images, before)
    alone = Mixing(MIXED, 3)(images[:1], labels[:1])
    assert torch.equal(alone[0], images[:1])
    assert mixing(SHORT, 3) is None


def noise(count=6):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, 16, 16, 3)).astype(np.uint8)
    transform = training(small_model().preprocessing, "randaugment")
    return ImageArrays(images, np.arange(count) % 3, ("ant", "bee", "cow"), transform)


def test_randaugment_depends_on_seed_epoch_and_image_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (SeededEpochs(noise(), seed=3) for _ in range(2))
    ahead = [first[i][0] for i in range(6)]
    assert all(torch.equal(one, second[i][0]) for i, one in reversed(list(enumerate(ahead))))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    second.epoch = 1
    assert not any(torch.equal(one, second[i][0]) for i, one in enumerate(ahead))


def test_randaugment_changes_more_than_crops_do():
    picture = Image.new("RGB", (30, 30), (200, 60, 20))
    crop, more = (training(small_model().preprocessing, augment) for augment in ("crop", "randaugment"))
    assert all(torch.equal(crop(picture), crop(picture)) for _ in range(5))
    assert len({more(picture).sum().item() for _ in range(10)}) > 3


@pytest.mark.parametrize(("schedule", "augment"), [(MIXED, "none"), (replace(SHORT, mixup=0.2), "randaugment")])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, schedule, augment):
    whole = run(tmp_path / "whole", schedule, augment)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", schedule, augment, interrupt=45)
    resumed = run(tmp_path / "part", schedule, augment, resume=True)
    assert timeless(resumed.history) == timeless(whole.history)
    assert same(tensors(tmp_path / "part"), tensors(tmp_path / "whole"))


def test_neither_workers_nor_what_ran_before_change_the_result(tmp_path):
    alone = run(tmp_path / "alone", MIXED, "randaugment")
    np.random.rand(7)  # noqa: NPY002
    helped = run(tmp_path / "helped", MIXED, "randaugment", workers=1)
    assert timeless(alone.history) == timeless(helped.history)
    assert same(tensors(tmp_path / "alone"), tensors(tmp_path / "helped"))


def test_mixing_reaches_the_loss_and_the_record(tmp_path):
    plain, mixed = run(tmp_path / "plain"), run(tmp_path / "mixed", MIXED)
    assert mixed.history[0]["train_loss"] != plain.history[0]["train_loss"]
    assert (mixed.record["schedule"]["mixup"], mixed.record["schedule"]["cutmix"]) == (0.4, 1.0)
    weighted = run(tmp_path / "weighted", replace(MIXED, class_weights="auto", label_smoothing=0.1))
    assert weighted.history[0]["train_loss"] > 0


@pytest.mark.parametrize(("schedule", "augment"), [(MIXED, "none"), (SHORT, "randaugment"), (SHORT, "crop")])
def test_random_training_images_keep_no_tokens_and_a_line_says_so(tmp_path, capsys, schedule, augment):
    model = small_model(())  # a linear probe: all blocks could be kept
    train, val = small_sets(model, augment)
    fit(model, train, val, schedule, tmp_path, device="cpu")
    told = capsys.readouterr().err
    assert told.count("blocks 0 to 2 run again in every epoch: the training images are random") == 1
    assert "computed once and kept: blocks" not in told


def test_still_images_keep_tokens_and_models_without_frozen_blocks_say_nothing(tmp_path, capsys):
    train, val = small_sets(small_model(()))
    fit(small_model(()), train, val, SHORT, tmp_path / "still", device="cpu")
    assert "computed once and kept: blocks 0 to 2" in capsys.readouterr().err
    fit(small_model(), *small_sets(small_model(), "crop"), SHORT, tmp_path / "all", device="cpu")
    assert "run again in every epoch" not in capsys.readouterr().err


def test_mixing_is_for_one_class_of_several(tmp_path):
    model = pt.adapt("paretune_tiny", (), None, ["a", "b"], task="multilabel")
    images, targets = np.zeros((4, 32, 32, 3), np.uint8), np.array([[0, 1], [1, 0], [1, 1], [0, 0]], np.float32)
    data = ImageArrays(images, targets, ("a", "b"), training(model.preprocessing), task="multilabel")
    for name in ("mixup", "cutmix"):
        with pytest.raises(UsageError, match=f"{name}=0.5 is for one class of several, not for multilabel: use 0"):
            fit(model, data, data, replace(TASKS, **{name: 0.5}), tmp_path, device="cpu", quiet=True)
    with pytest.raises(UsageError, match="mixup=-1 must be from 0 to 1000"):
        run(tmp_path, replace(SHORT, mixup=-1.0))
