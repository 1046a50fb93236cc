"""A model repository for NVIDIA's Triton server: FOLDER/config.pbtxt and FOLDER/1/model.onnx."""

from __future__ import annotations

from pathlib import Path

from paretune.deploy.description import Description
from paretune.deploy.graph import IMAGES, OUTPUTS

QUEUE = 2000  # microseconds that a request waits for others


def config(name: str, facts: Description) -> str:
    """The text of config.pbtxt: one input of pixels that are prepared already, one output, batches formed by Triton.

    A graph of one fixed batch gets no batching: its first dimension is then part of the shapes.
    """
    least, most = facts.batch
    fixed = least == most
    front = [most] if fixed else []
    size = front + list(facts.preprocessing["input_size"])
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if fixed else most}",
        _tensor("input", IMAGES, size),
        _tensor("output", OUTPUTS, [*front, len(facts.names)]),
    ]
    if not fixed:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE} }}")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dims: list[int]) -> str:
    shape = ", ".join(map(str, dims))
    return f'{kind} [\n  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {shape} ] }}\n]'


def arrange(folder: Path, name: str, facts: Description) -> None:
    """Turn the folder of an ONNX artefact into the model `name` of a repository."""
    version = folder / "1"
    version.mkdir()
    for file in [one for one in folder.iterdir() if one.stem == "model"]:
        file.replace(version / file.name)
    (folder / "config.pbtxt").write_text(config(name, facts), encoding="utf-8")
