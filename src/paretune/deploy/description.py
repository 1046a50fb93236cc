"""The facts that travel inside an artefact, as one JSON text: what it needs, what it answers, and where it came from.

ONNX keeps the text in its metadata, OpenVINO in `rt_info`, a torch program in an extra file; always as `paretune`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from paretune import formats
from paretune.errors import UsageError
from paretune.schema import parse, verify

KEY = "paretune"
FORMAT = 1
ADVICE = "export the model again"


@dataclass(frozen=True)
class Description:
    """What an artefact says about itself.

    runtime: "onnx", "openvino" or "torch"; dtype: "fp32", "bf16" or "int8"
    task: as of the model; names: one per output, in order; deviation: of the training targets, for a regression
    preprocessing: timm's entries, see `data.preprocess`
    temperature: divides the logits before they become probabilities
    batch: the fewest and the most images that the graph takes at once
    tokens: (in attention, in the MLP) of every block, prefix included
    methods: adapters and reducer as JSON; backbone: its name
    fingerprint: of the frozen tensors; trained: of the trained ones
    kept_fp32: layers of an int8 artefact whose weights stayed in float32
    verdict: of the parity check: "passed", "failed" or "unchecked"
    versions: of the packages that wrote it
    """

    runtime: str
    dtype: str
    task: str
    names: tuple[str, ...]
    preprocessing: dict[str, Any]
    batch: tuple[int, int]
    tokens: tuple[tuple[int, int], ...]
    methods: dict[str, Any]
    backbone: str | None
    fingerprint: str
    trained: str
    versions: dict[str, str]
    temperature: float = 1.0
    deviation: tuple[float, ...] | None = None
    kept_fp32: tuple[str, ...] = ()
    verdict: str = "unchecked"

    @property
    def side(self) -> tuple[int, int]:
        """(height, width) of the input."""
        _, height, width = self.preprocessing["input_size"]
        return height, width

    def to_text(self) -> str:
        """The JSON text that an artefact carries."""
        return json.dumps({"kind": "artefact", "format": FORMAT, **asdict(self)})

    @classmethod
    def from_text(cls, text: str | None, where: str) -> Description:
        """Read the text of an artefact. Raises UsageError, which begins with `where`, if it is missing or not sound."""
        if not text:
            raise UsageError(f"{where} was not written by `paretune export`: it does not say what it needs and answers")
        value = parse(text, f"the description in {where}", ADVICE)
        verify(value, formats.ARTEFACT, f"the description in {where}", ADVICE)
        known = {key: _frozen(one) for key, one in value.items() if key not in ("kind", "format")}
        return cls(**known)


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
