"""From an RGB picture to the numbers (3, H, W) that a model takes, with Pillow and numpy alone.

`data.transforms.evaluation` does the same with timm and torchvision, for models in torch. This file serves artefacts,
which run where there is no torch; `tests/test_preprocess.py` proves that both give equal numbers.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (width, height), as Pillow counts
METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


def prepared(image: Image.Image, preprocessing: dict) -> np.ndarray:
    """The picture resized, cropped or padded, and normalised: (3, H, W) float32.

    `preprocessing` has timm's entries: input_size (3, H, W), interpolation, crop_pct, crop_mode (center, squash,
    border), mean and std. `image` is an RGB picture, as `data.images.open_image` gives.
    """
    _, height, width = preprocessing["input_size"]
    mode, share = preprocessing["crop_mode"], preprocessing["crop_pct"]
    target = math.floor(width / share), math.floor(height / share)
    image = thicker(image, min(height, width)) if mode == "border" else image
    size = {"squash": lambda _, target: target, "border": _inside}.get(mode, _around)(image.size, target)
    fill = tuple(round(255 * value) for value in preprocessing["mean"]) if mode == "border" else (0, 0, 0)
    image = image if image.size == size else image.resize(size, METHODS[preprocessing["interpolation"]])
    values = np.asarray(_centre(image, (width, height), fill), dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.asarray(preprocessing[key], np.float32)[:, None, None] for key in ("mean", "std"))
    return np.ascontiguousarray((values - mean) / std)


def thicker(image: Image.Image, most: int) -> Image.Image:
    """A picture that is more than `most` times as long as wide is stretched until it is not: it would have no pixel in
    width after its longer side was made as short as the input."""
    least = -(-max(image.size) // most)
    width, height = (max(side, least) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height))


def _around(size: Size, target: Size) -> Size:
    """The smallest size of the same shape that covers the target."""
    if target[0] == target[1]:  # torchvision's rule, which rounds down
        short, long = sorted(size)
        longer = int(target[0] * long / short)
        return (target[0], longer) if size[0] <= size[1] else (longer, target[0])
    ratio = min(one / other for one, other in zip(size, target, strict=True))
    return round(size[0] / ratio), round(size[1] / ratio)


def _inside(size: Size, target: Size) -> Size:
    """The largest size of the same shape that fits into the target."""
    ratio = max(one / other for one, other in zip(size, target, strict=True))
    return round(size[0] / ratio), round(size[1] / ratio)


def _centre(image: Image.Image, size: Size, fill: tuple[int, ...]) -> Image.Image:
    """The middle of the picture; what it lacks is filled with one colour."""
    padded = max(image.width, size[0]), max(image.height, size[1])
    if padded != image.size:
        whole = Image.new("RGB", padded, fill)
        whole.paste(image, ((padded[0] - image.width) // 2, (padded[1] - image.height) // 2))
        image = whole
    left, top = (round((one - other) / 2) for one, other in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))
