"""Training, evaluation and prediction on small images."""

import gc
import itertools
import json
import math
import os
import re
import subprocess
import sys
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_contract import third
from torch import nn

import paretune as pt
from paretune.core.method import Reducer
from paretune.data import ImageArrays
from paretune.data.transforms import evaluation, training
from paretune.errors import UsageError
from paretune.measure.live import Live
from paretune.measure.memory import saved_bytes
from paretune.training.evaluate import evaluate, score
from paretune.training.fit import fit
from paretune.training.log import duration
from paretune.training.loop import scheduler_for
from paretune.training.memory import readable
from paretune.training.metrics import interval, sure
from paretune.training.order import SeededEpochs
from paretune.training.predict import predict, predictions
from paretune.training.runfolder import differences

SHORT = pt.Schedule(epochs=3, batch_size=8, lr=5e-3, warmup_epochs=1)
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2}


LORA = (pt.LoRA(rank=2),)


def small_model(adapters=LORA, reducer=None, seed=0, classes=("ant", "bee", "cow"), **options):
    torch.manual_seed(seed)
    return pt.adapt("vit_tiny_patch16_224", adapters, reducer, list(classes), **SMALL, **options)


def small_sets(model, augment="none", count=20):
    """Noise with a mark whose colour tells the class: `count` images to train on and 9 to validate."""
    rng = np.random.default_rng(0)
    labels = np.arange(count + 9) % 3
    images = rng.integers(0, 255, (count + 9, 16, 16, 3)).astype(np.uint8)
    images[np.arange(count + 9), 4:12, 4:12, labels] //= 8
    data = ImageArrays(images, labels, ("ant", "bee", "cow"), training(model.preprocessing, augment))
    val = ImageArrays(images, labels, data.classes, evaluation(model.preprocessing))
    return data.part(slice(count), "train"), val.part(slice(count, None), "val")


class Interrupted:
    """A data set whose user presses Ctrl-C when image number `after` is asked for."""

    def __init__(self, dataset, after):
        self.dataset, self.left, self.classes, self.describe = dataset, after, dataset.classes, dataset.describe

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.dataset[index]


def run(out, schedule=SHORT, augment="none", interrupt=None, model=None, **options):
    model = model or small_model()
    train, val = small_sets(model, augment)
    train = train if interrupt is None else Interrupted(train, interrupt)
    return fit(model, train, val, schedule, out, device="cpu", quiet=True, **options)


