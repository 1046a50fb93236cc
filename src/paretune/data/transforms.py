"""Turn an RGB picture into a normalised tensor (3, H, W), with the preprocessing of the backbone.

`preprocessing` is the result of timm's `resolve_model_data_config`: input_size (3, H, W), mean, std, interpolation,
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

    none: the whole picture, resized to (H, W) without keeping its aspect ratio: VTAB-1K's protocol, as in both papers
    flip: the same, mirrored with probability 1/2
    crop: a random 8-100 % of the area with a random aspect ratio (Inception's crop), mirrored with probability 1/2
    """
    config = {k: v for k, v in preprocessing.items() if k in ("input_size", "mean", "std", "interpolation")}
    if augment == "crop":
        return _made(**config, is_training=True, color_jitter=None)
    if augment not in AUGMENTATIONS:
        raise unknown("augment", augment, list(AUGMENTATIONS))
    squash = _made(**config, is_training=True, no_aug=True)
    return Compose([squash, RandomHorizontalFlip()]) if augment == "flip" else squash


def framing(preprocessing: dict, augment: str) -> dict:
    """The preprocessing for evaluation after a training with `augment`.

    After training on whole pictures (none, flip), evaluation uses whole pictures too, resized to (H, W) as in VTAB-1K.
    After random crops, it uses the backbone's own resize and centre crop.
    """
    return preprocessing if augment == "crop" else {**preprocessing, "crop_pct": 1.0, "crop_mode": "squash"}


def evaluation(preprocessing: dict) -> Callable:
    """timm's evaluation transform: resize by `crop_pct`, crop by `crop_mode`, nothing random."""
    return _made(**preprocessing, is_training=False)


def _made(**options: Any) -> Callable:
    """timm's transform. timm returns a tuple only if it is asked for separate steps."""
    made = create_transform(**options)
    assert not isinstance(made, tuple)
    return made
