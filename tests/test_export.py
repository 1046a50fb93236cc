"""What was trained leaves torch and answers the same there; whatever makes an artefact answer otherwise is seen."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.deploy import parity, quantise
from paretune.deploy.artefact import Artefact
from paretune.deploy.description import KEY, Description
from paretune.deploy.export import export
from paretune.deploy.lint import lint
from paretune.deploy.parity import Answers, Pictures
from paretune.deploy.pictures import pictures_for, spread
from paretune.deploy.runtimes import needed, open_runtime
from paretune.errors import UsageError
from paretune.training.predict import predict

NAMES = ["ant", "bee", "cat", "dog"]


def trained(task="multiclass", adapters=(), reducer=None, names=NAMES):
    """A model whose head tells pictures apart, as if it was trained."""
    torch.manual_seed(0)
    model = pt.adapt("paretune_tiny", adapters, reducer, names, pretrained=True, task=task)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and weight.ndim == 2:
                weight.normal_(std=0.3 if ".head." in name else 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty pictures: drawn textures, and one that is not square."""
    from paretune.drawn.offline import offline_parts

    folder, drawn = tmp_path_factory.mktemp("photos"), offline_parts("textures")["test"].through(None)
    for i in range(39):
        drawn[i * 20][0].save(folder / f"{i:02}.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)).save(folder / "odd.png")
    return folder


@pytest.fixture(scope="module")
def reduced():
    return trained(adapters=[pt.LoRA(rank=4)], reducer=pt.EViT(keep=0.6))


@pytest.fixture(scope="module")
def onnx_file(reduced, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "model"
    report = export(reduced, out, pictures_for(reduced, images=[photos], check=20), rounds=2)
    assert report.verdict == "passed", report.failures
    return out / "model.onnx"


def answers(model, photos):
    return [best for _, best in predict(model, sorted(photos.iterdir()), device="cpu")]


def near(found, wanted):
    assert [[name for name, _ in one] for one in found] == [[name for name, _ in one] for one in wanted]
    values, others = ([p for one in side for _, p in one] for side in (found, wanted))
    assert np.allclose(values, others, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------ one artefact is enough


def test_an_onnx_file_answers_as_the_model(reduced, onnx_file, photos):
    artefact = Artefact(onnx_file)
    near(artefact.predict(sorted(photos.iterdir())), answers(reduced, photos))
    assert (artefact.classes, artefact.task) == (NAMES, "multiclass")
    facts = artefact.description
    assert facts.verdict == "passed"
    assert facts.methods["reducer"]["kind"] == "EViT"
    assert facts.tokens[0][0] == 65
    array = np.asarray(Image.open(sorted(photos.iterdir())[0]).convert("RGB"))
    near(artefact.predict([array]), answers(reduced, photos)[:1])


def test_any_number_of_images_is_fine(reduced, onnx_file):
    images = torch.randn(70, 3, 32, 32)  # more than the graph takes at once
    with torch.inference_mode():
        wanted = reduced(images).numpy()
    artefact = Artefact(onnx_file)
    for count in (70, 5, 1):
        assert np.abs(artefact.run(images[:count].numpy()) - wanted[:count]).max() < 1e-5 * np.abs(wanted).max()
    assert artefact.run(np.zeros((0, 3, 32, 32), np.float32)).shape == (0, 4)
    with pytest.raises(UsageError, match=r"takes images of \(3, 32, 32\)"):
        artefact.run(np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(UsageError, match="no picture"):
        artefact.predict([np.zeros((8, 8), np.uint8)])


@pytest.mark.slow
def test_it_runs_without_torch(onnx_file, photos, tmp_path):
    script = (
        "import sys, json\n"
        "from paretune import Artefact\n"
        "artefact = Artefact(sys.argv[1])\n"
        "print(json.dumps(artefact.predict(sys.argv[2:])))\n"
        "heavy = sorted({'torch', 'timm', 'torchvision', 'onnx', 'onnxscript'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    paths = [str(path) for path in sorted(photos.iterdir())[:3]]
    done = subprocess.run([sys.executable, "-c", script, str(onnx_file), *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [[tuple(pair) for pair in one] for one in json.loads(done.stdout)]
    near(found, Artefact(onnx_file).predict(paths))


def test_it_tells_nothing_of_this_machine(onnx_file):
    content = onnx_file.read_bytes() + (onnx_file.parent / "export.json").read_bytes()
    for told in (str(Path.cwd()), os.path.expanduser("~") + "/", "site-packages", "stack_trace", ".py"):
        assert told.encode() not in content, told


def test_the_report_says_what_was_checked(onnx_file):
    report = json.loads((onnx_file.parent / "export.json").read_text())
    rows = {(row["pictures"], row["batch"]): row for row in report["parity"]}
    assert set(rows) == {(kind, batch) for kind in ("pictures", "noise") for batch in (1, 3, 8)}
    assert all(row["max_error"] < 1e-4 and row["agreement"] == 1 and row["same_groups"] == 1 for row in rows.values())
    assert rows["pictures", 1]["images"] == 20 == len(set(report["pictures"]["hashes"]))
    assert set(report["times"]) == {"1", "8"}
    assert set(report["times"]["8"]) == {"artefact", "without the reducer", "torch"}
    assert (report["verdict"], report["failures"], report["precision"]) == ("passed", [], "float")


def test_a_report_shows_what_was_checked(onnx_file):
    from paretune.show.report import report

    page = report([onnx_file.parent / "export.json"])
    for told in (
        "onnx fp32",
        "same answers",
        "100.00 %",
        "passed, on 20 pictures of --images",
        "the runtime says float",
    ):
        assert told in page, told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "dtype"), [("openvino", "fp32"), ("torch", "fp32"), ("torch", "bf16"), ("onnx", "int8")]
)
def test_other_runtimes_and_numbers(reduced, photos, tmp_path, to, dtype):
    report = export(
        reduced, tmp_path / "out", pictures_for(reduced, images=[photos], check=20), to=to, dtype=dtype, rounds=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few bits may fail on a head that nobody trained
        found = Artefact(tmp_path / "out")
    assert found.description.dtype == dtype
    assert found.description.runtime == to
    wanted = answers(reduced, photos)
    if dtype == "fp32":
        assert report.verdict == "passed", report.failures
        near(found.predict(sorted(photos.iterdir())), wanted)
    else:
        same = [one[0][0] == other[0][0] for one, other in zip(found.predict(sorted(photos.iterdir())), wanted,
                                                               strict=True)]  # fmt: skip
        assert np.mean(same) >= 0.9, report.failures
        assert (report.verdict == "passed") == (not report.failures)
    if to == "openvino":
        assert report.precision == "f32", "OpenVINO must not take bfloat16 unasked"


@pytest.mark.slow
def test_openvino_computes_in_the_numbers_that_were_asked_for(reduced, photos, tmp_path):
    report = export(reduced, tmp_path / "out", pictures_for(reduced, images=[photos], check=8), to="openvino",
                    dtype="bf16", rounds=0)  # fmt: skip
    # A CPU without bfloat16 falls back to float32, and the report says so.
    assert report.precision in ("bf16", "f32")


@pytest.mark.slow
def test_openvino_has_8_bits_too(reduced, photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(parity.LIMITS, "int8", (None, 0.75))  # the first try is enough
    report = export(reduced, tmp_path / "out", pictures_for(reduced, images=[photos], check=12), to="openvino",
                    dtype="int8", rounds=0)  # fmt: skip
    assert capfd.readouterr().out == "", "stdout is for the command's own answer"
    assert report.facts.kept_fp32
    assert report.sensitivities
    assert (tmp_path / "out" / "model.bin").stat().st_size < 0.6 * 4 * sum(p.numel() for p in reduced.parameters())
    assert report.verdict == "passed", report.failures


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks(task, photos, tmp_path):
    model = trained(task, [pt.AdaptFormer(width=8)], pt.FPET(block=4))
    if task == "regression":
        from paretune.core.target_units import units_of

        units_of(model)[0].set(torch.tensor([5.0, 0, 1, 2]), torch.tensor([2.0, 1, 3, 1]))
    export(model, tmp_path / "out", pictures_for(model, images=[photos], check=8), rounds=0)
    near(Artefact(tmp_path / "out").predict(sorted(photos.iterdir())), answers(model, photos))


@pytest.mark.slow
def test_a_fixed_batch_takes_any_number_of_images(photos, tmp_path):
    model = trained(reducer=pt.EViT(keep=0.5, blocks=(3,)))
    export(model, tmp_path / "out", pictures_for(model, images=[photos], check=9), batch=(4, 4), rounds=0)
    assert lint(tmp_path / "out" / "model.onnx") == [] or "baked in" in lint(tmp_path / "out" / "model.onnx")[0]
    near(Artefact(tmp_path / "out").predict(sorted(photos.iterdir())[:6]), answers(model, photos)[:6])


@pytest.mark.slow
def test_adapters_of_one_bit_leave_too(photos, tmp_path):
    pt.save(trained(adapters=[pt.RepAdapter(bits=1) if hasattr(pt.RepAdapter(), "bits") else pt.LoRA(bits=1)]),
            tmp_path / "run")  # fmt: skip
    model = pt.load(tmp_path / "run")
    export(model, tmp_path / "out", pictures_for(model, images=[photos], check=8), rounds=0)
    near(Artefact(tmp_path / "out").predict(sorted(photos.iterdir())), answers(model, photos))


@pytest.mark.slow
def test_calibrated_probabilities_stay_calibrated(photos, tmp_path):
    model = trained()
    model.temperature = 2.5
    export(model, tmp_path / "out", pictures_for(model, images=[photos], check=4), rounds=0)
    near(Artefact(tmp_path / "out").predict(sorted(photos.iterdir())), answers(model, photos))


# ------------------------------------------------------------------------------------------------------------ 8 bits


@pytest.mark.slow
def test_what_chooses_tokens_keeps_its_numbers(reduced, photos, tmp_path):
    report = export(reduced, tmp_path / "out", pictures_for(reduced, images=[photos], check=12), dtype="int8", rounds=0)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    wide = {node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.name.startswith("blocks.")}
    choosing = quantise.reducing_blocks(pt.merge(reduced), np.zeros((1, 3, 32, 32), np.float32))
    assert choosing, "EViT reduces"
    assert {f"blocks.{block}.attn.qkv" for block in choosing} <= wide
    assert wide == set(report.facts.kept_fp32)
    narrow = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(narrow) + len(wide) == 4 * len(reduced.backbone.blocks)
    whole = pt.merge(reduced)
    assert sum(1 for one in graph.initializer if one.name.endswith("_quantized")) == len(narrow)
    assert (tmp_path / "out" / "model.onnx").stat().st_size < 4 * sum(p.numel() for p in whole.parameters())


def test_the_layer_that_8_bits_disturb_most_is_found(reduced):
    model = pt.merge(reduced)
    with torch.no_grad():  # one huge weight in every row makes the others round to nothing
        model.backbone.blocks[2].mlp.fc2.weight[:, 0] = 50.0
    images = torch.randn(4, 3, 32, 32).numpy()
    found = quantise.sensitivities(model, images)
    assert set(found) == {f"blocks.{i}.{name}" for i in range(len(model.backbone.blocks))
                          for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}  # fmt: skip
    assert max(found, key=found.get) == "blocks.2.mlp.fc2"
    assert all(value >= 0 for value in found.values())


# --------------------------------------------------------------------------------------------------- planted failures


def checked(model, onnx_path, images):
    """The failures of an ONNX file against a model; the groups are the model's own."""
    runtime = open_runtime(onnx_path)

    def run(some):
        with torch.inference_mode():
            return runtime(some)[0], model.run(torch.from_numpy(some)).tokens.groups().numpy()

    return parity.failures(parity.check("multiclass", model, run, images), "fp32")


@pytest.fixture(scope="module")
def held(reduced, photos):
    return pictures_for(reduced, images=[photos], check=16).check


def changed(onnx_file, tmp_path, change):
    model = onnx.load(onnx_file)
    change(model)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    return path


def test_a_sound_artefact_has_no_failures(reduced, onnx_file, held):
    assert checked(pt.merge(reduced), onnx_file, held) == []


def test_swapped_classes_are_seen(reduced, onnx_file, held, tmp_path):
    def swap(model):
        for one in model.graph.initializer:
            if one.name.endswith("head.bias") or one.name.endswith("head.weight"):
                values = onnx.numpy_helper.to_array(one)
                one.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values[[1, 0, 2, 3]]), one.name))

    assert any(
        "outputs differ" in line for line in checked(pt.merge(reduced), changed(onnx_file, tmp_path, swap), held)
    )


def test_a_wrong_normalisation_is_seen(reduced, onnx_file, held):
    runtime, model = open_runtime(onnx_file), pt.merge(reduced)
    wanted = parity.of_torch(model, held)
    found = Answers(runtime(held * 0.5 + 0.1)[0], wanted.groups)
    row = parity.compare("multiclass", wanted, found, "pictures", 8)
    assert parity.failures([row], "fp32")


def test_numbers_that_overflow_in_16_bits_are_seen(reduced, held):
    model = pt.merge(reduced)
    wanted = parity.of_torch(model, held)
    spoilt = Answers(np.where(np.abs(wanted.outputs) > 0.1, np.inf, wanted.outputs).astype(np.float32), wanted.groups)
    row = parity.compare("multiclass", wanted, spoilt, "pictures", 8)
    assert any("no finite numbers" in line for dtype in parity.LIMITS for line in parity.failures([row], dtype))
    json.dumps(parity.to_json([row]), allow_nan=False)


def test_a_baked_batch_is_seen(onnx_file, tmp_path):
    def bake(model):
        for part in (*model.graph.input, *model.graph.output):
            part.type.tensor_type.shape.dim[0].Clear()
            part.type.tensor_type.shape.dim[0].dim_value = 2

    assert "baked in" in lint(changed(onnx_file, tmp_path, bake))[0]
    assert lint(onnx_file) == []


class Meaning(torch.nn.Module):
    """A mean as ToMe's default mode takes it. ONNX has no such scatter: the exporter writes a plain assignment."""

    def forward(self, x):
        index = torch.zeros_like(x, dtype=torch.int64)
        return torch.zeros_like(x).scatter_reduce(1, index, x, "mean", include_self=False), index


def test_a_mean_by_scatter_is_seen(tmp_path):
    from paretune.deploy.graph import write_onnx

    x = torch.randn(3, 4)
    write_onnx(torch.export.export(Meaning(), (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)),
               tmp_path / "mean.onnx")  # fmt: skip
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "mean.onnx", providers=["CPUExecutionProvider"])
    found = Answers(session.run(None, {"images": x.numpy()})[0], np.zeros((3, 1)))
    wanted = Answers(Meaning()(x)[0].numpy(), np.zeros((3, 1)))
    assert parity.failures([parity.compare("regression", wanted, found, "pictures", 3)], "fp32")


def test_a_tie_that_falls_the_other_way_is_seen():
    wanted = Answers(np.eye(3, dtype=np.float32), np.array([[0, 1, -1]] * 3))
    flipped = Answers(wanted.outputs, np.array([[0, 1, -1], [0, -1, 1], [0, 1, -1]]))
    row = parity.compare("multiclass", wanted, flipped, "pictures", 3)
    assert (row.same_groups, row.same_patches) == (pytest.approx(2 / 3), pytest.approx(7 / 9))


def graph_with(*nodes):
    shape = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 4])
    out = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", 4])
    return helper.make_model(helper.make_graph(list(nodes), "g", [shape], [out]))


@pytest.mark.parametrize(
    ("node", "target", "said"),
    [
        (helper.make_node("NonZero", ["images"], ["outputs"]), None, "NonZero"),
        (helper.make_node("GridSample", ["images", "images"], ["outputs"]), None, "GridSample"),
        (helper.make_node("ScatterElements", ["images"] * 3, ["outputs"], reduction="max"), None, "reduction max"),
        (helper.make_node("TopK", ["images", "images"], ["outputs", "i"]), None, "TopK"),
        (helper.make_node("ScatterElements", ["images"] * 3, ["outputs"]), "tensorrt", "TensorRT"),
    ],
)
def test_operations_that_go_wrong_are_named(node, target, said, tmp_path):
    onnx.save(graph_with(node), tmp_path / "bad.onnx")
    assert any(said in line for line in lint(tmp_path / "bad.onnx", target))
    if target:
        assert lint(tmp_path / "bad.onnx") == []


@pytest.mark.slow
def test_a_failed_artefact_says_so(reduced, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.LIMITS, "fp32", (1e-30, 1.0))
    held = pictures_for(reduced, images=[photos], check=4)
    report = export(reduced, tmp_path / "out", held, rounds=0)
    assert report.verdict == "failed"
    assert "outputs differ" in report.failures[0]
    with pytest.warns(UserWarning, match="failed its parity check"):
        assert Artefact(tmp_path / "out").description.verdict == "failed"


# ------------------------------------------------------------------------------------------ what is not paretune's


def test_files_that_are_no_artefacts_are_refused(onnx_file, tmp_path):
    onnx.save(graph_with(helper.make_node("Identity", ["images"], ["outputs"])), tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(onnx_file.read_bytes()[:5000])
    cases = {
        "foreign.onnx": "was not written by", "text.onnx": "cannot read", "cut.onnx": "cannot read",
        "none.onnx": "there is no artefact", "model.tflite": "unknown kind of artefact",
    }  # fmt: skip
    for name, said in cases.items():
        with pytest.raises(UsageError, match=said):
            Artefact(tmp_path / name)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"batch": [0, 1]}, {"task": "poetry"}, {"names": []}, {"names": 7}, {"temperature": 0}, {"more": 1},
        {"preprocessing": {}}, {"tokens": [[1]]}, {"verdict": "fine"},
    ],
)  # fmt: skip
def test_descriptions_are_checked(spoilt, onnx_file):
    good = Artefact(onnx_file).description
    assert Description.from_text(good.to_text(), "it") == good
    with pytest.raises(UsageError, match="the description in it has missing or wrong entries"):
        Description.from_text(json.dumps({**json.loads(good.to_text()), **spoilt}), "it")


