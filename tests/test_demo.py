"""The demo: its picture, its methods, and a short run."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from paretune.cli.main import app
from paretune.data import open_image
from paretune.demo import COLUMNS, METHODS, PROTOCOL, planned, real
from paretune.drawn.digit_sets import digit_sets
from paretune.ledger.results import Ledger
from paretune.show.merged import merged
from paretune.show.sheet import sheet
from paretune.show.sources import read_source


def test_patches_with_a_token_of_their_own_are_shown_as_they_are():
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    drawn = np.asarray(merged(image, np.arange(4), (2, 2), scale=4))
    assert drawn.shape == (32, 32, 3)
    assert np.array_equal(drawn[2::4, 2::4], image)


def test_shared_tokens_are_paler_and_bordered_and_dropped_patches_black():
    image = np.full((8, 8, 3), 40, np.uint8)
    drawn = np.asarray(merged(image, np.array([1, 1, -1, 2]), (2, 2), scale=4))
    assert drawn[8, 8].mean() > 60  # one token for the upper two patches
    assert drawn[8, 15].tolist() == drawn[8, 17].tolist()  # so no line between them
    assert drawn[16, 8].tolist() == [0, 0, 0]
    assert drawn[20, 20].tolist() == [40, 40, 40]
    assert drawn[24, 16].tolist() == [0, 0, 0]  # the line between tokens


def test_a_sheet_holds_every_picture():
    pictures = [[Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")] for _ in range(3)]
    drawn = sheet(["left", "right"], pictures)
    assert {colour for _, colour in drawn.getcolors(9999)} >= {(255, 0, 0), (0, 0, 255)}
    assert drawn.width > 40
    assert drawn.height > 30


def test_every_method_stands_there_with_all_tokens_and_with_fewer_at_one_learning_rate():
    for method in METHODS:
        twins = [other for other in METHODS if other.adapters == method.adapters]
        assert [twin.reducer is None for twin in twins] == [True, False] or method.name == "linear"
        assert len({twin.schedule.lr for twin in twins}) == 1


def test_the_demo_is_a_suite_of_one_task_in_which_nothing_is_tuned(tmp_path):
    plan = planned(tmp_path, seed=3)
    assert plan.protocol is planned(tmp_path, epochs=10).protocol is PROTOCOL
    assert planned(tmp_path, epochs=2).protocol.name == "demo, 2 epochs"
    assert [PROTOCOL.rates(method) for method in METHODS] == [[method.schedule.lr] for method in METHODS]
    parts = plan.suite.parts("digits")
    assert [len(parts[part]) for part in ("train800", "val200", "test")] == [800, 200, 797]
    assert parts["test"].content_hash() == digit_sets(3)[2].content_hash()
    assert pickle.loads(pickle.dumps(plan.suite)).parts("digits") is parts


def test_the_demo_splits_are_balanced_and_disjoint():
    train, val, test = digit_sets(seed=0)
    assert [len(part) for part in (train, val, test)] == [800, 200, 797]
    for part in (train, val, test):
        counts = np.bincount(part.targets, minlength=10)
        assert counts.max() - counts.min() <= 0.06 * len(part)
    assert len({part.describe()["fingerprint"] for part in (train, val, test)}) == 3


@pytest.mark.slow
def test_a_short_demo_writes_a_ledger_that_others_read_and_shows_what_stands_there(tmp_path, monkeypatch):
    some = tuple(method for method in METHODS if method.name in ("linear", "Sparse-Tuning"))
    monkeypatch.setattr("paretune.demo.planned", lambda out, seed, epochs: planned(out, seed, epochs, some))
    out = tmp_path / "demo"
    done = CliRunner().invoke(app, ["demo", "--epochs", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    written = (out / "ledger.jsonl").read_text()
    rows = Ledger(out / "ledger.jsonl").rows()
    table = (out / "table.md").read_text()
    assert all(name in table for name in COLUMNS)
    for row in rows:
        assert f"| {row.test:.1%} | {row.cost['trained']:,} |" in table
        assert f"{row.test:.1%}" in done.stdout
    assert "| Sparse-Tuning | 64 to 25 |" in table
    assert open_image(out / "merged.png").width > 200
    assert {row.scored for row in read_source(out / "ledger.jsonl").rows} == {"digits of demo"}

    monkeypatch.setattr("paretune.training.trials.fit_on", lambda *args, **kwargs: pytest.fail("trained again"))
    again = CliRunner().invoke(app, ["demo", "--epochs", "1", "--out", str(out), "--json"])
    found = json.loads(again.stdout)
    assert [row["test"] for row in found["rows"]] == [row.test for row in rows]
    assert found["pixels"]["plain"] > 0.9 > found["pixels"]["drawn"]
    assert (out / "ledger.jsonl").read_text() == written


def test_the_demo_on_photographs_needs_what_make_real_makes(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--real", str(tmp_path / "real"), "--out", str(tmp_path / "demo")])
    assert done.exit_code == 2
    assert "lacks" in done.stderr
    assert "make real" in done.stderr
    assert not (tmp_path / "demo").exists()
    both = CliRunner().invoke(app, ["demo", "--real", str(tmp_path), "--images", str(tmp_path / "digits")])
    assert "leave one of them out" in both.stderr


def test_the_demo_on_photographs_adapts_the_last_blocks(tmp_path):
    for name in ("textile/train", "textile/test"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dinov2_vits14.safetensors").touch()
    plan = real(tmp_path, tmp_path / "demo", seed=1)
    assert [recipe.name for recipe in plan.recipes] == ["linear", "LoRA", "Sparse-Tuning", "FPET-LoRA"]
    assert all(adapter.blocks == (8, 9, 10, 11) for recipe in plan.recipes for adapter in recipe.adapters)
    assert (plan.image_size, plan.seeds, plan.checkpoint.name) == (112, (1,), "dinov2_vits14.safetensors")
    assert real(tmp_path, tmp_path / "demo", epochs=1).protocol.name == "demo-real, 1 epochs"
    assert plan.protocol is real(tmp_path, tmp_path / "demo", epochs=5).protocol
