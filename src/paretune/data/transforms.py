"""Turn an RGB picture into a normalised tensor (3, H, W), with the preprocessing of the backbone.

`preprocessing` is the result of timm's `resolve_model_data_config`: input_size (3, H, W), mean, std, interpolation,
crop_pct, crop_mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from timm.data import create_transform
from torchvision.transforms import Compose, RandomHorizontalFlip

from paretune.data.preprocess import thicker
from paretune.errors import unknown

AUGMENTATIONS = ("none", "flip", "crop", "randaugment")
CROPPING = ("crop", "randaugment")  # those that train on random parts of a picture
CROPS = {"squash": "squash", "fit": "center", "pad": "border"}
"""How a picture becomes as wide and as high as the input, and timm's word for it."""
RANDAUGMENT = "rand-m9-n2-mstd0.5-inc1"  # timm's usual one: two random changes, stronger with the number 9 of 10


def training(preprocessing: dict, augment: str = "none", crop: str | None = None) -> Callable:
    """The training transform.

    none: the picture as in evaluation; by default the whole picture, resized to (H, W) without keeping its aspect
        ratio: VTAB-1K's protocol, as in both papers
    flip: the same, mirrored with probability 1/2
    crop: a random 8-100 % of the area with a random aspect ratio (Inception's crop), mirrored with probability 1/2
    randaugment: the same, then two random changes of colour, contrast, angle and the like
    """
    config = {k: v for k, v in preprocessing.items() if k in ("input_size", "mean", "std", "interpolation")}
    if augment not in AUGMENTATIONS:
        raise unknown("augment", augment, list(AUGMENTATIONS))
    if augment in CROPPING:
        changes = RANDAUGMENT if augment == "randaugment" else None
        return _made(**config, is_training=True, color_jitter=None, auto_augment=changes)
    if crop is None:
        still = _made(**config, is_training=True, no_aug=True)
    else:
        still = evaluation(framing(preprocessing, augment, crop))
    return Compose([still, RandomHorizontalFlip()]) if augment == "flip" else still


def framing(preprocessing: dict, augment: str, crop: str | None = None) -> dict:
    """The preprocessing for evaluation after a training with `augment`.

    crop: squash resizes both sides, fit resizes the shorter side and cuts off the rest of the longer one, pad resizes
        the longer side and fills the rest with the mean colour

    Without `crop`: after training on whole pictures (none, flip), evaluation uses whole pictures too, resized to (H, W)
    as in VTAB-1K. After random crops, it uses the backbone's own resize and centre crop. Raises UsageError for an
    unknown `crop`.
    """
    if crop is None and augment in CROPPING:
        return preprocessing
    if crop is not None and crop not in CROPS:
        raise unknown("crop", crop, list(CROPS))
    return {**preprocessing, "crop_pct": 1.0, "crop_mode": CROPS[crop or "squash"]}


def evaluation(preprocessing: dict) -> Callable:
    """timm's evaluation transform: resize by `crop_pct`, crop by `crop_mode`, nothing random."""
    made = _made(**preprocessing, is_training=False)
    if preprocessing.get("crop_mode") != "border":
        return made
    return Compose([Thicker(min(preprocessing["input_size"][1:])), made])


class Thicker:
    """The step `data.preprocess.thicker`."""

    def __init__(self, most: int):
        self.most = most

    def __call__(self, picture: Image.Image) -> Image.Image:
        return thicker(picture, self.most)

    def __repr__(self) -> str:
        return f"Thicker({self.most})"


def _made(**options: Any) -> Callable:
    """timm's transform. timm returns a tuple only if it is asked for separate steps."""
    made = create_transform(**options)
    assert not isinstance(made, tuple)
    return made