def timeless(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def tensors(out):
    return load_file(Path(out) / "adapter_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------------------ training


def test_the_best_epoch_is_what_the_model_and_the_folder_hold(tmp_path):
    model = small_model((pt.LoRA(rank=4),))
    result = run(tmp_path / "run", replace(SHORT, epochs=6, lr=2e-2), model=model)
    best = max(result.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert (result.best_epoch, result.accuracy, result.loss) == (best["epoch"], best["val_accuracy"], best["val_loss"])
    assert result.accuracy > 0.6
    loaded, (_, val) = pt.load(tmp_path / "run"), small_sets(model)
    metrics = evaluate(loaded, val, batch_size=8, device="cpu")
    assert metrics.accuracy == result.accuracy
    assert metrics.loss == pytest.approx(result.loss, abs=1e-6)
    images = torch.stack([image for image, _ in val])
    assert torch.equal(loaded(images), model(images))


def test_the_record_tells_how_to_repeat_the_run(tmp_path):
    result = run(tmp_path, notes={"recipe": "mine"}, seed=3)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record == json.loads(json.dumps(result.record))
    assert record["schedule"] == asdict(SHORT)
    assert (record["seed"], record["recipe"], record["processes"], record["mixed_precision"]) == (3, "mine", 1, "no")
    assert record["model"]["adapters"][0]["kind"] == "LoRA"
    assert record["data"]["train"]["per_class"] == {"ant": 7, "bee": 7, "cow": 6}
    assert record["data"]["classes"] == ["ant", "bee", "cow"]
    assert len(record["data"]["val"]["fingerprint"]) == 64
    assert record["preprocessing"]["input_size"] == [3, 16, 16]
    assert record["environment"]["torch"] == torch.__version__.split("+")[0]
    assert record["environment"]["cores"] == os.cpu_count()
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3]
    assert not (tmp_path / "state").exists()
    assert list((tmp_path / "logs").glob("events.*"))


def test_only_trained_tensors_change(tmp_path):
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(tmp_path, model=model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == trained
    assert trained


@pytest.mark.parametrize(
    "reducer", [pt.FPET(block=1, refine_width=8), pt.DynamicViT(blocks=(1, 2))], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("interrupt", third((25, 5, 45), pytest.mark.slow))
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, interrupt, reducer):
    schedule = replace(SHORT, label_smoothing=0.1)
    options = {"schedule": schedule, "augment": "crop", "accumulate": 2}

    def model(seed):  # the second start has other initial values: the state must bring back all that is trained
        return small_model((pt.AdaptFormer(width=4),), reducer, seed, drop_path_rate=0.1)

    whole = run(tmp_path / "whole", model=model(0), **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", model=model(0), interrupt=interrupt + 1, **options)  # one image shows the shape
    resumed = run(tmp_path / "part", model=model(0), resume=True, **options)
    assert timeless(resumed.history) == timeless(whole.history)
    assert resumed.best_epoch == whole.best_epoch
    assert same(tensors(tmp_path / "part"), tensors(tmp_path / "whole"))


def test_an_interrupted_run_can_be_used(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt=45)
    facts = json.loads((tmp_path / "adapter_config.json").read_text())["training"]
    loaded, (_, val) = pt.load(tmp_path), small_sets(small_model())
    assert evaluate(loaded, val, batch_size=8, device="cpu").accuracy == facts["best_val_accuracy"]
    assert facts["best_epoch"] in (1, 2)
    assert not (tmp_path / "record.json").exists()


def test_a_backbone_from_nowhere_is_written_once_a_run(tmp_path, monkeypatch):
    from paretune import checkpoint

    names = []
    write = checkpoint.write_tensors
    monkeypatch.setattr(
        checkpoint, "write_tensors", lambda t, path, facts: names.append(len(t)) or write(t, path, facts)
    )
    model = small_model()
    run(tmp_path, replace(SHORT, epochs=5), model=model)
    trained = sum(p.requires_grad for p in model.parameters())
    assert names.count(trained) >= 2
    assert len(names) == names.count(trained) + 1


def rows(*pairs):
    return [{"epoch": i + 1, "val_accuracy": a, "val_loss": loss} for i, (a, loss) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("choose", "epochs", "best"),
    [
        ("score", [(0.5, 2.0), (0.80, 1.0), (0.78, 0.5), (0.8, 0.9)], 4),
        ("loss", [(0.5, 2.0), (0.80, 1.0), (0.78, 0.5), (0.8, 0.9)], 3),
        ("careful", [(0.5, 2.0), (0.80, 1.0), (0.78, 0.5), (0.8, 0.9)], 3),  # 46 images cannot tell 78 from 80 %
        ("careful", [(0.80, 1.0), (0.60, 0.5)], 1),
        ("careful", [(0.80, 1.0), (0.78, 0.5), (0.95, 2.0)], 3),
        ("careful", [(0.1, 0.1), (0.80, 1.0)], 2),
    ],
)
def test_the_epoch_is_chosen_by_the_score_by_the_loss_or_carefully(choose, epochs, best):
    from paretune.training.loop import Training

    training = Training.__new__(Training)
    training.choose, training.chooser, training.validated, training.history = choose, "val_accuracy", 46, []
    kept = None
    for row in rows(*epochs):
        training.history.append(row)
        kept = row if kept is None or training._better(row, kept) else kept
    assert kept["epoch"] == best


def test_intervals_hold_the_shares_that_the_images_cannot_rule_out():
    from scipy.stats import binomtest

    for right, images in ((0, 5), (3, 5), (46, 46), (170, 200), (1, 1000)):
        expected = binomtest(right, images).proportion_ci(0.95, method="wilson")
        assert interval(right / images, images) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert sure("val_accuracy", 0.85, 200) == "val accuracy 85.00% (79.4 to 89.3)"
    assert sure("r2", 0.5, 200) == "R2 0.5"


def test_it_is_told_early_how_long_the_training_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("paretune.training.log.ENOUGH", 0.0)
    train, val = small_sets(small_model())
    fit(small_model(), train, val, SHORT, tmp_path, device="cpu")
    told = capsys.readouterr().err
    assert told.count("training will take about") == 1
    assert re.search(r"epoch 1/3 .* s, \d+ s left", told)
    assert re.search(r"epoch 3/3 .* s$", told, re.MULTILINE)
    assert [duration(s) for s in (8.2, 200, 4800)] == ["8 s", "3 min", "1 h 20 min"]


def test_resuming_needs_the_same_settings_and_data(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt=30)
    for options, names in (
        ({"schedule": replace(SHORT, lr=1e-2)}, r"schedule\.lr was 0\.005, is 0\.01"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"model": small_model(seed=1)}, r"model\.frozen_fingerprint was"),
        ({"model": small_model((pt.LoRA(rank=3),))}, r"model\.adapters was .*\"rank\": 2.*\"rank\": 3"),
    ):
        with pytest.raises(UsageError, match=names):
            run(tmp_path, resume=True, **options)
    model = small_model()
    train, val = small_sets(model, count=19)
    with pytest.raises(UsageError, match=r"data\.train\.images was 20, is 19"):
        fit(model, train, val, SHORT, tmp_path, device="cpu", quiet=True, resume=True)


def test_a_damaged_state_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt=30)
    path = tmp_path / "state" / "epoch.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="damaged"):
        run(tmp_path, resume=True)


def test_a_folder_that_holds_a_run_is_taken(tmp_path):
    with pytest.raises(UsageError, match="no interrupted run"):
        run(tmp_path, resume=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt=30)
    with pytest.raises(UsageError, match="already holds a run that was begun"):
        run(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    run(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="already holds a finished run"):
        run(tmp_path)
    with pytest.raises(UsageError, match="nothing to resume"):
        run(tmp_path, resume=True)
    first = tensors(tmp_path)
    run(tmp_path, overwrite=True, seed=1)
    assert not same(first, tensors(tmp_path))
    assert (tmp_path / "mine.txt").exists()


def test_random_order_and_transforms_do_not_depend_on_workers(tmp_path):
    alone = run(tmp_path / "alone", augment="crop")
    helped = run(tmp_path / "helped", augment="crop", workers=1)
    assert timeless(alone.history) == timeless(helped.history)
    assert same(tensors(tmp_path / "alone"), tensors(tmp_path / "helped"))


def test_seeded_epochs_leave_the_generators_alone_and_change_with_the_epoch():
    order = SeededEpochs([torch.rand] * 9, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = list(order)
    assert order[0] is torch.rand
    assert torch.equal(torch.rand(1), expected)
    assert sorted(first) == list(range(9))
    order.epoch = 1
    assert list(order) != first


def test_two_small_batches_accumulated_are_one_large_batch(tmp_path):
    def trained(out, batch_size, accumulate):
        model = small_model((pt.LoRA(rank=2, dropout=0.0),))
        train, val = small_sets(model, count=16)
        schedule = replace(SHORT, batch_size=batch_size, epochs=2)
        return fit(model, train, val, schedule, tmp_path / out, device="cpu", quiet=True, accumulate=accumulate)

    one, two = trained("one", 8, 1), trained("two", 4, 2)
    assert [row["lr"] for row in one.history] == [row["lr"] for row in two.history]
    for a, b in zip(one.history, two.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4)
        assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-4)


def test_bf16_trains_and_fp16_needs_a_gpu(tmp_path):
    result = run(tmp_path / "bf16", mixed_precision="bf16")
    assert result.record["mixed_precision"] == "bf16"
    assert all(tensor.dtype == torch.float32 for tensor in tensors(tmp_path / "bf16").values())
    assert run(tmp_path / "no").record["mixed_precision"] == "no"
    with pytest.raises(UsageError, match="needs a GPU"):
        run(tmp_path / "fp16", mixed_precision="fp16")
    with pytest.raises(UsageError, match="unknown mixed precision"):
        run(tmp_path / "x", mixed_precision="bf61")


def test_the_learning_rate_warms_up_and_follows_the_cosine():
    schedule = pt.Schedule(epochs=10, lr=1.0, warmup_epochs=2, warmup_lr=0.1, min_lr=0.01)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=schedule.lr)
    scheduler, seen = scheduler_for(optimizer, schedule, updates_per_epoch=5), []
    for update in range(1, 51):
        seen.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(update)
    warm = [0.1 + 0.09 * update for update in range(10)]
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * update / 50)) / 2 for update in range(10, 50)]
    assert seen == pytest.approx(warm + cosine)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"warmup_epochs": 3}, "warmup_epochs=3 must be from 0 to below epochs=3"),
        ({"lr": 1e30, "warmup_epochs": 0}, "training loss became .* smaller learning rate"),
    ],
)
def test_schedules_that_cannot_be_are_refused(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path, replace(SHORT, **change))


