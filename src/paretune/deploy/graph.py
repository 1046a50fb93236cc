"""From a model in torch to a graph: one export with the logits and, for the checks, the way of every patch."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from paretune.core.model import Adapted
from paretune.deploy.runtimes import needed
from paretune.errors import UsageError

IMAGES, OUTPUTS, GROUPS = "images", "outputs", "groups"
INSIDE_FILE = 1_800_000_000  # bytes of weights; a protobuf file ends at 2 GiB
SCOPES = "pkg.torch.onnx.name_scopes"


class Traced(nn.Module):
    """Images (B, 3, H, W) -> outputs (B, C) and `groups` (B, rows * columns): where every patch went, -1 = dropped."""

    def __init__(self, model: Adapted, reduced: bool = True):
        super().__init__()
        self.model, self.reduced = model, reduced
        self.number = next(model.parameters()).dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        run = self.model.run(images.to(self.number), self.reduced)
        return run.logits.float(), run.tokens.groups()


def program(model: Adapted, batch: tuple[int, int], reduced: bool = True) -> ExportedProgram:
    """The model, merged and in evaluation mode, as a program of `torch.export` with a batch from `batch` on.

    reduced=False leaves the reducer out. Raises UsageError for models whose shapes depend on the data.
    """
    least, most = batch
    examples = least if least == most else min(max(2, least), most)
    images = torch.zeros(examples, *model.preprocessing["input_size"])
    dims = None if least == most else ({0: Dim("batch", min=least, max=most)},)
    traced = Traced(model, reduced).eval()
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(traced, (images,), dynamic_shapes=dims)
    except Exception as error:  # of many kinds, all of them private
        raise UsageError(
            f"this model cannot be exported: {str(error).splitlines()[0][:150]}; a method must keep its shapes fixed "
            "in evaluation mode"
        ) from error


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write the program as an ONNX file whose outputs are OUTPUTS and GROUPS.

    The matrix products of layers get the layers' names, and everything that the exporter adds about the source code is
    removed: it would tell paths of this machine.
    """
    needed("onnxscript")
    onnx = needed("onnx")
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, external_data=False, input_names=[IMAGES],
            output_names=[OUTPUTS, GROUPS],
        )  # fmt: skip
        assert made is not None, "with dynamo=True there is a program"
        model = made.model_proto
    name_layers(model)
    onnx.checker.check_model(model)
    save_onnx(model, path)


def name_layers(model: Any) -> None:
    """Name the matrix products of layers after them, in place, and remove what the exporter tells of the source."""
    constants = {one.name for one in model.graph.initializer}
    taken: set[str] = set()
    for node in model.graph.node:
        facts = {entry.key: entry.value for entry in node.metadata_props}
        if node.op_type in ("MatMul", "Gemm", "Conv") and SCOPES in facts and set(node.input) & constants:
            name = layer_name(ast.literal_eval(facts[SCOPES]))
            if name and name not in taken:
                node.name = name
                taken.add(name)
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (*model.graph.initializer, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""


def layer_name(scopes: list[str]) -> str:
    """The innermost module of the exporter's scopes: "blocks.3.attn.qkv", "branches.0.blocks.3.up"."""
    inner = [scope for scope in scopes if scope.startswith("model.")]
    return inner[-1].removeprefix("model.").removeprefix("backbone.") if inner else ""


def save_onnx(model: Any, path: Path) -> None:
    """Write an ONNX model; weights beyond 2 GiB go to a second file beside it."""
    onnx = needed("onnx")
    large = model.ByteSize() > INSIDE_FILE
    onnx.save(model, path, save_as_external_data=large, location=f"{path.stem}.weights" if large else None)


def without_groups(path: Path, out: Path, facts: dict[str, str]) -> None:
    """Copy an ONNX file without the output GROUPS and all that only it needs; `facts` become its metadata."""
    onnx = needed("onnx")
    model = onnx.load(path)
    graph = model.graph
    kept = [one for one in graph.output if one.name != GROUPS]
    del graph.output[:]
    graph.output.extend(kept)
    wanted, nodes = {one.name for one in kept}, []
    for node in reversed(graph.node):  # they are in topological order
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input) | _read_inside(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    for field in (graph.initializer, graph.value_info):
        alive = [one for one in field if one.name in wanted]
        del field[:]
        field.extend(alive)
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    save_onnx(model, out)


def _read_inside(node: Any) -> set[str]:
    """What the sub-graphs of a node read, such as those of If."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inner = [one for graph in graphs for one in graph.node]
    return {name for one in inner for name in (*one.input, *_read_inside(one))}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about their own future."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        yield
