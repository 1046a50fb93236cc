"""Real material: what turns packages into weights and tasks, on small made-up files; the material itself, if made."""

import os
from pathlib import Path

import numpy as np
import pytest
import real_material
import real_pictures
import real_weights
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from trees import class_tree, draw, write

import paretune as pt
from paretune.data import open_splits
from paretune.data.folder import folder_task
from paretune.suite.suites import REAL, open_suite

ROOT = Path(__file__).parents[1]
MATERIAL = Path(os.environ.get("PARETUNE_REAL", ROOT / "real"))
made = pytest.mark.skipif(
    not (MATERIAL / "MANIFEST.json").is_file(), reason="no real material: `make real`, or PARETUNE_REAL=FOLDER"
)


def export(weights):
    """An ONNX file as an export makes it: weights of linears anonymous and transposed, beside their named biases."""
    nodes, held = [], []
    for i, (name, weight) in enumerate(weights.items()):
        held += [numpy_helper.from_array(weight.T.copy(), f"onnx::MatMul_{i}")]
        held += [numpy_helper.from_array(weight[:, 0].copy(), f"backbone.{name}.bias")]
        nodes += [helper.make_node("MatMul", [f"x{i}", f"onnx::MatMul_{i}"], [f"y{i}"])]
        nodes += [helper.make_node("Add", [f"backbone.{name}.bias", f"y{i}"], [f"x{i + 1}"])]
    held += [numpy_helper.from_array(np.full((1, n, 4), n, np.float32), f"onnx::{what}_9") for what, n in
             (("Concat", 1), ("Reshape", 5))]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x0", f"x{len(weights)}")]
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], held))


def test_weights_of_an_export_find_their_names_and_timms_order():
    block = "encoder.layer.3.attention"
    names = [f"{block}.attention.value", f"{block}.attention.query", f"{block}.attention.key", f"{block}.output.dense"]
    weights = {name: np.random.default_rng(i).normal(size=(4, 4)).astype(np.float32) for i, name in enumerate(names)}
    patches = {"embeddings.patch_embeddings.projection.weight": np.zeros((4, 3, 2, 2), np.float32)}
    tensors = real_weights.to_timm(real_weights.named(export(weights)) | patches, Path("vit.onnx"))
    expected = np.concatenate([weights[names[i]] for i in (1, 2, 0)])
    assert torch.equal(tensors["blocks.3.attn.qkv.weight"], torch.from_numpy(expected))
    assert torch.equal(tensors["blocks.3.attn.qkv.bias"], torch.from_numpy(expected[:, 0]))
    assert torch.equal(tensors["blocks.3.attn.proj.weight"], torch.from_numpy(weights[names[3]]))
    assert tensors["pos_embed"][0, :, 0].tolist() == [1, 5, 5, 5, 5, 5]


def test_a_tensor_without_a_place_and_other_weights_end_with_a_sentence(tmp_path):
    strange = {"embeddings.patch_embeddings.projection.weight": np.zeros((4, 3, 2, 2)), "upconv.weight": np.zeros(1)}
    with pytest.raises(pt.UsageError, match=r"looks like Hugging Face DINOv2, but holds 'upconv\.weight'"):
        real_weights.to_timm(strange, Path("vit.onnx"))
    with pytest.raises(SystemExit, match="holds others"):
        real_weights.check({"cls_token": torch.zeros(1)})


