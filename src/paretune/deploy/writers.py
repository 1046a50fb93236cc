"""Write a program of torch as the files of a runtime. Each runtime is one class.

Made.path          what is shipped: images -> outputs
Made.with_groups   the same that also tells the way of every patch: what the check looks at
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from paretune.core.model import Adapted
from paretune.deploy import quantise
from paretune.deploy.description import KEY, Description
from paretune.deploy.graph import save_onnx, without_groups, write_onnx
from paretune.deploy.parity import Agreement
from paretune.deploy.runtimes import FILES, needed
from paretune.errors import UsageError


@dataclass
class Made:
    """An artefact in a temporary folder, the same with the output `groups`, and what the check said of it."""

    path: Path
    with_groups: Path
    rows: list[Agreement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lint: list[str] = field(default_factory=list)
    precision: str = ""

    def files(self) -> list[Path]:
        """The files of the artefact."""
        return sorted(file for file in self.path.parent.iterdir() if file.stem == self.path.stem)


class Writer(ABC):
    """Writes artefacts of one runtime into sub-folders of `folder`."""

    needs: tuple[str, ...] = ()

    def __init__(self, folder: Path):
        self.folder = folder

    def typed(self, model: Adapted, dtype: str) -> Adapted:
        """The model in the number type in which it is traced."""
        return model

    def read(self, program: ExportedProgram, name: str) -> Any:
        """What `write` and `rounded` take: the program in the runtime's own form."""
        return program

    @abstractmethod
    def write(self, graph: Any, facts: Description, name: str) -> Made:
        """The artefact in the sub-folder `name`."""

    def layers(self, graph: Any) -> list[str]:
        """The names of the linears of the graph."""
        raise UsageError("this runtime has no 8 bits")

    def rounded(self, graph: Any, layers: Sequence[str], images: np.ndarray, name: str) -> Any:
        """The graph with 8 bits in these layers; images (n, 3, H, W) to calibrate with."""
        raise UsageError("this runtime has no 8 bits")

    @abstractmethod
    def describe(self, made: Made, facts: Description) -> None:
        """Replace the description inside the artefact."""

    def _places(self, name: str, file: str) -> tuple[Path, Path]:
        groups = self.folder / name / "groups"
        groups.mkdir(parents=True)
        return self.folder / name / file, groups / file


class Onnx(Writer):
    """model.onnx; a graph is the path of an ONNX file."""

    needs = ("onnx", "onnxscript", "onnxruntime")

    def read(self, program: ExportedProgram, name: str) -> Path:
        path = self.folder / f"{name}-graph.onnx"
        write_onnx(program, path)
        return path

    def write(self, graph: Path, facts: Description, name: str) -> Made:
        onnx = needed("onnx")
        path, groups = self._places(name, FILES["onnx"])
        told = {KEY: facts.to_text()}
        without_groups(graph, path, told)
        model = onnx.load(graph)
        onnx.helper.set_model_props(model, told)
        save_onnx(model, groups)
        return Made(path, groups)

    def layers(self, graph: Path) -> list[str]:
        return quantise.layers_of(graph)

    def rounded(self, graph: Path, layers: Sequence[str], images: np.ndarray, name: str) -> Path:
        out = self.folder / f"{name}-graph.onnx"
        quantise.quantise_onnx(graph, out, layers)
        return out

    def describe(self, made: Made, facts: Description) -> None:
        onnx = needed("onnx")
        model = onnx.load(made.path)
        onnx.helper.set_model_props(model, {KEY: facts.to_text()})
        for file in made.files():
            file.unlink()
        save_onnx(model, made.path)


class OpenVino(Writer):
    """model.xml and model.bin; a graph is an `openvino.Model`, read from an ONNX file."""

    needs = ("onnx", "onnxscript", "openvino")

    def read(self, program: ExportedProgram, name: str) -> Any:
        return needed("openvino").convert_model(Onnx(self.folder).read(program, name))

    def write(self, graph: Any, facts: Description, name: str) -> Made:
        ov = needed("openvino")
        path, groups = self._places(name, FILES["openvino"])
        plain = ov.Model([graph.output(0)], graph.get_parameters(), "paretune")
        for model, file in ((graph, groups), (plain, path)):
            model.set_rt_info(facts.to_text(), KEY)
            ov.save_model(model, file, compress_to_fp16=False)
        return Made(path, groups)

    def layers(self, graph: Any) -> list[str]:
        return [op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() == "MatMul"]

    def rounded(self, graph: Any, layers: Sequence[str], images: np.ndarray, name: str) -> Any:
        return quantise.quantise_openvino(graph, layers, images)

    def describe(self, made: Made, facts: Description) -> None:
        ov = needed("openvino")
        model, new = ov.Core().read_model(made.path), made.path.with_name("new.xml")
        model.set_rt_info(facts.to_text(), KEY)
        ov.save_model(model, new, compress_to_fp16=False)
        del model  # it maps the file that is replaced
        for ending in (".bin", ".xml"):
            os.replace(new.with_suffix(ending), made.path.with_suffix(ending))


class Torch(Writer):
    """model.pt2; a graph is a program of `torch.export`."""

    def typed(self, model: Adapted, dtype: str) -> Adapted:
        return model.bfloat16() if dtype == "bf16" else model

    def write(self, graph: ExportedProgram, facts: Description, name: str) -> Made:
        path, _ = self._places(name, FILES["torch"])
        torch.export.save(graph, path, extra_files={KEY: facts.to_text()})
        return Made(path, path)

    def describe(self, made: Made, facts: Description) -> None:
        program = torch.export.load(made.path)
        torch.export.save(program, made.path, extra_files={KEY: facts.to_text()})


WRITERS: dict[str, type[Writer]] = {"onnx": Onnx, "openvino": OpenVino, "torch": Torch}
