"""The bytes of all tensors that a computation has made and not yet freed, after every operation."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(TorchDispatchMode):
    """Inside of the `with`, `course` gets the living bytes after every operation, those of the backward pass too.

    Tensors that were there before are not counted, nor is what an operation needs for itself while it runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.course: list[int] = []
        self.now = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, 0)  # made before the `with`, unless it is known
        answer = func(*args, **(kwargs or {}))
        for tensor in _tensors(answer):
            self._meet(tensor, tensor.untyped_storage().nbytes())
        self.course.append(self.now)
        return answer

    def _meet(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += size
            weakref.finalize(storage, self._part, storage._cdata, size)

    def _part(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


def extrapolated(two: list[int], three: list[int], count: int) -> int:
    """The peak for a batch of `count` images, from the courses for two images and for three.

    What lives after an operation grows evenly with the batch; one image alone may take other operations. Courses of
    different lengths are compared by their peaks.
    """
    if len(two) != len(three):
        two, three = [max(two)], [max(three)]
    return max(a + (count - 2) * (b - a) for a, b in zip(two, three, strict=True))


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))
