"""Make an artefact and check it against torch. One of 8 bits that fails is made again with more layers in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from paretune.core.model import Adapted
from paretune.deploy import parity, quantise
from paretune.deploy.description import Description
from paretune.deploy.graph import program
from paretune.deploy.lint import lint
from paretune.deploy.parity import Pictures
from paretune.deploy.runtimes import in_batches, open_runtime
from paretune.deploy.writers import WRITERS, Made
from paretune.folding import merge


class Maker:
    """Makes the artefacts of one model in a temporary folder. `facts` becomes the description of the last one."""

    def __init__(
        self,
        model: Adapted,
        facts: Description,
        folder: Path,
        pictures: Pictures,
        target: str | None,
        tell: Callable[[str], object],
    ):
        self.model, self.facts, self.pictures, self.target, self.tell = model, facts, pictures, target, tell
        self.writer = WRITERS[facts.runtime](folder)
        self.sensitivities: dict[str, float] = {}

    def make(self) -> Made:
        """The artefact, checked; its description says whether it passed."""
        self.tell(f"exporting to {self.facts.runtime}, {self.facts.dtype}")
        graph = self._graph("model")
        made = self._rounded(graph) if self.facts.dtype == "int8" else self._checked(graph, "model")
        self.facts = replace(self.facts, verdict="failed" if made.failures else "passed")
        self.writer.describe(made, self.facts)
        return made

    def unreduced(self) -> Path | None:
        """The same artefact without the reducer; None for a model without one. Its answers are not checked."""
        if self.model.reducer is None:
            return None
        self.tell("exporting once more without the reducer, to compare times")
        graph = self._graph("unreduced", reduced=False)
        if self.facts.dtype == "int8":
            layers = [name for name in self.writer.layers(graph) if quantise.LAYER.match(name)]
            graph = self.writer.rounded(graph, layers, self.pictures.calibrate, "unreduced-int8")
        return self.writer.write(graph, self.facts, "unreduced").path

    def _graph(self, name: str, reduced: bool = True):
        typed = self.writer.typed(merge(self.model), self.facts.dtype)
        return self.writer.read(program(typed, self.facts.batch, reduced), name)

    def _rounded(self, graph) -> Made:
        """8 bits in as many layers as pass the check: the most sensitive ones leave first, twice as many every time."""
        self.tell("measuring which layers 8 bits disturb most")
        named = self.writer.layers(graph)
        possible = quantise.candidates(named, quantise.reducing_blocks(self.model, self.pictures.calibrate[:1]))
        choosing = [name for name in named if quantise.LAYER.match(name) and name not in possible]
        self.sensitivities = quantise.sensitivities(self.model, self.pictures.calibrate)
        worst = sorted(possible, key=lambda name: -self.sensitivities.get(name, 0.0))
        count = 0
        while True:
            layers = [name for name in possible if name not in worst[:count]]
            self.facts = replace(self.facts, kept_fp32=tuple(sorted([*choosing, *worst[:count]])))
            self.tell(f"8 bits in {len(layers)} of the blocks' {len(possible) + len(choosing)} layers")
            rounded = self.writer.rounded(graph, layers, self.pictures.calibrate, f"without-{count}")
            made = self._checked(rounded, f"int8-{count}")
            if not made.failures or 2 * count >= len(possible):
                return made
            count = max(2, 2 * count)

    def _checked(self, graph, name: str) -> Made:
        """The artefact of this graph, held against torch, and its operations against those that go wrong."""
        made = self.writer.write(graph, self.facts, name)
        self.tell(f"checking {len(self.pictures.check)} pictures against torch")
        least, most = self.facts.batch
        batches = [size for size in parity.BATCHES if least <= size <= most] or [least]
        made.precision, run = both(made)
        made.rows = parity.check(self.facts.task, self.model, run, self.pictures.check, batches)
        made.failures = parity.failures(made.rows, self.facts.dtype)
        if self.facts.runtime == "onnx":
            made.lint = lint(made.path, self.target, dynamic=least != most)
            made.failures += made.lint
        return made


def both(made: Made) -> tuple[str, parity.Run]:
    """The precision in force, and what runs the artefact for its outputs and its twin for the way of the patches."""
    artefact, with_groups = open_runtime(made.path), open_runtime(made.with_groups)

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        return in_batches(artefact, images)[0], in_batches(with_groups, images)[1]

    return artefact.precision, run
