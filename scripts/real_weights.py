"""The encoder of DINOv2 ViT-S/14, taken out of an ONNX file into safetensors with timm's names.

The export kept the names of biases, norms and scales, but made the weight of every linear an anonymous constant, stored
transposed. What a product is added to says which linear it belongs to.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from onnx import ModelProto, numpy_helper
from PIL import Image
from torch import Tensor

from paretune.checkpoint import fingerprint
from paretune.files import written
from paretune.pretrained import FAMILIES, mapped
from paretune.tensorfile import write_tensors

MODEL = "vit_small_patch14_dinov2"
HASH = "ad26dfc959fc5e347cd9d681e220b5f31b1ef8ac79fe85951d9658ea8bfcd097"
ENCODED = "/backbone/layernorm/Add_1_output_0"  # what the encoder hands on, in the ONNX file


def convert(source: Path, target: Path) -> dict[str, Tensor]:
    """Write the encoder in `source` to `target`, every tensor matched by timm's model, and return its tensors."""
    tensors = to_timm(named(onnx.load(source)), source)
    timm.create_model(MODEL).load_state_dict(tensors, strict=True)
    with written(target) as path:
        write_tensors(tensors, path, {"format": "pt", "model": MODEL})
    return tensors


def named(model: ModelProto, prefix: str = "backbone.") -> dict[str, np.ndarray]:
    """The tensors below `prefix` by their full names: the constants of products and of positions have found theirs."""
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    products = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        bias = next((name for name in node.input if name.startswith(prefix) and name.endswith(".bias")), None)
        product = next((name for name in node.input if name in products), None)
        if node.op_type == "Add" and bias and product:
            weight = bias.removeprefix(prefix).removesuffix("bias") + "weight"
            found[weight] = arrays[products[product]].T
    own = [arrays[name] for name in arrays if re.match(r"onnx::(Concat|Reshape)_", name)]  # of CLS, of the patches
    found["embeddings.position_embeddings"] = np.concatenate(own, axis=1)
    return found


def to_timm(arrays: dict[str, np.ndarray], source: Path) -> dict[str, Tensor]:
    """The same tensors by timm's names. Raises UsageError for one that DINOv2 does not have."""
    tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
    family = next(one for one in FAMILIES if one.title == "DINOv2")
    return {name: tensor.contiguous() for name, tensor in mapped(tensors, family, source).items()}


def check(tensors: dict[str, Tensor], expected: str = HASH) -> None:
    """End with a sentence unless the tensors are the known ones."""
    if (found := fingerprint(tensors)) != expected:
        raise SystemExit(f"the weights have the hash {found}, expected {expected}: the package holds others")


@torch.inference_mode()
def difference(source: Path, tensors: dict[str, Tensor], picture: Image.Image, size: int) -> tuple[float, float]:
    """How far timm's features of a picture are from those of the ONNX file at this size, and how large those are.

    Returns the largest absolute difference, and the standard deviation of the features. At 518 pixels the positions are
    taken as they are; at other sizes both interpolate them, timm with antialiasing.
    """
    pixels = np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    normal = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    images = np.ascontiguousarray(normal.transpose(2, 0, 1)[None])
    theirs = _session(source, size).run([ENCODED], {"input_image": images})[0]
    model = timm.create_model(MODEL, dynamic_img_size=True).eval()
    model.load_state_dict(tensors, strict=True)
    ours = model.forward_features(torch.from_numpy(images)).numpy()
    return float(np.abs(ours - theirs).max()), float(theirs.std())


def _session(source: Path, size: int) -> onnxruntime.InferenceSession:
    """The ONNX model for one size of image, with the encoder's features as its output."""
    model = onnx.load(source)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = size
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(ENCODED, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
