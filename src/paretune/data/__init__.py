"""Data sets of all formats, and the transforms that a backbone expects."""

from paretune.data.arrays import ImageArrays
from paretune.data.dataset import Images
from paretune.data.images import UnreadableImage, open_image
from paretune.data.opening import available_splits, open_split, open_splits
from paretune.data.splitting import Splits
from paretune.data.vtab import vtab_task

__all__ = [
    "ImageArrays",
    "Images",
    "Splits",
    "UnreadableImage",
    "available_splits",
    "open_image",
    "open_split",
    "open_splits",
    "vtab_task",
]
