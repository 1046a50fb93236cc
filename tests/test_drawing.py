"""Drawn classes, the demo's digits, the counting task, and the embedded weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_classes import CLASSES, FILLED, TEXTURED, DrawnClasses, make_templates
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from paretune.drawn import digits as digits_module
from paretune.drawn.counting import MOST, counting
from paretune.drawn.digits import digits, linear_accuracy, load_scans, pixel_baseline, place_scans, split_rows
from paretune.drawn.drawing import ink_strokes

ASSET = Path(digits_module.__file__).parents[1] / "assets/paretune_tiny.safetensors"


def asset_metadata() -> dict[str, str]:
    """The texts stored beside the embedded weights."""
    with safe_open(ASSET, "pt") as file:
        return file.metadata()


@pytest.fixture(scope="module")
def templates():
    """The class shapes of seed 0."""
    return make_templates(0)


def test_same_seed_draws_the_same_and_another_seed_does_not():
    first, again, other = (DrawnClasses(seed).batch(16) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_template_seed_changes_the_shapes(templates):
    assert torch.equal(templates.strokes, make_templates(0).strokes)
    assert not torch.equal(templates.strokes, make_templates(1).strokes)


def test_batch_shapes_and_ranges():
    drawn = DrawnClasses(0).batch(64)
    assert drawn.images.shape == (64, 32, 32, 3)
    assert drawn.images.dtype == torch.uint8
    assert drawn.labels.dtype == torch.int64
    assert 0 <= drawn.labels.min() <= drawn.labels.max() < CLASSES
    assert drawn.pose.shape == (64, 4)
    assert drawn.pose.abs().max() < 1.5
    assert drawn.touched.shape == (64, 8, 8)


def test_every_class_leaves_visible_ink():
    drawn = DrawnClasses(0).batch(CLASSES, difficulty=0.0, labels=torch.arange(CLASSES))
    spread = drawn.images.float().mean(dim=-1).flatten(1).std(dim=1)
    assert spread.min() > 5
    assert drawn.touched.flatten(1).any(dim=1).all()
    assert drawn.touched[-TEXTURED:].all()


def test_classes_differ_when_easy_and_defeat_pixels_when_hard():
    labels = torch.arange(0, CLASSES - TEXTURED - FILLED, 45).repeat_interleave(15)
    source = DrawnClasses(5)
    accuracy = {}
    for difficulty in (0.0, 1.0):
        train, test = (source.batch(len(labels), difficulty, labels) for _ in range(2))
        pixels = [drawn.images[:, ::2, ::2].flatten(1).numpy() / 255.0 for drawn in (train, test)]
        accuracy[difficulty] = linear_accuracy(pixels[0], labels.numpy(), pixels[1], labels.numpy())
    chance = 1 / len(labels.unique())
    assert accuracy[0.0] > 1.5 * chance
    assert accuracy[1.0] < 0.5


def test_colour_does_not_tell_the_class():
    labels = torch.arange(0, 400, 40).repeat_interleave(40)
    drawn = DrawnClasses(6).batch(len(labels), labels=labels)
    colour = drawn.images.float().mean(dim=(1, 2)).view(10, 40, 3)
    assert colour.mean(dim=1).std(dim=0).max() < 0.6 * colour.std(dim=1).mean()


def test_stroke_ink_lies_on_the_stroke():
    x = torch.linspace(6, 26, 20)
    points = torch.stack([x, torch.full_like(x, 16.5)], dim=1).view(1, 1, 20, 2)
    ink = ink_strokes(points, torch.tensor([3.0]), torch.tensor([16.0]))[0]
    assert ink[16, 16] > 0.95
    assert ink[10].max() < 0.01
    assert (ink[:, 16] > 0.5).sum() == 3


def test_digits_form_and_determinism():
    data, again, other = digits(40, 30, seed=1), digits(40, 30, seed=1), digits(40, 30, seed=2)
    assert [part.shape for part in data] == [(40, 32, 32, 3), (40,), (30, 32, 32, 3), (30,)]
    assert [part.dtype for part in data] == [np.uint8, np.int64, np.uint8, np.int64]
    assert all(np.array_equal(a, b) for a, b in zip(data, again, strict=True))
    assert not np.array_equal(data[0], other[0])


def test_digits_split_is_disjoint_and_stratified():
    _, labels = load_scans()
    train, test = split_rows(labels, 1000, 797, seed=0)
    assert len(np.intersect1d(train, test)) == 0
    assert (len(np.unique(train)), len(np.unique(test))) == (1000, 797)
    for rows in (train, test):
        share = np.bincount(labels[rows]) / len(rows)
        assert np.abs(share - np.bincount(labels) / len(labels)).max() < 0.005


def test_digits_keep_the_handwriting_visible():
    scans, _ = load_scans()
    blank = np.zeros_like(scans[:50])
    rngs = [torch.Generator().manual_seed(0) for _ in range(2)]
    difference = np.abs(place_scans(rngs[0], scans[:50]).astype(int) - place_scans(rngs[1], blank)).max(axis=3)
    inked = (difference > 30).mean(axis=(1, 2))
    assert inked.min() > 0.02
    assert inked.max() < 0.6


@pytest.mark.parametrize("sizes", [(1000, 798), (5, 100)])
def test_digits_refuse_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="1797"):
        digits(*sizes)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"paretune\[demo\]"):
        digits(20, 20)


def test_clutter_defeats_pixels():
    accuracy = pixel_baseline(400, 300)
    assert accuracy["plain"] > 0.9
    assert accuracy["drawn"] < 0.3


def test_counting_form_and_determinism():
    data, again = counting(80, 40, seed=1), counting(80, 40, seed=1)
    assert [part.shape for part in data] == [(80, 32, 32, 3), (80,), (40, 32, 32, 3), (40,)]
    assert data[0].dtype == np.uint8
    assert np.bincount(data[1], minlength=MOST).tolist() == [10] * MOST
    assert all(np.array_equal(a, b) for a, b in zip(data, again, strict=True))
    assert not np.array_equal(data[0][:40], data[2])


def test_embedded_weights_fit_timm_strictly():
    metadata, weights = asset_metadata(), load_file(ASSET)
    assert ASSET.stat().st_size <= 6_000_000
    assert {value.dtype for value in weights.values()} == {torch.float16}
    network = VisionTransformer(**json.loads(metadata["architecture"]))
    network.load_state_dict(weights, strict=True)
    assert weights["head.weight"].shape[0] == CLASSES
    assert json.loads(metadata["mean"]) == json.loads(metadata["std"]) == [0.5, 0.5, 0.5]


def test_embedded_weights_recognise_drawn_classes():
    network = VisionTransformer(**json.loads(asset_metadata()["architecture"]))
    network.load_state_dict(load_file(ASSET))
    drawn = DrawnClasses(12345).batch(100, difficulty=0.5)
    with torch.inference_mode():
        logits = network.eval()(drawn.images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert (logits.argmax(1) == drawn.labels).float().mean() > 0.3