def test_wishes_that_cannot_be_fulfilled(reduced, photos, tmp_path, monkeypatch):
    held = Pictures(np.zeros((2, 3, 32, 32), np.float32), np.zeros((1, 3, 32, 32), np.float32), "made up")
    wrong = [
        ({"to": "tensorflow"}, "unknown runtime"), ({"dtype": "int4"}, "unknown number type"),
        ({"to": "onnx", "dtype": "bf16"}, "no bfloat16 kernels"),
        ({"to": "torch", "dtype": "int8"}, "no 8-bit kernels"),
        ({"batch": (3, 2)}, "batch 3:2"), ({"target": "gpu"}, "unknown target"),
    ]  # fmt: skip
    for wish, said in wrong:
        with pytest.raises(UsageError, match=said):
            export(reduced, tmp_path / "out", held, **wish)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is in use"):
        export(reduced, tmp_path / "full", held)
    assert (tmp_path / "full" / "thesis.txt").exists()
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"openvino is not installed: `pip install 'paretune\[openvino\]'`"):
        export(reduced, tmp_path / "out", held, to="openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"paretune\[export\]"):
        needed("onnxruntime")


# ----------------------------------------------------------------------------------------------------------- pictures


def test_pictures_come_from_where_they_are(reduced, photos, tmp_path):
    given = pictures_for(reduced, images=[photos], check=16)
    assert given.source == "of --images"
    assert len(given.check) + len(given.calibrate) == 40
    one, two = ({image.tobytes() for image in side} for side in (given.check, given.calibrate))
    assert not one & two, "no picture both chooses the 8 bits and judges them"
    drawn = pictures_for(reduced, tmp_path, check=5)
    assert "drawn by paretune" in drawn.source
    assert drawn.check.shape == (5, 3, 32, 32)
    with pytest.raises(UsageError, match="at least two"):
        pictures_for(reduced, images=[sorted(photos.iterdir())[0]])
    assert spread(range(100), 3) == [0, 50, 99]
    assert spread([1, 2], 5) == [1, 2]


# ---------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, photos):
    """A short training on two classes of files."""
    root = tmp_path_factory.mktemp("trained")
    for i, path in enumerate(sorted(photos.iterdir())):
        for split in ("train", "val"):
            place = root / "data" / split / ("left", "right")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).write_bytes(path.read_bytes())
    words = ["train", "--data", root / "data", "--model", "paretune_tiny", "--recipe", "lora", "--epochs", "1", "--out",
             root / "run", "--workers", "0", "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, (done.output, done.exception)
    return root


def cli(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_a_run_leaves_by_one_command(run_folder, tmp_path):
    done = cli("export", run_folder / "run", "--to", "onnx", "--out", tmp_path / "out", "--rounds", "0", "--check", "8")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "of the run's own data" in done.stdout
    assert "passed" in done.stdout
    images = sorted((run_folder / "data" / "val" / "left").iterdir())[:4]
    ours, theirs = (cli("predict", model, *images, "--json") for model in (tmp_path / "out" / "model.onnx",
                                                                           run_folder / "run"))  # fmt: skip
    for one, other in zip(
        json.loads(ours.stdout)["predictions"], json.loads(theirs.stdout)["predictions"], strict=True
    ):
        assert one["path"] == other["path"]
        assert [c["class"] for c in one["classes"]] == [c["class"] for c in other["classes"]]
    ours, theirs = (
        json.loads(cli("eval", model, "--data", run_folder / "data", "--json").stdout)
        for model in (tmp_path / "out" / "model.onnx", run_folder / "run")
    )
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "images", "confusion", "per_class", "accuracy_interval"):
        assert ours[key] == pytest.approx(theirs[key]) if isinstance(ours[key], float) else ours[key] == theirs[key], (
            key
        )
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


@pytest.mark.slow
def test_predict_and_eval_of_an_artefact_need_no_torch(run_folder, onnx_file, photos):
    script = "import sys\nfrom paretune.cli.main import app\ntry:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n"
    script += "    assert not end.code, end.code\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    image = sorted(photos.iterdir())[0]
    for words in (["predict", onnx_file, image], ["eval", onnx_file, "--data", run_folder / "data", "--help"]):
        done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_wrong_use_of_the_command(run_folder, tmp_path):
    run = run_folder / "run"
    for words, said in [
        (["--to", "keras"], "unknown runtime"), (["--to", "onnx", "--dtype", "bf16"], "bfloat16"),
        (["--to", "onnx", "--batch", "many"], "give two numbers"),
        (["--to", "onnx", "--target", "x"], "unknown target"),
        (["--to", "onnx", "--images", tmp_path / "none"], "at least two"),
    ]:  # fmt: skip
        done = cli("export", run, *words, "--out", tmp_path / "out")
        assert done.exit_code == 2, (done.output, done.exception)
        assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_failed_check_is_exit_code_1(run_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.LIMITS, "fp32", (1e-30, 1.0))
    done = cli("export", run_folder / "run", "--to", "onnx", "--out", tmp_path / "out", "--rounds", 0, "--check", 4)
    assert done.exit_code == 1
    assert "failed" in done.stdout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli("predict", tmp_path / "out", sorted(Path(run_folder / "data/val/left").iterdir())[0]).exit_code == 0


@pytest.mark.slow
def test_tritons_own_reader_takes_the_config(run_folder, tmp_path):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    done = cli(
        "export", run_folder / "run", "--to", "triton", "--out", tmp_path / "vit", "--rounds", "0", "--check", "4"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    config = text_format.Parse((tmp_path / "vit" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    graph = onnx.load(tmp_path / "vit" / "1" / "model.onnx").graph
    for told, own in ((config.input, graph.input), (config.output, graph.output)):
        ((one,), (other,)) = told, own
        dims = [d.dim_value for d in other.type.tensor_type.shape.dim][1:]
        assert (one.name, list(one.dims)) == (other.name, dims)
    assert (config.name, config.backend, config.max_batch_size) == ("vit", "onnxruntime", 64)
    assert config.HasField("dynamic_batching")


def test_the_description_survives_a_change_of_fields():
    facts = Description("onnx", "fp32", "multiclass", ("a",), {}, (1, 2), ((5, 5),), {}, None, "0" * 64, "0" * 64, {})
    assert json.loads(replace(facts, verdict="failed").to_text())["verdict"] == "failed"
    assert KEY == "paretune"