def test_models_and_sets_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no trained tensor"):
        run(tmp_path, model=small_model(()).requires_grad_(False))
    with pytest.raises(UsageError, match="the model has 2 classes"):
        run(tmp_path, model=small_model(classes=("ant", "bee")))
    model = small_model()
    train, val = small_sets(model)
    with pytest.raises(UsageError, match="different classes"):
        fit(model, train, replace(val, classes=("ant", "bee", "elk")), SHORT, tmp_path, device="cpu")


def test_every_loss_of_the_reducer_is_told_by_name(tmp_path, capsys):
    model = small_model(LORA, pt.DynamicViT(blocks=(1, 2)))
    train, val = small_sets(model)
    result = fit(model, train, val, replace(SHORT, epochs=2), tmp_path, device="cpu")
    names = ["train_loss", "train_ratio", "train_distill_logits", "train_distill_tokens"]
    for row in json.loads((tmp_path / "record.json").read_text())["history"]:
        assert list(row) == ["epoch", "lr", *names, "val_loss", "val_accuracy", "seconds"]
        assert all(0 < row[name] < 10 for name in names)
    board = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert board.Tags()["scalars"] == ["lr", *names, "val_loss", "val_accuracy"]
    for name in names:
        told = [event.value for event in board.Scalars(name)]
        assert told == pytest.approx([row[name] for row in result.history])
    first = result.history[0]
    told = "  ".join(f"{name.replace('_', ' ')} {first[name]:.4f}" for name in [*names, "val_loss"])
    assert told in capsys.readouterr().err


