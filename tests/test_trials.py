"""A trial trains once, looks at the test images once, and is not run again."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import paretune as pt
from paretune.config import to_json
from paretune.data.arrays import ImageArrays
from paretune.data.transforms import evaluation
from paretune.methods import Methods, completed
from paretune.training.evaluate import evaluate
from paretune.training.trials import Setting, Split, read_three, trial

QUICK = pt.Schedule(epochs=1, batch_size=8, warmup_epochs=0, lr=3e-3)


def pictures(count, seed, name):
    """Dark and bright noise."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(seed).integers(0, 80, (count, 32, 32, 3))
    images = (noise + 150 * labels[:, None, None, None]).astype(np.uint8)
    return ImageArrays(images, labels, ("dark", "bright"), name=name)


@pytest.fixture(scope="module")
def data():
    return Split(pictures(16, 0, "train"), pictures(8, 1, "validate"), pictures(12, 2, "test"))


@pytest.fixture
def setting():
    return Setting("lora", "paretune_tiny", Methods((pt.LoRA(rank=2),), pt.FPET(block=6)), QUICK)


def test_a_trial_is_a_run_and_its_test_accuracy_and_is_not_run_again(tmp_path, data, setting, monkeypatch):
    first = trial(setting, data, 3, tmp_path)
    assert 0 <= first.accuracy <= 1
    folder = tmp_path / "lora" / "seed3"
    assert {"adapter_config.json", "record.json", "trial.json"} <= {path.name for path in folder.iterdir()}
    model = pt.load(folder)
    assert evaluate(model, data.test.through(evaluation(model.preprocessing))).accuracy == first.accuracy
    monkeypatch.setattr("paretune.training.trials.fit_on", lambda *args, **kwargs: pytest.fail("trained again"))
    assert trial(setting, data, 3, tmp_path) == first


def test_a_trial_of_something_else_is_not_taken_for_this_one(tmp_path, data, setting):
    trial(setting, data, 0, tmp_path)
    with pytest.raises(pt.UsageError, match=r"schedule\.lr was 0\.003, is 0\.1"):
        trial(replace(setting, schedule=replace(QUICK, lr=0.1)), data, 0, tmp_path)
    with pytest.raises(pt.UsageError, match="fingerprint"):
        trial(setting, replace(data, test=pictures(12, 9, "test")), 0, tmp_path)


@pytest.mark.slow
def test_the_seed_alone_makes_trials_differ(tmp_path, data, setting):
    histories = [
        json.loads((tmp_path / name / "lora" / f"seed{seed}" / "record.json").read_text())["history"][0]["train_loss"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
        if trial(setting, data, seed, tmp_path / name)
    ]
    assert histories[0] == histories[1] != histories[2]


def test_a_folder_needs_test_images(tmp_path):
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / part / name / f"{i}.png")
    with pytest.raises(pt.UsageError, match="no split 'test'"):
        read_three(tmp_path)


def test_labels_and_numbers_are_refused_because_answers_are_counted(tmp_path):
    for i in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{i}.png")
    lines = (f"{i}.png,{split},{i}.5" for i, split in enumerate(("train", "val", "test")))
    (tmp_path / "prices.csv").write_text("path,split,price\n" + "\n".join(lines) + "\n")
    with pytest.raises(pt.UsageError, match=r"prices\.csv is regression: comparisons count right answers"):
        read_three(tmp_path / "prices.csv")


def test_what_was_recorded_is_said_anew_with_todays_defaults_and_as_json():
    adapters, reducer = (pt.LoRA(), pt.DenseAdapter(reads=(1, 3))), pt.FPET(block=(4, 6))
    described = json.loads(json.dumps({"adapters": list(map(to_json, adapters)), "reducer": to_json(reducer)}))
    assert completed(described) == described
    older = json.loads(json.dumps(described))
    del older["adapters"][1]["dropout"], older["adapters"][0]["dropout"]
    assert completed(older) == described
    assert completed({**older, "reducer": None}) == {**described, "reducer": None}
    assert completed({**older, "reducer": {"kind": "Oblivion"}}) == {**older, "reducer": {"kind": "Oblivion"}}
