"""Where weights lie: in one file, or in several files as Hugging Face writes large models.

    FOLDER/model.safetensors.index.json        {"weight_map": {NAME OF A TENSOR: FILE, ...}, "metadata": {...}}
    FOLDER/model-00001-of-00002.safetensors    or pytorch_model.bin.index.json and pytorch_model-00001-of-00002.bin

The index names files beside itself, nothing else: a name with a folder in it is refused. Every tensor must be in the
file that the index says, and these files hold no other tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from paretune import formats
from paretune.errors import UsageError, plain, quoted
from paretune.schema import read

FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
INDEXES = tuple(f"{name}{INDEX}" for name in FILES)
MOST_FILES = 1000
ADVICE = "fetch the folder again"


def weights_file(place: Path) -> Path:
    """The file of weights at a place, the place itself or in its folder; the index if the weights are in several files.

    Raises UsageError where there is none.
    """
    if not place.is_dir():
        return place
    if found := next((place / name for name in (*FILES, *INDEXES) if (place / name).is_file()), None):
        return found
    raise UsageError(f"'{plain(place)}' is no folder of pretrained weights: it holds neither {' nor '.join(FILES)}")


def is_weights_folder(place: Path) -> bool:
    """Whether a folder holds weights, and not what paretune saved."""
    return any((place / name).is_file() for name in (*FILES, *INDEXES))


def bytes_of(place: Path) -> int:
    """The size of the files of weights at a place. Raises UsageError where there are none."""
    path = weights_file(place)
    if not path.is_file():
        raise UsageError(f"checkpoint '{plain(place)}' is missing: name a file or folder of weights")
    return sum(file.stat().st_size for file in (index_of(path) if is_index(path) else [path]))


def is_index(path: Path) -> bool:
    """Whether a file lists the files of a model."""
    return path.name.endswith(INDEX)


def index_of(path: Path) -> dict[Path, set[str]]:
    """The names of the tensors in every file of a model, by an index.

    Raises UsageError for an index that is damaged or names files elsewhere, and for files that are missing.
    """
    kind = Path(path.name.removesuffix(INDEX)).suffix  # of model.safetensors.index.json: .safetensors
    found: dict[Path, set[str]] = {}
    for name, file in read(path, formats.INDEX, ADVICE)["weight_map"].items():
        if Path(file).suffix != kind:
            raise UsageError(f"{plain(path)} names {quoted(file)}, which is no {kind} file; {ADVICE}")
        found.setdefault(path.parent / file, set()).add(name)
    if len(found) > MOST_FILES:
        raise UsageError(f"{plain(path)} names {len(found):,} files, more than {MOST_FILES:,}; {ADVICE}")
    if missing := sorted(file.name for file in found if not file.is_file()):
        raise UsageError(
            f"the weights in '{plain(path.parent)}' are incomplete: {quoted(missing[0])} is missing (and "
            f"{len(missing) - 1} more of {len(found)} files); {ADVICE}"
        )
    return found


def joined(files: dict[Path, set[str]], read_file: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all files. Raises UsageError for a file that holds others than the index says.

    files: the result of `index_of`; read_file: reads all tensors of one file
    """
    tensors: dict[str, Tensor] = {}
    for file, names in files.items():
        held = read_file(file)
        if other := sorted(held.keys() ^ names):
            does = "holds" if other[0] in held else "lacks"
            said = "does not list it there" if other[0] in held else "lists it there"
            raise UsageError(f"'{plain(file)}' {does} {quoted(other[0])}, the index {said}; {ADVICE}")
        tensors |= held
    return tensors
