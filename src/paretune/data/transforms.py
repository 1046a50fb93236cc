"""From an RGB picture to a normalised tensor (3, H, W), by the backbone's own preprocessing.

`preprocessing` is what timm's `resolve_model_data_config` gives: input_size (3, H, W), mean, std, interpolation,
crop_pct, crop_mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data import create_transform
from torchvision.transforms import Compose, RandomHorizontalFlip

from paretune.errors import unknown

AUGMENTATIONS = ("none", "flip", "crop")


def training(preprocessing: dict, augment: str = "none") -> Callable:
    """The training transform.

    none: the whole picture resized to (H, W), its aspect ratio given up: VTAB-1K's protocol, on which both papers train
    flip: the same, mirrored half of the time
    crop: a random 8-100 % of the area at a random aspect ratio (Inception's crop), mirrored half of the time
    """
    config = {k: v for k, v in preprocessing.items() if k in ("input_size", "mean", "std", "interpolation")}
    if augment == "crop":
        return _made(**config, is_training=True, color_jitter=None)
    if augment not in AUGMENTATIONS:
        raise unknown("augment", augment, list(AUGMENTATIONS))
    squash = _made(**config, is_training=True, no_aug=True)
    return Compose([squash, RandomHorizontalFlip()]) if augment == "flip" else squash


def framing(preprocessing: dict, augment: str) -> dict:
    """The preprocessing for pictures that a model meets after such a training.

    Where it was trained on whole pictures (none, flip), it is evaluated on whole ones too, resized to (H, W) as VTAB-1K
    does; after random crops the backbone's own resize and centre crop stand.
    """
    return preprocessing if augment == "crop" else {**preprocessing, "crop_pct": 1.0, "crop_mode": "squash"}


def evaluation(preprocessing: dict) -> Callable:
    """timm's evaluation transform: resize by `crop_pct`, crop by `crop_mode`, no randomness."""
    return _made(**preprocessing, is_training=False)


def _made(**options: Any) -> Callable:
    """timm's transform; it comes in pieces only if these are asked for."""
    made = create_transform(**options)
    assert not isinstance(made, tuple)
    return made
