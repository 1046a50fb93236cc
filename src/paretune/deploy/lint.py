"""Operations that runtimes have been seen to compute wrong, or whose shapes depend on the picture.

Everything here exports without an error. That is why it is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paretune.deploy.runtimes import needed
from paretune.errors import unknown

TARGETS = ("onnx", "tensorrt")
DATA_DEPENDENT = {
    "NonZero": "the number of its results depends on the picture",
    "Loop": "it runs as often as the picture says",
    "If": "it takes one way or the other, by the picture",
    "Unique": "the number of its results depends on the picture",
    "GridSample": "runtimes sample differently at the edges",
    "NonMaxSuppression": "the number of its results depends on the picture",
}
TENSORRT = {
    "ScatterElements": "TensorRT has ignored repeated indices without an error",
    "ScatterND": "TensorRT has ignored repeated indices without an error",
    "TopK": "TensorRT breaks ties in another order",
    "Compress": "the number of its results depends on the picture",
}


def lint(path: Path, target: str | None = None, dynamic: bool = True) -> list[str]:
    """What is wrong with the operations of an ONNX file, in words; empty if nothing is.

    target: "onnx", or "tensorrt", which forbids scatters and TopK too. dynamic: the batch must not be baked in. Raises
    UsageError for an unknown target.
    """
    if target is not None and target not in TARGETS:
        raise unknown("target", target, list(TARGETS))
    model = needed("onnx").load(path, load_external_data=False)
    forbidden = DATA_DEPENDENT | (TENSORRT if target == "tensorrt" else {})
    found = sorted({f"{node.op_type}: {forbidden[node.op_type]}" for node in _nodes(model.graph)
                    if node.op_type in forbidden})  # fmt: skip
    found += _reductions(model.graph)
    found += _counts(model.graph)
    return found + (_baked(model.graph) if dynamic else [])


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _reductions(graph: Any) -> list[str]:
    """Scatters that reduce: a mean becomes a plain assignment on the way to ONNX, and gives wrong numbers."""
    named = {attribute.s.decode() for node in _nodes(graph) if node.op_type.startswith("Scatter")
             for attribute in node.attribute if attribute.name == "reduction"}  # fmt: skip
    return [f"Scatter with reduction {name}: sum and divide instead" for name in sorted(named - {"none", "add"})]


def _counts(graph: Any) -> list[str]:
    """TopK with a number of results that depends on the values of the picture, not just on shapes."""
    makers = {name: node for node in _nodes(graph) for name in node.output}
    inputs = {one.name for one in graph.input}

    def from_values(name: str) -> bool:
        if name in inputs:
            return True
        node = makers.get(name)
        return node is not None and node.op_type != "Shape" and any(map(from_values, node.input))

    computed = [node for node in _nodes(graph) if node.op_type == "TopK" and from_values(node.input[1])]
    return ["TopK: its number of results depends on the picture"] if computed else []


def _baked(graph: Any) -> list[str]:
    """A batch that should be free and is a number."""
    parts = [*graph.input, *graph.output]
    fixed = [one.name for one in parts if not one.type.tensor_type.shape.dim[0].dim_param]
    return [f"the batch of {', '.join(fixed)} is baked in"] if fixed else []
