"""Images in: folders, arrays, and the transforms that a backbone expects."""

from paretune.data.arrays import ImageArrays
from paretune.data.folder import ImageFolder, read_folder, read_split
from paretune.data.images import UnreadableImage, open_image

__all__ = ["ImageArrays", "ImageFolder", "UnreadableImage", "open_image", "read_folder", "read_split"]
