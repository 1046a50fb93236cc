"""One class of several, any number of labels, numbers: trained, scored, saved and read."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from anatomies import ANATOMIES
from PIL import Image
from sklearn import metrics as by_sklearn
from test_contract import third
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import paretune as pt
from paretune.core.target_units import units_of
from paretune.data import ImageArrays
from paretune.data.transforms import evaluation
from paretune.errors import UsageError
from paretune.training import tasks
from paretune.training.evaluate import evaluate, score
from paretune.training.fit import fit
from paretune.training.metrics import class_scores, figure, label_scores, most_confused, number_scores, told
from paretune.training.objective import Objective
from paretune.training.predict import predict

COLOURS = ("red", "green", "blue")
SCALE = ("brightness", "x")
SHORT = pt.Schedule(epochs=3, batch_size=8, lr=5e-3, warmup_epochs=1)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
TASKS = ("multiclass", "multilabel", "regression")


def squares(count, seed=0):
    """Gray pictures with a square of any of three colours: (images, which of them are there)."""
    rng = np.random.default_rng(seed)
    there = rng.random((count, 3)) < 0.5
    images = np.full((count, 32, 32, 3), 128, np.uint8)
    for image, labels in zip(images, there, strict=True):
        for corner, colour in zip(rng.permutation(4), range(3), strict=False):
            if labels[colour]:
                y, x = 16 * (corner // 2) + 2, 16 * (corner % 2) + 2
                image[y : y + 12, x : x + 12] = 255 * np.eye(3)[colour]
    return images, there.astype(np.int64)


def spots(count, seed=0):
    """A red square on gray: (images, [brightness of the gray in thousandths of a level, place of the square in km])."""
    rng = np.random.default_rng(seed)
    levels, places = rng.integers(40, 200, count), rng.integers(0, 24, count)
    images = np.repeat(levels.astype(np.uint8), 32 * 32 * 3).reshape(count, 32, 32, 3)
    for image, x in zip(images, places, strict=True):
        image[8:24, x : x + 8] = (250, 20, 20)
    return images, np.stack([levels * 1000, places / 1000], 1).astype(np.float32)


def data_of(task, count):
    """Pictures for a task: (images, targets, names). Of multiclass the class is how many squares there are."""
    images, targets = spots(count) if task == "regression" else squares(count)
    if task == "multiclass":
        return images, targets.sum(1), ("none", "one", "two", "three")
    return images, targets, SCALE if task == "regression" else COLOURS


def sets(task, model, train, val, scale=1.0, shift=0.0):
    images, targets, names = data_of(task, train + val)
    targets = targets * scale + shift if task == "regression" else targets
    data = ImageArrays(images, targets, names, evaluation(model.preprocessing), task=task)
    return data.part(slice(train), "train"), data.part(slice(train, None), "val")


def small(task, reducer=None):
    torch.manual_seed(0)
    names = data_of(task, 1)[2]
    return pt.adapt("vit_tiny_patch16_224", [pt.LoRA(rank=2, bits=8)], reducer, list(names), task=task, **SMALL)


def probe(task):
    torch.manual_seed(0)
    return pt.adapt("paretune_tiny", [], None, list(data_of(task, 1)[2]), pretrained=True, task=task)


def train(model, out, schedule=SHORT, count=20, data=None, **options):
    data = data or sets(model.task, model, count, 9)
    return fit(model, *data, schedule, out, device="cpu", quiet=True, **options)


def timeless(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.mark.slow
def test_a_model_learns_which_labels_are_there(tmp_path):
    model = probe("multilabel")
    data = sets("multilabel", model, 200, 60)
    train(model, tmp_path, replace(SHORT, epochs=12, batch_size=32, lr=2e-2), data=data)
    found = evaluate(pt.load(tmp_path), data[1], device="cpu")
    assert found.main == "mean_average_precision"
    assert found.scores["mean_average_precision"] > 0.9
    assert found.scores["micro_f1"] > 0.75
    assert {row["positives"] for row in found.per_class.values()} == set(data[1].targets.sum(0).tolist())
    assert found.confusion is None


@pytest.mark.slow
def test_a_model_learns_numbers_of_very_different_sizes(tmp_path):
    model = probe("regression")
    data = sets("regression", model, 200, 60)
    train(model, tmp_path, replace(SHORT, epochs=40, batch_size=32, lr=2e-2), data=data)
    found = evaluate(pt.load(tmp_path), data[1], device="cpu")
    assert found.main == "r2"
    assert all(row["r2"] > 0.5 for row in found.per_class.values()), found.per_class
    assert found.per_class["brightness"]["mae"] < 25_000
    assert found.per_class["x"]["mae"] < 0.005


@pytest.mark.slow
def test_class_weights_raise_the_balanced_accuracy_where_classes_are_unbalanced(tmp_path):
    images, there = squares(400, seed=3)
    labels = there[:, 0] & there[:, 1]
    rare, common = (np.flatnonzero(labels == label) for label in (1, 0))
    found = {}
    for weights in ("none", "auto"):
        torch.manual_seed(0)
        model = pt.adapt("paretune_tiny", [], None, ["other", "red and green"], pretrained=True)
        data = ImageArrays(images, labels, ("other", "red and green"), evaluation(model.preprocessing))
        learn = data.part(np.concatenate([rare[:12], common[:180]]), "train")
        look = data.part(np.concatenate([rare[12:62], common[180:230]]), "val")
        schedule = replace(SHORT, epochs=10, batch_size=32, lr=1e-2, class_weights=weights)
        train(model, tmp_path / weights, schedule, data=(learn, look), look_every=schedule.epochs)
        found[weights] = evaluate(model, look, device="cpu").scores["balanced_accuracy"]
    assert found["auto"] > found["none"] + 0.1


@pytest.mark.slow
def test_the_unit_of_a_target_makes_no_difference_to_what_is_learned(tmp_path):
    found = []
    for name, scale, shift in (("plain", 1.0, 0.0), ("other", 512.0, -4096.0)):  # powers of two: no rounding
        model = small("regression", pt.DynamicViT(blocks=(1, 2)))
        data = sets("regression", model, 20, 9, scale, shift)
        result = train(model, tmp_path / name, data=data)
        images = torch.stack([image for image, _ in data[1]])
        found.append((result.history, (model(images) - shift) / scale))
    for row, other in zip(*(history for history, _ in found), strict=True):
        for name in ("train_loss", "train_distill_logits", "val_loss", "val_r2"):
            assert row[name] == pytest.approx(other[name], rel=2e-3)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=2e-3, atol=1e-3)


# -------------------------------------------------------------------------------------------- a run, from start to end


@pytest.mark.parametrize("task", third(TASKS, pytest.mark.slow))
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, task):
    schedule = SHORT if task == "regression" else replace(SHORT, class_weights="auto")
    reducer = pt.DynamicViT(blocks=(1,))
    whole = train(small(task, reducer), tmp_path / "whole", schedule)
    model = small(task, reducer)
    data = sets(task, model, 20, 9)
    object.__setattr__(data[0], "transform", interrupted(data[0].transform, after=30))
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path / "part", schedule, data=data, cache=False)
    assert not (tmp_path / "part" / "record.json").exists()
    resumed = train(small(task, reducer), tmp_path / "part", schedule, resume=True)
    assert timeless(resumed.history) == timeless(whole.history)
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "part")]
    assert files[0] == files[1]


def interrupted(transform, after):
    """A transform whose user presses Ctrl-C at the picture number `after`."""
    left = [after]

    def shown(picture):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return transform(picture)

    return shown


@pytest.mark.parametrize(
    ("task", "chooser", "outputs"),
    [
        ("multiclass", "val_accuracy", "4 classes"),
        ("multilabel", "val_mean_average_precision", "3 labels"),
        ("regression", "val_r2", "2 numbers"),
    ],
)
def test_the_score_of_the_task_chooses_the_epoch_and_is_told_everywhere(tmp_path, capsys, task, chooser, outputs):
    model = small(task)
    result = fit(model, *sets(task, model, 20, 9), SHORT, tmp_path, device="cpu")
    best = max(result.history, key=lambda row: (row[chooser], -row["val_loss"]))
    assert list(best) == ["epoch", "lr", "train_loss", "val_loss", chooser, "seconds"]
    assert (result.best_epoch, result.score, f"val_{result.metric}") == (best["epoch"], best[chooser], chooser)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record[f"best_{chooser}"] == result.score
    said = capsys.readouterr().err
    assert f"9 to validate, {outputs}\n" in said
    assert told(chooser, result.history[0][chooser]) in said
    loaded = evaluate(pt.load(tmp_path), sets(task, model, 20, 9)[1], batch_size=4, device="cpu")
    assert loaded.scores[result.metric] == pytest.approx(result.score, abs=1e-4)
    assert loaded.loss == pytest.approx(result.loss, abs=1e-5)
    if task == "multiclass":
        assert result.accuracy == result.score
    else:
        with pytest.raises(AttributeError, match=f"scored by {result.metric}"):
            _ = result.accuracy


def test_a_score_that_is_not_defined_leaves_the_choice_to_the_loss(tmp_path):
    model = small("regression")
    learn, look = sets("regression", model, 20, 9)
    constant = replace(look, targets=np.ones_like(look.targets))
    result = train(model, tmp_path, data=(learn, constant))
    assert result.score is None
    assert result.loss == min(row["val_loss"] for row in result.history)
    assert json.loads((tmp_path / "record.json").read_text())["best_val_r2"] is None


def test_a_run_begun_before_schedules_had_class_weights_is_resumed(tmp_path):
    model = small("multiclass")
    data = sets("multiclass", model, 20, 9)
    object.__setattr__(data[0], "transform", interrupted(data[0].transform, after=30))
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path, data=data, cache=False)
    path = tmp_path / "state" / "settings.json"
    settings = json.loads(path.read_text())
    del settings["schedule"]["class_weights"]
    path.write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"class_weights was \"none\", is \"auto\""):
        train(small("multiclass"), tmp_path, replace(SHORT, class_weights="auto"), resume=True)
    assert len(train(small("multiclass"), tmp_path, resume=True).history) == SHORT.epochs


# ----------------------------------------------------------------------------------------------------- saving, serving


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "siglip"])
@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_any_task_is_saved_merged_and_loaded_as_it_is(tmp_path, task, name):
    build, size = ANATOMIES[name]
    model = pt.adapt(build(0), [pt.LoRA(rank=2)], None, ["p", "q"], task=task).eval()
    for units in units_of(model):
        units.set(torch.tensor([5.0, -300.0]), torch.tensor([0.01, 1000.0]))
    images = torch.randn(2, 3, *size)
    pt.save(model, tmp_path)
    again = pt.load(tmp_path, backbone=build(0))
    assert (again.task, again.classes) == (task, ["p", "q"])
    assert torch.equal(again(images), model(images))
    torch.testing.assert_close(pt.merge(again)(images), model(images), rtol=1e-4, atol=1e-4)
    assert not units_of(pt.merge(again))
    assert len(units_of(again)) == (task == "regression") * (2 if name == "deit_distilled" else 1)


def test_both_heads_of_a_distilled_model_answer_in_units():
    name = "deit_tiny_distilled_patch16_224"
    model = pt.adapt(name, [], None, ["p"], task="regression", embed_dim=24, depth=1, num_heads=2, img_size=32)
    assert len(units_of(model)) == 2
    images = torch.randn(2, 3, 32, 32)
    before = model.eval()(images)
    for units in units_of(model):
        units.set(torch.tensor([7.0]), torch.tensor([3.0]))
    torch.testing.assert_close(model(images), before * 3 + 7)


def test_a_folder_of_before_there_were_tasks_is_multiclass(tmp_path):
    model = small("multiclass")
    pt.save(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config.pop("task") == "multiclass"
    path.write_text(json.dumps(config))
    assert pt.load(tmp_path).task == "multiclass"
    path.write_text(json.dumps({**config, "task": "multilable"}))
    with pytest.raises(UsageError, match="unknown task 'multilable': did you mean multilabel"):
        pt.load(tmp_path)


def test_what_a_regression_was_trained_for_stays_its_unit_when_it_trains_on(tmp_path):
    model = small("regression")
    train(model, tmp_path / "first")
    again = pt.load(tmp_path / "first")
    units = [units.mean.clone() for units in units_of(again)]
    assert units[0][0] > 10_000
    other = sets("regression", again, 20, 9, scale=3.0)
    train(again, tmp_path / "second", data=other)
    assert torch.equal(units_of(again)[0].mean, units[0])


def test_predictions_read_as_the_task_has_it(tmp_path):
    images, _ = squares(3)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    batch = torch.stack([evaluation(small("multilabel").preprocessing)(Image.open(path)) for path in paths])

    labels = small("multilabel").eval()
    likely = labels(batch).sigmoid()
    for (_, found), row in zip(predict(labels, paths, device="cpu"), likely.tolist(), strict=True):
        wanted = sorted((-p, name) for name, p in zip(COLOURS, row, strict=True) if p > 0.5)
        assert found == [(name, pytest.approx(-p, abs=1e-6)) for p, name in wanted]
    assert all(len(found) == 2 for _, found in predict(labels, paths, top=2, device="cpu"))

    numbers = small("regression").eval()
    units_of(numbers)[0].set(torch.tensor([100.0, 0.5]), torch.tensor([10.0, 0.1]))
    values = numbers(batch).tolist()
    for (_, found), row in zip(predict(numbers, paths, device="cpu"), values, strict=True):
        assert found == [(name, pytest.approx(value)) for name, value in zip(SCALE, row, strict=True)]
        assert abs(found[0][1] - 100) < 50
    with pytest.raises(UsageError, match="leave out top"):
        predict(numbers, paths, top=1, device="cpu")


# -------------------------------------------------------------------------------------------------------------- losses


def test_class_weights_are_inverse_frequencies_whose_mean_over_the_images_is_one():
    labels = np.array([0] * 6 + [1] * 2 + [3] * 1)
    data = ImageArrays(np.zeros((9, 1, 1, 3), np.uint8), labels, ("a", "b", "never", "c"))
    weights = tasks.class_weights(data)
    assert weights.tolist() == pytest.approx([9 / (3 * 6), 9 / (3 * 2), 1.0, 9 / (3 * 1)])
    assert weights[labels].mean().item() == pytest.approx(1)
    logits, targets = torch.randn(4, 4), torch.tensor([0, 1, 3, 0])
    each = F.cross_entropy(logits, targets, reduction="none")
    loss = tasks.WeightedCrossEntropy(weights, 0.0)(logits, targets)
    assert loss.item() == pytest.approx((weights[targets] * each).sum().item() / 4)


def test_positive_weights_make_both_sides_of_a_label_weigh_the_same():
    targets = np.zeros((1000, 4), np.int64)
    targets[:250, 0], targets[:, 1], targets[:2, 2] = 1, 1, 1
    data = ImageArrays(np.zeros((1000, 1, 1, 3), np.uint8), targets, ("a", "all", "few", "none"), task="multilabel")
    weights = tasks.positive_weights(data)
    assert weights.tolist() == pytest.approx([3.0, 0.01, 100.0, 100.0])
    logits, there = torch.randn(5, 4), torch.randint(0, 2, (5, 4)).float()
    model = pt.adapt("vit_tiny_patch16_224", [], None, list(data.classes), task="multilabel", **SMALL)
    loss = tasks.criterion(model, replace(SHORT, class_weights="auto"), data)(logits, there)
    p = logits.sigmoid()
    by_hand = -(weights * there * p.log() + (1 - there) * (1 - p).log()).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_divergence_of_a_task_is_that_of_its_distributions():
    student, teacher = torch.randn(2, 6, 2, dtype=torch.float64)
    bernoulli = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)).mean()
    assert tasks.kind_of(small("multilabel")).divergence(student, teacher).item() == pytest.approx(bernoulli.item())
    model, deviation = small("regression"), torch.tensor([2.0, 50.0])
    units_of(model)[0].set(torch.zeros(2), deviation)
    normal = kl_divergence(Normal(teacher, deviation), Normal(student, deviation)).mean()
    assert tasks.kind_of(model).divergence(student, teacher).item() == pytest.approx(normal.item())
    for task in TASKS:
        assert tasks.kind_of(small(task)).divergence(teacher, teacher).item() == pytest.approx(0, abs=1e-12)


def test_the_reducers_losses_use_the_divergence_of_the_task():
    for task in ("multilabel", "regression"):
        reducer = pt.DynamicViT(blocks=(1,), ratio=0.0, distill_logits=0.5, distill_tokens=0.0)
        model = small(task, reducer).train()
        for units in units_of(model):
            units.set(torch.tensor([5.0, 7.0]), torch.tensor([100.0, 0.01]))
        images = torch.randn(4, 3, 32, 32)
        torch.manual_seed(1)
        losses = Objective(model, nn.MSELoss())(images, torch.zeros(4, len(model.classes)))
        torch.manual_seed(1)
        run, teacher = model.run(images), model.eval().run(images, reduced=False)
        wanted = tasks.kind_of(model).divergence(run.logits, teacher.logits)
        assert losses["distill_logits"].item() == pytest.approx(0.5 * wanted.item(), rel=1e-4)


# -------------------------------------------------------------------------------------------------------------- scores


def test_class_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 5, 60), rng.integers(0, 5, 60)
    true[true == 3] = 0  # a class that is answered, but has no image
    names = tuple("abcdef")  # f is never there and never answered
    found = class_scores(torch.tensor(said), torch.tensor(true), names)
    assert found.overall["accuracy"] == by_sklearn.accuracy_score(true, said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on classes without images
        assert found.overall["balanced_accuracy"] == pytest.approx(by_sklearn.balanced_accuracy_score(true, said))
    assert found.overall["macro_f1"] == pytest.approx(by_sklearn.f1_score(true, said, average="macro"))
    assert found.confusion == by_sklearn.confusion_matrix(true, said, labels=range(6)).tolist()
    assert found.per_class["d"] == {"images": 0, "accuracy": None, "precision": 0.0, "f1": 0.0}
    assert found.per_class["f"] == {"images": 0, "accuracy": None, "precision": None, "f1": None}
    precision = by_sklearn.precision_score(true, said, labels=[1], average=None)[0]
    assert found.per_class["b"]["precision"] == pytest.approx(precision)


def test_label_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, there = 30 * rng.normal(size=(50, 4)), rng.random((50, 4)) < 0.3  # 30: a float32 sigmoid would make ties
    there[:, 2] = False
    logits[:, 2] = -5.0  # neither there nor said to be
    found = label_scores(torch.tensor(logits).float(), torch.tensor(there).float(), tuple("abcd"))
    some = [0, 1, 3]
    ap = by_sklearn.average_precision_score(there[:, some], logits[:, some], average=None)
    assert [found.per_class["abcd"[i]]["average_precision"] for i in some] == pytest.approx(ap, abs=1e-5)
    assert found.overall["mean_average_precision"] == pytest.approx(ap.mean(), abs=1e-5)
    said = logits > 0
    assert found.overall["micro_f1"] == pytest.approx(by_sklearn.f1_score(there, said, average="micro"))
    each = by_sklearn.f1_score(there[:, some], said[:, some], average=None)
    assert found.overall["macro_f1"] == pytest.approx(each.mean())
    assert found.per_class["c"] == {"positives": 0, "average_precision": None, "f1": None}


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1.0, 1e4)])
def test_number_scores_are_those_of_scikit_learn_whatever_the_unit(scale, shift):
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(40, 2)) * scale + shift
    given = wanted + 0.4 * scale * rng.normal(size=(40, 2))
    found = number_scores(torch.tensor(given), torch.tensor(wanted), SCALE)
    assert found.overall["r2"] == pytest.approx(by_sklearn.r2_score(wanted, given), abs=1e-6)
    assert found.overall["mae"] == pytest.approx(by_sklearn.mean_absolute_error(wanted, given))
    rmse = by_sklearn.root_mean_squared_error(wanted, given, multioutput="raw_values")
    assert [row["rmse"] for row in found.per_class.values()] == pytest.approx(rmse)
    pearson = [np.corrcoef(wanted[:, i], given[:, i])[0, 1] for i in range(2)]
    assert [row["pearson"] for row in found.per_class.values()] == pytest.approx(pearson)


def test_what_is_not_defined_is_none_and_never_nan():
    constant = number_scores(torch.zeros(3, 1), torch.ones(3, 1), ("x",))
    assert constant.overall == {"r2": None, "mae": 1.0, "rmse": 1.0, "pearson": None}
    one_answer = number_scores(torch.zeros(3, 1), torch.tensor([[1.0], [2], [3]]), ("x",))
    assert one_answer.overall["pearson"] is None
    assert one_answer.overall["r2"] < 0
    assert number_scores(torch.ones(1, 1), torch.ones(1, 1), ("x",)).overall["r2"] is None
    assert label_scores(-torch.ones(2, 1), torch.zeros(2, 1), ("x",)).overall == {
        "mean_average_precision": None, "micro_f1": None, "macro_f1": None,
    }  # fmt: skip
    assert (figure("r2", None), figure("val_macro_f1", 0.5), figure("mae", 1234.5)) == ("-", "50.00%", "1234")
    assert told("mean_average_precision", 0.25) == "mean average precision 25.00%"


@pytest.mark.parametrize("task", TASKS)
def test_scores_do_not_depend_on_the_batches_and_are_plain_json(task):
    model = small(task)
    _, look = sets(task, model, 1, 11)
    one, many = (evaluate(model, look, batch_size=size, device="cpu").to_dict() for size in (11, 2))
    assert json.loads(json.dumps(one)) == one
    for name in [one["main"], "loss"]:
        assert one[name] == pytest.approx(many[name], rel=1e-4)
    assert one["images"] == many["images"] == 11
    assert one["confusion"] == many["confusion"]


@pytest.mark.parametrize("task", TASKS)
def test_what_other_processes_saw_counts_as_well(task):
    model = small(task).eval()
    _, look = sets(task, model, 1, 12)
    batches = list(torch.utils.data.DataLoader(look, 3))
    whole = score(model, batches, look.classes)
    others = iter(batches[2:])

    def gather(mine):
        images, targets = next(others)
        return torch.cat([mine[0], model(images).float()]), torch.cat([mine[1], targets])

    together = score(model, batches[:2], look.classes, gather)
    assert together.images == 12
    assert together.scores == pytest.approx(whole.scores, abs=1e-5)
    assert together.loss == pytest.approx(whole.loss, abs=1e-5)


def test_the_most_frequent_wrong_answers_come_first():
    confusion = [[5, 1, 0], [2, 7, 3], [0, 0, 9]]
    assert most_confused(confusion, "abc", 2) == [("b", "c", 3), ("b", "a", 2)]
    assert len(most_confused(confusion, "abc", 9)) == 3


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("task", "change", "sentence"),
    [
        ("multilabel", {"label_smoothing": 0.1}, "label_smoothing=0.1 is for one class of several, not for multilabel"),
        ("regression", {"label_smoothing": 0.1}, "not for regression"),
        ("regression", {"class_weights": "auto"}, "class_weights='auto' is for classes and labels"),
        ("multiclass", {"class_weights": "some"}, "class_weights='some': must be 'none' or 'auto'"),
    ],
)
def test_settings_that_make_no_sense_for_a_task_are_refused(tmp_path, task, change, sentence):
    with pytest.raises(UsageError, match=sentence):
        train(small(task), tmp_path, replace(SHORT, **change))
    assert not list(tmp_path.iterdir())


def test_targets_that_are_none_are_refused(tmp_path):
    model = small("regression")
    learn, look = sets("regression", model, 20, 9)
    learn.targets[3, 1] = np.nan
    with pytest.raises(UsageError, match="no finite numbers"):
        train(model, tmp_path, data=(learn, look))
    model = small("multilabel")
    learn, look = sets("multilabel", model, 20, 9)
    learn.targets[3, 1] = 2
    with pytest.raises(UsageError, match="neither 0 nor 1"):
        train(model, tmp_path, data=(learn, look))


def test_a_model_is_not_trained_or_judged_on_data_of_another_task(tmp_path):
    labels, numbers = (sets(task, small(task), 20, 9) for task in ("multilabel", "regression"))
    wrong = "made for the task 'multilabel', the data for 'regression'"
    with pytest.raises(UsageError, match=wrong):
        train(small("multilabel"), tmp_path, data=numbers)
    with pytest.raises(UsageError, match=wrong):
        evaluate(small("multilabel"), numbers[1], device="cpu")
    with pytest.raises(UsageError, match="have different tasks"):
        train(small("multilabel"), tmp_path, data=(labels[0], replace(numbers[1], classes=labels[0].classes)))


def test_outputs_are_refused_where_a_task_cannot_have_them():
    assert pt.adapt("paretune_tiny", classes=1, task="regression").classes == ["0"]
    for options, sentence in (
        ({"classes": 1}, "at least two different classes"),
        ({"classes": [], "task": "multilabel"}, "at least one output"),
        ({"classes": ["a", "a"], "task": "regression"}, "two different classes"),
        ({"task": "regression"}, "needs a new head"),
        ({"classes": 2, "task": "regresion"}, "unknown task 'regresion': did you mean regression"),
    ):
        with pytest.raises(UsageError, match=sentence):
            pt.adapt("paretune_tiny", **options)