def test_shares_are_whole_numbers_of_the_right_sum():
    assert real_pictures.shares({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert real_pictures.shares({"a": 821, "b": 1803}, 800) == {"a": 250, "b": 550}


def test_splits_are_stratified_apart_and_the_same_every_time():
    classes = {name: [Path(f"{name}{i}") for i in range(count)] for name, count in (("a", 900), ("b", 300))}
    splits = real_pictures.stratified(classes, "task")
    counts = {split: {name: len(found) for name, found in own.items()} for split, own in splits.items()}
    assert counts == {"train": {"a": 600, "b": 200}, "val": {"a": 150, "b": 50}, "test": {"a": 150, "b": 50}}
    assert len({path for own in splits.values() for found in own.values() for path in found}) == 1200
    assert splits == real_pictures.stratified(classes, "task")
    assert splits != real_pictures.stratified(classes, "other")
    assert sum(map(len, real_pictures.stratified(classes, "task", most=40)["test"].values())) == 40


def test_cells_become_a_task_and_two_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(real_pictures, "SIZES", {"train": 8, "val": 4})
    lines = []
    for i in range(16):
        draw(tmp_path / "packages/elpv_dataset/data/images" / f"cell{i:04}.png", i)
        lines.append(f"images/cell{i:04}.png  {(0.0, 1 / 3, 2 / 3, 1.0)[i % 4]:.16f}  {'mono' if i % 3 else 'poly'}")
    write(tmp_path / "packages/elpv_dataset/data/labels.csv", "\n".join(lines) + "\n")
    real_pictures.store(real_pictures.elpv(tmp_path / "packages"), tmp_path / "elpv")
    real_pictures.elpv_tables(tmp_path / "packages", tmp_path)
    splits = open_splits(tmp_path / "elpv")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [8, 4, 4]
    assert splits.train.classes == ("defective", "functional")
    numbers, labels = open_splits(tmp_path / "elpv.csv"), open_splits(tmp_path / "elpv-labels.csv")
    assert (numbers.train.task, numbers.train.classes) == ("regression", ("probability",))
    assert (labels.train.task, labels.train.classes) == ("multilabel", ("defective", "polycrystalline"))
    assert [len(part) for part in (numbers.val, labels.test)] == [4, 4]
    assert ((numbers.train.targets[:, 0] > 0.5) == labels.train.targets[:, 0]).all()


def test_what_is_drawn_depends_on_the_names_of_its_place_alone():
    font = next(Path(__import__("matplotlib").get_data_path()).glob("fonts/ttf/DejaVuSans.ttf"))

    def draw_one(split, name, random):
        return real_pictures.drawn(name, font, random, (40, 60))

    one, other = (real_pictures.each("t", "ab", {"train": 5}, draw_one)["train"] for _ in range(2))
    assert {name: len(found) for name, found in one.items()} == {"a": 3, "b": 2}
    assert [p.tobytes() for p in one["a"]] == [p.tobytes() for p in other["a"]]
    assert len({p.tobytes() for found in one.values() for p in found}) == 5
    assert one["a"][0].size == (96, 96)


def test_the_hash_of_a_split_sees_names_and_pixels_not_compression(tmp_path):
    class_tree(tmp_path, splits=("train",))
    first = real_material.content(tmp_path / "train")
    path = tmp_path / "train/ant/0.png"
    Image.open(path).save(path, compress_level=0)
    assert real_material.content(tmp_path / "train") == first
    path.rename(path.with_name("9.png"))
    assert real_material.content(tmp_path / "train") != first


def test_what_differs_from_the_known_hashes_is_named():
    known = {"weights": "w", "tasks": {"a": {"train": "1"}, "b": {"train": "2"}}}
    real_material.compare(known, known)
    with pytest.raises(SystemExit, match=r"^b: not to the pixel"):
        real_material.compare({"weights": "w", "tasks": {"a": {"train": "1"}, "b": {"train": "3"}}}, known)


def test_a_tree_of_class_folders_is_a_task_of_a_suite(tmp_path):
    for task in REAL:
        class_tree(tmp_path / task)
    suite = open_suite("real", tmp_path)
    assert (suite.name, len(set(suite.groups.values()))) == ("real", 3)
    parts = suite.parts("icons")
    assert {name: len(images) for name, images in parts.items()} == {
        "train800": 6, "val200": 6, "train800val200": 12, "test": 6,
    }  # fmt: skip
    assert parts["train800val200"].targets.tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert parts["test"].split == "test"
    assert {name: one.group for name, one in real_pictures.TASKS.items()} == REAL


def test_material_that_is_not_there_is_refused_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(pt.UsageError, match=r"lacks elpv, textile.*real_material\.py --out"):
        open_suite("real", tmp_path)
    with pytest.raises(pt.UsageError, match="real with --data FOLDER"):
        open_suite("real")
    class_tree(tmp_path, splits=("train", "test"))
    with pytest.raises(pt.UsageError, match="lacks val: a task of a suite"):
        folder_task(tmp_path)


@made
@pytest.mark.parametrize("task", REAL)
def test_the_tasks_are_those_that_this_version_knows(task):
    known = real_material.json.loads(real_material.KNOWN.read_text())["tasks"][task]
    assert {split: real_material.content(MATERIAL / task / split) for split in known} == known
    parts = open_suite("real", MATERIAL).parts(task)
    assert (len(parts["train800"]), len(parts["val200"])) == (800, 200)
    assert len(parts["test"]) >= 1000


@made
def test_the_weights_fit_timms_model_and_are_the_known_ones():
    model = pt.adapt("vit_small_patch14_dinov2", checkpoint=MATERIAL / real_material.WEIGHTS, img_size=56)
    assert sum(tensor.numel() for tensor in model.backbone.state_dict().values()) < 22_056_192
    tensors = pt.tensorfile.read_tensors(MATERIAL / real_material.WEIGHTS)
    real_weights.check(tensors)