def test_training_minimises_the_sum_of_the_losses(tmp_path):
    class Pull(Reducer):
        """Adds a loss that is least where its one tensor is 3."""

        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(()))

        def forward(self, block, look, tokens):
            return None

        def losses(self, run, teacher, divergence):
            assert run.tokens.x.requires_grad
            assert teacher is None
            assert not torch.is_autocast_enabled("cpu")  # losses are float32
            return {"pull": (self.value - 3.0).square()}

    model = small_model()
    model.reducer = Pull()
    result = run(tmp_path, replace(SHORT, epochs=12, lr=0.2), model=model, mixed_precision="bf16")
    pulls = [row["train_pull"] for row in result.history]
    assert pulls[0] == pytest.approx(9.0, abs=0.1)
    assert pulls[-1] < 0.5
    assert "train_pull" not in run(tmp_path / "plain", replace(SHORT, epochs=2)).history[0]


def test_without_a_reducer_that_adds_losses_there_is_one_forward_per_batch(tmp_path):
    model, forwards = small_model(LORA, pt.EViT(blocks=(1,))), []
    model.backbone.norm.register_forward_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    run(tmp_path, replace(SHORT, epochs=2), model=model)  # 20 images in 3 batches, 9 validation images in 2
    assert forwards.count(True) == 2 * 3
    assert forwards.count(False) == 2 * 2


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, precision):
    model = small_model(LORA, pt.DynamicViT(blocks=(1,)))
    model.reducer.losses = lambda *runs: {"ratio": torch.tensor(torch.nan)}  # the gradient stays finite
    with pytest.raises(UsageError, match="training loss became nan in epoch 1"):
        run(tmp_path, model=model, mixed_precision=precision)


def test_validation_runs_in_the_precision_of_the_training(tmp_path):
    model, seen = small_model(), []
    model.backbone.head.register_forward_hook(lambda module, args, out: seen.append((module.training, out.dtype)))
    run(tmp_path, replace(SHORT, epochs=1, warmup_epochs=0), model=model, mixed_precision="bf16")
    assert set(seen[1:]) == {(True, torch.bfloat16), (False, torch.bfloat16)}  # the first shows the memory


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param("lora", marks=pytest.mark.exhaustive), "sparse-tuning-dynamicvit"])
def test_two_processes_train_together(tmp_path, recipe):
    """As `accelerate launch` starts them, on the CPU by gloo: one speaks and writes, both count."""
    for i in range(10):
        for name, colour in (("ant", (200, 30, 30)), ("bee", (30, 30, 200))):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(tmp_path / "data" / name / f"{i}.png")
    launch = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 -m paretune train"
    settings = "--model paretune_tiny --no-pretrained --epochs 2 --batch-size 4 --workers 0 --device cpu"
    paths = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    command = [*launch.split(), *settings.split(), *paths, "--recipe", recipe]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["history"][1]["val_accuracy"] >= 0.5
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["processes"] == 2
    assert ("train_ratio" in record["history"][1]) == (recipe != "lora")
    assert pt.load(tmp_path / "out").classes == ["ant", "bee"]


# --------------------------------------------------------------------------------------------------------------- memory


def test_saved_bytes_of_a_linear_layer_and_a_relu_are_input_and_output():
    layer = nn.Sequential(nn.Linear(10, 20), nn.ReLU())
    assert saved_bytes(layer, torch.zeros(3, 10)) == 4 * (3 * 10 + 3 * 20)


