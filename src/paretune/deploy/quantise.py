"""Eight bits for the frozen linears; float32 for all that is small, sensitive, or chooses tokens.

    8 bits    qkv, proj, fc1, fc2 of the blocks: weights per output channel; activations by the range of each tensor,
              measured when it runs (ONNX Runtime) or beforehand on calibration pictures (NNCF for OpenVINO)
    float32   norms, softmax, embedding, head, adapters; the linear that makes the keys and queries of every block that
              reduces; and the layers whose rounding disturbs the answers most

Which layers disturb most is measured: every layer alone is rounded in torch, by the rule of ONNX Runtime, and the
change of the outputs on calibration pictures is recorded.
"""

from __future__ import annotations

import copy
import io
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core import anatomy
from paretune.core.body import Body
from paretune.core.leaf import Leaf
from paretune.core.model import Adapted
from paretune.core.tokens import Tokens
from paretune.deploy.runtimes import needed

LAYER = re.compile(r"blocks\.\d+\.(attn|mlp)\.")  # of the backbone, as the graph names them
KEYS = re.compile(r"blocks\.(\d+)\.attn\.(qkv|q|k|q_proj|k_proj)")
LINEARS = ("q", "k", "v", "proj", "fc1", "fc1_g", "fc1_x", "fc2")


class Rounded(Leaf):
    """A linear with weights of 8 bits per output channel and activations of 8 bits per tensor, if `on`."""

    def __init__(self):
        super().__init__()
        self.on = False

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not self.on:
            return layer(x)
        assert isinstance(layer, nn.Linear)
        step = layer.weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        weight = (layer.weight / step).round() * step
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        grid = ((high - low) / 255).clamp(min=1e-12)
        return F.linear((x / grid).round() * grid, weight, layer.bias)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight, bias


@torch.inference_mode()
def sensitivities(model: Adapted, images: np.ndarray) -> dict[str, float]:
    """{layer: mean relative change of the outputs if this layer alone has 8 bits}, for every linear of the blocks.

    images: (n, 3, H, W) prepared. Blocks before the layer are computed once.
    """
    model = copy.deepcopy(model).eval()
    body = Body(model.backbone, model.branches)
    seen: dict[int, tuple[int, str, Rounded]] = {}
    for spot in list(body.layers(" ".join(name for name in LINEARS if name in body.shape.layers))):
        if spot.block is not None and isinstance(spot.layer, nn.Linear) and id(spot.layer) not in seen:
            leaf = Rounded()
            seen[id(spot.layer)] = (spot.block, name_of(model, spot.layer), leaf)
            spot.put(leaf)
    before = entering(model, torch.from_numpy(images))
    plain = model.finish(0, before[0]).logits
    scale = plain.abs().amax(1).clamp(min=1e-12)
    found = {}
    for block, name, leaf in seen.values():
        leaf.on = True
        change = (model.finish(block, before[block]).logits - plain).abs().amax(1) / scale
        leaf.on = False
        found[name] = change.mean().item()
    return found


def name_of(model: Adapted, layer: nn.Module) -> str:
    """The name of a layer below the backbone, as the graph has it."""
    return next(name for name, module in model.backbone.named_modules() if module is layer)


def entering(model: Adapted, images: Tensor) -> list[Tokens]:
    """The tokens that enter every block."""
    tokens, found = anatomy.embed(model.backbone, images), []
    for i in range(len(model.backbone.blocks)):
        found.append(tokens)
        tokens = model.step(i, tokens, model.reducer)
    return found


@torch.inference_mode()
def reducing_blocks(model: Adapted, image: np.ndarray) -> set[int]:
    """The blocks whose queries and keys choose tokens, seen on one prepared image (1, 3, H, W)."""
    return {step.block for step in model.run(torch.from_numpy(image)).tokens.trail if step.when == "middle"}


def chooses(name: str, blocks: Collection[int]) -> bool:
    """Whether this layer makes the keys or queries of one of the blocks."""
    found = KEYS.match(name)
    return found is not None and int(found[1]) in blocks


def candidates(names: Sequence[str], blocks: Collection[int]) -> list[str]:
    """The layers that may have 8 bits; `blocks` choose tokens."""
    return [name for name in names if LAYER.match(name) and not chooses(name, blocks)]


def layers_of(path: Path) -> list[str]:
    """The named matrix products with constant weights of an ONNX file."""
    graph = needed("onnx").load(path, load_external_data=False).graph
    constants = {one.name for one in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and set(node.input) & constants]


def quantise_onnx(source: Path, out: Path, layers: Sequence[str]) -> None:
    """Write the ONNX file with weights of 8 bits in these layers, and activations rounded when it runs."""
    needed("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _silent():
        quantize_dynamic(
            source, out, op_types_to_quantize=["MatMul"], nodes_to_quantize=list(layers), per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip


def quantise_openvino(model, layers: Sequence[str], images: np.ndarray):
    """The OpenVINO model with 8 bits in `layers`, their ranges measured on images (n, 3, H, W)."""
    nncf = needed("nncf")
    inside = set(layers)
    named = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() in ("MatMul", "Convolution")]
    ignored = [name for name in named if name not in inside]
    with _silent():
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without progress bars, which would go to stdout where a command prints JSON, and without advice to developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
