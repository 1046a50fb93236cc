"""The temperature: fitted on validation images, kept in the folder, used for probabilities and for nothing else."""

import json

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from test_cli import TINY, cli, draw_tree
from test_train import SHORT, small_model, small_sets
from torch import nn

import paretune as pt
from paretune.errors import UsageError
from paretune.training import calibration
from paretune.training.calibration import Errors, Logits, best_temperature
from paretune.training.evaluate import evaluate
from paretune.training.fit import fit
from paretune.training.predict import predict
from paretune.training.worst import Worst


def answers(sharpness, count=4000, classes=4, seed=0):
    """Logits that are `sharpness` times those from which the labels were drawn."""
    generator = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(true.softmax(-1), 1, generator=generator)[:, 0]
    return sharpness * true, labels


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_sharp_the_answers_are(sharpness):
    logits, labels = answers(sharpness)
    found = best_temperature(logits, labels)
    assert found == pytest.approx(sharpness, rel=0.1)
    loss = minimize_scalar(
        lambda t: F.cross_entropy(logits.double() / t, labels).item(), bounds=calibration.BOUNDS, method="bounded"
    )
    assert found == pytest.approx(loss.x, rel=1e-3)
    before, after = Errors(4, found), Errors(4, 1.0)
    for one in (before, after):
        one.add(logits, labels)
    assert after.value()[0] == after.value()[1] == before.value()[0]
    assert before.value()[1] < 0.03
    assert sharpness == 1 or before.value()[1] < before.value()[0] / 3


def test_answers_that_are_all_right_or_all_wrong_stay_within_bounds():
    logits, labels = torch.eye(3)[[0, 1, 2, 0]] * 5, torch.tensor([0, 1, 2, 0])
    low, high = calibration.BOUNDS
    assert low <= best_temperature(logits, labels) < 0.2  # all the same in 64 bits
    assert best_temperature(logits, (labels + 1) % 3) == pytest.approx(high)


def test_of_many_numbers_an_even_part_is_kept(monkeypatch):
    monkeypatch.setattr(calibration, "MOST", 40)
    found = Logits(100, 2)  # every fifth image
    for start in range(0, 100, 7):
        rows = torch.arange(start, min(100, start + 7))
        found.add(torch.stack([rows, rows], 1).float(), rows)
    assert torch.cat(found.labels).tolist() == list(range(0, 100, 5))
    assert torch.cat(found.logits)[:, 0].tolist() == list(range(0, 100, 5))


@pytest.fixture
def few_are_enough(monkeypatch):
    monkeypatch.setattr("paretune.training.fit.LEAST", 9)


def fitted(out, **options):
    model = small_model()
    return model, fit(model, *small_sets(model), SHORT, out, device="cpu", **options)


def test_training_keeps_the_temperature_that_fits_the_best_epoch(tmp_path, few_are_enough, capsys):
    model, result = fitted(tmp_path / "run")
    plain, other = fitted(tmp_path / "plain", calibrate=False)
    found, (_, val) = Logits(9, 3), small_sets(model)
    metrics = evaluate(plain, val, 8, "cpu", watch=found.add)
    assert result.record["temperature"] == model.temperature == pytest.approx(found.temperature(), rel=1e-4)
    assert set(result.record["calibration_error"]) == {"before", "after"}
    assert f"temperature {model.temperature:.2f}: expected calibration error" in capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["temperature"] == model.temperature
    loaded = pt.load(tmp_path / "run")
    assert loaded.temperature == model.temperature
    images = torch.stack([image for image, _ in val])
    assert torch.equal(loaded(images), plain(images))
    again = evaluate(loaded, val, 8, "cpu")
    assert (again.scores, again.loss) == (metrics.scores, metrics.loss)
    assert other.record.keys() == result.record.keys() - {"temperature", "calibration_error"}
    assert pt.merge(loaded).temperature == model.temperature


def test_probabilities_are_divided_by_it_and_old_folders_are_as_they_were(tmp_path, few_are_enough):
    model, _ = fitted(tmp_path / "run", quiet=True)
    from PIL import Image

    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "one.png")
    ((_, warm),) = predict(model, [tmp_path / "one.png"], device="cpu")
    path = tmp_path / "run" / "adapter_config.json"
    config = json.loads(path.read_text())
    del config["temperature"]
    path.write_text(json.dumps(config))
    old = pt.load(tmp_path / "run")
    assert old.temperature == 1.0
    ((_, plain),) = predict(old, [tmp_path / "one.png"], device="cpu")
    assert [name for name, _ in warm] == [name for name, _ in plain]
    logs = torch.tensor([p for _, p in plain]).log() / model.temperature
    assert torch.allclose(torch.tensor([p for _, p in warm]), logs.softmax(0), atol=1e-6)


@pytest.mark.parametrize("value", [0, -1, 1e4, "1", None])
def test_a_temperature_that_is_none_is_refused(tmp_path, value):
    pt.save(small_model(), tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert "temperature" not in config
    path.write_text(json.dumps(config | {"temperature": value}))
    with pytest.raises(UsageError, match="temperature"):
        pt.load(tmp_path)


def test_few_images_do_not_calibrate_and_a_line_says_so(tmp_path, capsys):
    model, result = fitted(tmp_path)
    assert "not calibrated: 9 validation images are too few, it takes 100" in capsys.readouterr().err
    assert model.temperature == 1
    assert "temperature" not in result.record


def test_the_worst_mistakes_show_the_calibrated_probability():
    model = small_model()
    model.temperature = 4.0
    found = Worst(model, 1)
    found.add(torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([1]))
    assert found.mistakes[0].facts["probability"] == pytest.approx(torch.tensor([2.0, 0, 0]).softmax(0)[0].item())


def test_a_resumed_run_has_the_same_temperature(tmp_path, few_are_enough):
    from test_train import run

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", interrupt=45)
    assert run(tmp_path / "part", resume=True).record["temperature"] == whole.record["temperature"]


@pytest.mark.slow
def test_eval_prints_the_error_before_and_after(tmp_path, monkeypatch):
    monkeypatch.setattr("paretune.training.fit.LEAST", 4)
    tree = draw_tree(tmp_path / "tree", count=20)
    words = ("--data", tree, "--device", "cpu", "--workers", 0)
    done = cli("train", *words, *TINY, "--recipe", "linear", "--epochs", 2, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    said = json.loads(cli("eval", tmp_path / "run", *words, "--json").stdout)
    assert said["temperature"] == pt.load(tmp_path / "run").temperature
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert said["calibration_error"] == pytest.approx(record["calibration_error"], abs=1e-4)
    told = cli("eval", tmp_path / "run", *words, "--worst", 2).output
    assert f"temperature {said['temperature']:.2f}: expected calibration error" in told
    assert isinstance(pt.load(tmp_path / "run"), nn.Module)
