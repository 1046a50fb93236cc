"""The command line, in this process where possible: importing timm once is slow enough."""

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.errors import UsageError
from paretune.verbs.overrides import override, parse

TINY = ("--model", "paretune_tiny", "--no-pretrained")
FAST = ("--epochs", "2", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--lr", "0.01")


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def draw_tree(root, classes=("blue", "red"), count=8):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 255, (36, 40, 3))
            image[8:28, 8:28] = (220, 40, 40) if name == "red" else (40, 40, 220)
            Image.fromarray(image.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return draw_tree(tmp_path_factory.mktemp("images") / "tree")


@pytest.fixture(scope="module")
def trained(tree, tmp_path_factory):
    """A finished run, and what the command said."""
    out = tmp_path_factory.mktemp("runs") / "out"
    done = cli("train", "--data", tree, *TINY, "--recipe", "lora", "--out", out, *FAST, "--json")
    assert done.exit_code == 0, done.output
    return out, done


def refused(done):
    """The one sentence on stderr, after checking that nothing else happened."""
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("paretune: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


# -------------------------------------------------------------------------------------------------- the main job


def test_train_says_one_json_object_and_keeps_people_informed_on_stderr(trained):
    out, done = trained
    said = json.loads(done.stdout)
    assert said["out"] == str(out)
    assert said["best_epoch"] in (1, 2)
    assert len(said["history"]) == 2
    assert re.search(r"[\d,]+ trained of [\d,]+ parameters .* memory: about", done.stderr)
    assert "\x1b" not in done.output
    record = json.loads((out / "record.json").read_text())
    assert (record["recipe"], record["schedule"]["lr"]) == ("lora", 0.01)
    assert record["schedule"]["warmup_epochs"] == pytest.approx(0.2)  # the recipe's tenth
    assert record["data"]["val"]["split_rule"] == {"val_share": 0.2, "seed": 0}


def test_eval_finds_the_accuracy_that_training_recorded(trained, tree):
    out, done = trained
    again = cli("eval", out, "--data", tree, "--device", "cpu", "--json")
    assert again.exit_code == 0, again.output
    metrics, recorded = json.loads(again.stdout), json.loads(done.stdout)
    assert metrics["accuracy"] == recorded["val_accuracy"]
    assert metrics["loss"] == pytest.approx(recorded["val_loss"], abs=1e-6)
    assert metrics["images"] == 4
    everything = cli("eval", out, "--data", tree, "--split", "all", "--device", "cpu")
    assert re.search(r"blue +8 +\d+\.\d\d%", everything.stdout)
    assert "all accuracy" in everything.stdout


@pytest.mark.slow
def test_eval_knows_that_images_of_the_same_length_have_changed(tmp_path):
    data = draw_tree(tmp_path / "data")
    for file in list(data.rglob("*.png")):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    done = _train(data, tmp_path / "out", "--recipe", "linear", "--epochs", "1")
    assert done.exit_code == 0, done.output
    assert cli("eval", tmp_path / "out", "--data", data, "--device", "cpu").exit_code == 0
    for file in data.rglob("*.bmp"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "has changed since" in refused(cli("eval", tmp_path / "out", "--data", data))


def test_eval_knows_that_a_folder_has_changed_since_it_was_split(trained, tmp_path):
    other = draw_tree(tmp_path / "other", count=9)
    assert "has changed since" in refused(cli("eval", trained[0], "--data", other))
    assert "unknown" not in refused(cli("eval", trained[0], "--data", other, "--split", "test"))
    strange = draw_tree(tmp_path / "strange", ("blue", "green"))
    assert "does not know green" in refused(cli("eval", trained[0], "--data", strange, "--split", "all"))


def test_predict_names_classes(trained, tree):
    images = [tree / "red" / "0.png", tree / "blue" / "1.png"]
    done = cli("predict", trained[0], *images, "--device", "cpu", "--json")
    found = json.loads(done.stdout)["predictions"]
    assert [entry["path"] for entry in found] == [str(path) for path in images]
    assert {entry["class"] for entry in found[0]["classes"]} == {"blue", "red"}
    assert sum(entry["probability"] for entry in found[0]["classes"]) == pytest.approx(1, abs=1e-5)
    text = cli("predict", trained[0], *images, "--top", "1", "--device", "cpu").stdout
    assert re.fullmatch(r"(.*\.png: (blue|red) \d+\.\d%\n){2}", text)


@pytest.mark.slow
def test_train_takes_settings_and_a_folder_with_val(tmp_path):
    for split in ("train", "val"):
        draw_tree(tmp_path / "data" / split, count=4)
    sets = ("--set", "reducer.keep=0.5", "--set", "reducer.blocks=2,5", "--set", "adapter.width=4")
    options = ("--recipe", "sparse-tuning", *sets, "--augment", "flip", "--out", tmp_path / "out", *FAST)
    done = cli("train", "--data", tmp_path / "data", *TINY, *options)
    assert done.exit_code == 0, done.output
    assert "saved in" in done.stdout
    spec = pt.load(tmp_path / "out").spec
    assert (spec.reducer.keep, spec.reducer.blocks, spec.adapters[0].width) == (0.5, (2, 5), 4)


@pytest.mark.slow
def test_unreadable_images_are_skipped_on_request_and_told(tree, tmp_path):
    data = draw_tree(tmp_path / "data")
    (data / "red" / "bad.png").write_bytes(b"\x89PNG")
    assert re.search(r"1 of 17 images cannot be read.*red/bad\.png", refused(_train(data, tmp_path / "out")))
    done = _train(data, tmp_path / "out", "--skip-unreadable", "--recipe", "linear", "--epochs", "1")
    assert done.exit_code == 0, done.output
    assert "red/bad.png" in done.stderr
    assert json.loads((tmp_path / "out" / "record.json").read_text())["data"]["train"]["skipped"] == ["red/bad.png"]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_resuming_ends_as_if_nothing_happened(tree, tmp_path):
    settings = ["train", "--data", tree, *TINY, "--recipe", "fpet-lora", *FAST, "--epochs", "20", "--augment", "crop"]
    whole = cli(*settings, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    command = [sys.executable, "-m", "paretune", *map(str, settings), "--out", str(tmp_path / "part")]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background shell's children ignore Ctrl-C
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=listen)
    state = tmp_path / "part" / "adapter_config.json"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert f"{tmp_path / 'part'} holds the best epoch so far" in err
    assert f"`paretune train --resume --out {tmp_path / 'part'}` continues" in err
    assert "Traceback" not in err
    known = cli("predict", tmp_path / "part", next(tree.rglob("*.png")), "--top", "1")  # a model like any other
    assert known.exit_code == 0, known.output
    seen = cli("eval", tmp_path / "part", "--data", tree, "--split", "val")
    assert seen.exit_code == 0, seen.output
    resumed = cli("train", "--resume", "--out", tmp_path / "part")
    assert resumed.exit_code == 0, resumed.output
    name = "adapter_model.safetensors"
    assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# -------------------------------------------------------------------------------------------------- bad requests


def _train(data, out, *more):
    return cli("train", "--data", data, *TINY, "--out", out, "--recipe", "sparse-tuning", *FAST, *more)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--recipe", "lroa"), "unknown recipe 'lroa': did you mean lora"),
        (("--model", "paretune_tny"), "unknown model 'paretune_tny': did you mean paretune_tiny"),
        (("--set", "reducer.keep=0"), "keep=0.0: must be above 0"),
        (("--set", "reducer.keep=much"), "reducer.keep=much: expected a number"),
        (("--set", "reducer.kep=1"), "unknown setting of EViT 'kep': did you mean keep"),
        (("--set", "reducer.blocks=3,12"), "the backbone has blocks 0 to 11"),
        (("--set", "reducer.rest=melt"), "expected merge or argmax or drop"),
        (("--recipe", "fpet-lora", "--set", "reducer.block=99"), "FPET block=99"),
        (("--recipe", "lora", "--set", "adapter.rank=1000"), "LoRA rank=1000: must be 1 to 96"),
        (("--recipe", "lora", "--set", "adapter.1.rank=4"), "has adapters 0 to 0"),
        (("--recipe", "lora", "--set", "reducer.keep=0.5"), "has no reducer"),
        (("--recipe", "linear", "--set", "adapter.rank=1"), "has no adapter"),
        (("--set", "redcer.keep=1"), "unknown setting 'redcer.keep'"),
        (("--set", "reducer"), "expected KEY=VALUE"),
        (("--augment", "flop"), "unknown augment 'flop': did you mean flip"),
        (("--val-share", "1.5"), "between 0 and 1"),
        (("--warmup-epochs", "5"), "warmup_epochs=5 must be from 0 to below epochs=2"),
        (("--device", "cdua"), "unknown device 'cdua': did you mean cuda"),
        (("--device", "gpu"), "did you mean cuda"),
        (("--mixed-precision", "fp16"), "needs a GPU"),
        (("--resume",), "no interrupted run"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--choose-epoch", "scroe"), "unknown way to choose the epoch 'scroe': did you mean score"),
        (("--checkpoint", "weights.npz"), "checkpoint 'weights.npz'"),
    ],
)
def test_requests_that_cannot_be_met_end_in_one_sentence(tree, tmp_path, options, sentence):
    assert sentence in refused(_train(tree, tmp_path / "out", *options))
    assert not (tmp_path / "out" / "record.json").exists()


@pytest.mark.parametrize(("asked", "here"), [("--learning-rate", "--lr"), ("--weights", "--checkpoint")])
def test_the_names_of_other_tools_lead_to_ours(asked, here):
    done = cli("train", "--data", "photos", "--out", "run", asked, "1")
    assert done.exit_code == 2
    assert f"No such option: {asked} Did you mean {here}?" in done.stderr


def test_pixels_that_no_patch_sees_are_told(tree, tmp_path):
    done = _train(tree, tmp_path / "out", "--recipe", "linear", "--epochs", "1", "--image-size", "30")
    assert (
        "patches of 4 pixels cover 28 of 30, 2 pixels at two edges are not seen: --image-size 28 or 32" in done.stderr
    )


def test_an_unknown_kind_and_a_folder_to_compare_are_told(tmp_path):
    assert "unknown kind 'model': did you mean models" in refused(cli("list", "model"))
    assert "compare runs with `paretune report RUN RUN`" in refused(cli("compare", tmp_path, tmp_path))


def test_the_version_is_told():
    assert cli("--version").stdout == f"paretune {pt.__version__}\n"


def _one_class(root):
    draw_tree(root, ("red",))


def _empty_class(root):
    (draw_tree(root) / "green").mkdir()


def _mismatch(root):
    draw_tree(root / "train", ("red", "blue"))
    draw_tree(root / "val", ("red", "bleu"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: None, "does not exist"),
        (_one_class, "has only one class"),
        (_empty_class, "no readable images"),
        (_mismatch, "class 'bleu' is not in train"),
    ],
)
def test_folders_that_cannot_be_trained_on_end_in_one_sentence(tmp_path, make, sentence):
    make(tmp_path / "data")
    assert sentence in refused(_train(tmp_path / "data", tmp_path / "out"))


def test_a_taken_folder_is_refused_and_overwritten_on_request(trained, tree):
    assert "already holds a finished run" in refused(_train(tree, trained[0], "--recipe", "lora"))


def test_wrong_saved_folders_and_files_end_in_one_sentence(trained, tree, tmp_path):
    assert "is not a saved model" in refused(cli("eval", tmp_path, "--data", tree))
    (tmp_path / "file").write_text("x")
    assert "must be a folder" in refused(_train(tree, tmp_path / "file"))


@pytest.mark.parametrize("args", [("train",), ("fly",), ("train", "--epochs", "x"), ("list", "cars")])
def test_usage_errors_of_the_parser_exit_with_2(args):
    done = cli(*args)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_shards_train_and_are_evaluated_like_folders(tree, tmp_path):
    data, out = tmp_path / "shards", tmp_path / "out"
    assert cli("data", "convert", tree, data, "--to", "shards", "--shard-size", 3).exit_code == 0
    assert cli("train", "--data", data, *TINY, "--recipe", "lora", "--out", out, *FAST).exit_code == 0
    for split, images in (("val", 4), ("train", 12), ("all", 16)):
        done = cli("eval", out, "--data", data, "--split", split, "--device", "cpu", "--json")
        assert json.loads(done.stdout)["images"] == images
    assert pt.load(out).classes == ["blue", "red"]


@pytest.mark.slow
def test_train_of_a_run_means_the_images_that_it_trained_on(tree, tmp_path):
    """Also where the data have a train folder and no val, and where only a few images a class were taken."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tree)
    data, out = f"{tmp_path / 'data'}?shots=3", tmp_path / "out"
    assert cli("train", "--data", data, *TINY, "--recipe", "lora", "--out", out, *FAST).exit_code == 0
    for place, split, images in ((data, "train", 6), (data, "val", 4), (tmp_path / "data", "val", 4)):
        done = cli("eval", out, "--data", place, "--split", split, "--device", "cpu", "--json")
        assert json.loads(done.stdout)["images"] == images


def test_nothing_is_converted_onto_what_is_there(tree, tmp_path):
    (tmp_path / "photo.png").touch()
    assert "not an empty folder" in refused(cli("data", "convert", tree, tmp_path, "--to", "folder"))


# ---------------------------------------------------------------------------------------------- cost, list, help


def test_cost_prints_a_table_or_json():
    asked = ("cost", "--model", "vit_base_patch16_224", "--recipe", "lora")
    assert "294,912" in cli(*asked).stdout
    found = json.loads(cli(*asked, "--classes", "100", "--json").stdout)
    assert (found["trained_without_head"], found["trained_head"]) == (294912, 76900)


def test_list_knows_everything_by_name():
    found = json.loads(cli("list", "--json").stdout)
    assert found["models"][0] == "paretune_tiny"
    assert "vit_base_patch16_224" in found["models"]
    assert set(found["recipes"]) == set(pt.recipes())
    assert found["adapters"]["LoRA"]["settings"]["rank"]["default"] == 8
    assert all(
        s["help"] for kind in ("adapters", "reducers") for m in found[kind].values() for s in m["settings"].values()
    )
    text = cli("list").stdout
    for name in ("paretune_tiny", "sparse-tuning", "DenseAdapter", "FPET"):
        assert name in text
    assert "\x1b" not in text


def test_help_imports_neither_torch_nor_timm():
    code = (
        "import sys; from paretune.cli.main import app\n"
        "for args in (['--help'], ['train', '--help']):\n"
        "    try: app(args)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'accelerate', 'torchmetrics'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--mixed-precision" in done.stdout


def test_every_command_has_help():
    for command in ("train", "eval", "predict", "cost", "compare", "data verify", "data convert", "list", "demo"):
        done = cli(*command.split(), "--help")
        assert done.exit_code == 0
        assert "Usage" in done.stdout


# ----------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("4", int, 4),
        ("1e-3", float, 0.001),
        ("False", bool, False),
        ("3, 6,9", tuple[int, ...], (3, 6, 9)),
        ("(8,)", int | tuple[int, ...], (8,)),
        ("8", int | tuple[int, ...], 8),
        ("()", tuple[int, ...] | None, ()),
        ("none", int | None, None),
        ("q v", str, "q v"),
    ],
)
def test_values_are_read_by_the_type_of_their_field(text, hint, value):
    assert parse(text, hint) == value


def test_overrides_reach_every_part_and_leave_the_recipe_alone():
    recipe = pt.recipe("fpet-lora")
    changed = override(recipe, ["adapter.rank=4", "reducer.block=3", "schedule.min_lr=0", "adapter.0.scale=2"])
    assert (changed.adapters[0].rank, changed.adapters[0].scale) == (4, 2.0)
    assert (changed.reducer.block, changed.schedule.min_lr) == (3, 0.0)
    assert recipe == pt.recipe("fpet-lora")
    with pytest.raises(UsageError, match="expected true or false"):
        override(recipe, ["reducer.proportional=2"])
    with pytest.raises(UsageError, match="expected a whole number or whole numbers separated by commas or none"):
        override(recipe, ["reducer.block=six"])