def peak(model, count):
    """The most bytes of tensors in a step of so many images."""
    with Live() as live:
        model.train()(torch.zeros(count, 3, 16, 16)).sum().backward()
        model.zero_grad()
    return max(live.course)


def test_a_reducer_and_fewer_trained_tensors_need_less_memory():
    need = [
        peak(small_model(adapters, reducer), 8)
        for adapters, reducer in (((), None), (LORA, pt.FPET(block=0, refine_width=0)), (LORA, None))
    ]
    assert need == sorted(set(need))
    assert [readable(size) for size in (12, 1234, 2_500_000_000)] == ["12 bytes", "1.23 kB", "2.5 GB"]


# --------------------------------------------------------------------------------------------------- evaluate, predict


def test_metrics_are_what_counting_by_hand_gives():
    logits = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 3, 0], [3, 0, 0]])
    labels = torch.tensor([0, 1, 0, 0])
    metrics = score(nn.Identity(), [(logits[:3], labels[:3]), (logits[3:], labels[3:])], ("ant", "bee", "cow"))
    assert metrics.accuracy == 0.75
    assert metrics.images == 4
    assert metrics.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    ant, cow = metrics.per_class["ant"], metrics.per_class["cow"]
    assert ant == {"images": 3, "accuracy": pytest.approx(2 / 3), "precision": 1.0, "f1": pytest.approx(0.8)}
    assert cow == {"images": 0, "accuracy": None, "precision": None, "f1": None}
    json.dumps(metrics.to_dict())


def test_predictions_come_in_order_with_the_most_likely_class_first(tmp_path):
    model = small_model().eval()
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (20, 20), (i * 50, 255 - i * 50, 0)).save(path)
    found = predict(model, paths, top=2, batch_size=2, device="cpu")
    assert [path for path, _ in found] == [str(path) for path in paths]
    images = torch.stack([evaluation(model.preprocessing)(Image.open(path)) for path in paths])
    probabilities = model(images).softmax(-1)
    for (_, best), row in zip(found, probabilities, strict=True):
        assert best[0] == (model.classes[row.argmax()], pytest.approx(row.max().item(), abs=1e-6))
        assert best[0][1] >= best[1][1]


def test_predictions_of_endless_paths_come_one_by_one_and_say_what_cannot_be_read(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    paths = itertools.cycle([tmp_path / "a.png", tmp_path / "none.png"])
    found = list(itertools.islice(predictions(small_model(), paths, batch_size=4, device="cpu"), 10))
    assert [one.error for one in found] == ["", "no such file"] * 5
    assert found[1].outputs is None
    with pytest.raises(UsageError, match=r"cannot read image .*none\.png: no such file"):
        predict(small_model(), [tmp_path / "a.png", tmp_path / "none.png"], device="cpu")


def test_differences_name_every_leaf():
    then, now = {"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [2]}, "e": 3}
    assert list(differences(then, now)) == ["b.c was [1], is [2]", "b.d was 2, is null", "e was null, is 3"]


def test_it_is_validated_when_it_is_time_to_and_after_the_last_epoch(tmp_path):
    result = run(tmp_path, replace(SHORT, epochs=5), look_every=2)
    assert [row["epoch"] for row in result.history if "val_accuracy" in row] == [2, 4, 5]
    assert result.best_epoch in (2, 4, 5)


def test_looking_once_keeps_the_last_epoch(tmp_path):
    result = run(tmp_path, look_every=3)
    assert result.best_epoch == 3
    assert ["val_loss" in row for row in result.history] == [False, False, True]


def test_counting_what_is_saved_keeps_nothing_alive():
    model = small_model()
    kept = weakref.ref(model.backbone.blocks[0].mlp.fc1.weight)
    saved_bytes(model, torch.zeros(1, 3, 16, 16))
    del model
    gc.collect()
    assert kept() is None


def test_many_classes_have_scores_and_no_matrix():
    from paretune.training.metrics import MOST_CONFUSED, class_scores

    for count in (MOST_CONFUSED, 100_000):
        classes = [str(i) for i in range(count)]
        found = class_scores(torch.tensor([5, 7, count - 1]), torch.tensor([5, 6, count - 1]), classes)
        assert found.overall["accuracy"] == pytest.approx(2 / 3)
        assert found.overall["balanced_accuracy"] == pytest.approx(2 / 3)
        assert found.per_class["6"]["accuracy"] == 0
        assert (found.confusion is None) == (count > MOST_CONFUSED)
