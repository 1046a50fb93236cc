"""`--minutes`: what is planned, what is refused, and that training ends in time."""

import json
from dataclasses import replace
from time import perf_counter
from types import SimpleNamespace

import pytest
from test_cli import TINY, cli, draw_tree, refused
from test_train import SHORT, run, timeless

import paretune as pt
from paretune.catalogue import in_blocks
from paretune.data.opening import open_splits
from paretune.errors import UsageError
from paretune.training.minutes import AIM, Cost, Plan, Planner

SETTINGS = {"device": "cpu", "workers": 0, "mixed_precision": None, "crop": None}


def planner(minutes, costs):
    """A planner whose measurements are {recipe: (fixed seconds, seconds per epoch)}; others cost 10^6 seconds."""
    images = SimpleNamespace(train=[0] * 1000, val=[0] * 200)
    found = Planner(lambda what: pt.adapt("paretune_tiny", classes=2), images, minutes, SETTINGS, perf_counter())
    found._measured = lambda what: Cost(*costs.get(what.name, (1e6, 1e6)))
    found.left = lambda: 60 * minutes
    return found


LORA = replace(pt.recipe("lora"), schedule=pt.Schedule(epochs=20, warmup_epochs=2))


def test_what_fits_is_left_alone():
    plan = planner(10, {"lora": (10, 5)}).plan(LORA)
    assert (plan.epochs, plan.first_block, plan.seconds) == (20, None, 110)
    assert plan.applied(LORA) == LORA
    assert plan.why == "20 of 20 epochs, about 2 min: all of them fit"


def test_fewer_epochs_come_first():
    plan = planner(2, {"lora": (10, 10), "lora@6-11": (10, 1)}).plan(LORA)
    assert (plan.epochs, plan.first_block) == (int((120 * AIM - 10) / 10), None)
    assert plan.applied(LORA).schedule.warmup_epochs == pytest.approx(plan.epochs / 10)
    assert plan.applied(LORA).name == "lora"


def test_then_adapters_in_later_blocks():
    plan = planner(2, {"lora": (10, 40), "lora@6-11": (40, 8)}).plan(LORA)
    assert (plan.epochs, plan.first_block) == (int((120 * AIM - 40) / 8), 6)
    changed = plan.applied(replace(LORA, schedule=replace(LORA.schedule, drop_path=0.1)))
    assert changed.name == "lora@6-11"
    assert changed.schedule.drop_path == 0  # else no block could be kept
    assert changed.adapters[0].blocks == (6, 7, 8, 9, 10, 11)
    assert plan.why.endswith("lora would not get through 5")
    assert Plan(**json.loads(json.dumps(plan.to_json()))) == plan


def test_where_few_epochs_are_all_that_fits_the_most_are_taken():
    plan = planner(1, {"lora": (10, 40), "lora@6-11": (10, 20), "lora@10-11": (10, 15)}).plan(LORA)
    assert (plan.epochs, plan.first_block) == (2, 6)


def test_what_is_impossible_says_the_least_that_is_possible():
    with pytest.raises(
        UsageError, match=r"1 minutes are too few for recipe lora: one epoch of lora@6-11 needs about 5.9"
    ):
        planner(1, {"lora": (600, 40), "lora@6-11": (200, 100)}).plan(LORA)
    linear = replace(pt.recipe("linear"), schedule=LORA.schedule)
    with pytest.raises(UsageError, match="one epoch of linear needs"):
        planner(1, {"linear": (60, 40)}).plan(linear)


def test_widths_for_each_block_stay_where_they_are():
    each = replace(LORA, adapters=(pt.LoRA(rank=(4,) * 12),))
    found = planner(2, {})

    def measured(what):
        pt.adapt("paretune_tiny", what.adapters, classes=2)
        return Cost(10, 40)

    found._measured = measured
    assert (found.plan(each).epochs, found.plan(each).first_block) == (2, None)


def test_a_search_needs_time():
    quick = {"linear": (20, 0.5), "sparse-tuning-vtab@8-11": (30, 10)}
    assert planner(20, quick).searches()
    assert not planner(1, quick).searches()  # the linear tries alone take 50 s
    assert not planner(2.5, quick).searches()


def test_adapters_move_to_later_blocks_only():
    lora = pt.recipe("lora@6-9")
    assert in_blocks(lora, 8).name == "lora@8-9"
    assert in_blocks(lora, 8).adapters[0].blocks == (8, 9)
    assert in_blocks(lora, 4) is in_blocks(lora, 10) is None
    assert in_blocks(pt.recipe("linear"), 4, 12) is None
    assert in_blocks(pt.recipe("full"), 4, 12).name == "full@4-11"


def test_training_stops_before_an_epoch_that_would_end_too_late(tmp_path):
    result = run(tmp_path, replace(SHORT, epochs=50), seconds=1e-9)
    assert len(result.history) == 1
    whole = run(tmp_path / "whole", seconds=1e9)
    assert timeless(whole.history) == timeless(run(tmp_path / "plain").history)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return draw_tree(tmp_path_factory.mktemp("images") / "tree")


def test_a_measured_plan_is_in_the_right_order(tree):
    images, made = open_splits(tree), []

    def build(what):
        made.append(what.name)
        return pt.adapt("paretune_tiny", what.adapters, what.reducer, ["blue", "red"], pretrained=False)

    found = Planner(build, images, 5, SETTINGS, perf_counter())
    linear, late, lora = (found.cost(pt.recipe(name)) for name in ("linear", "lora@10-11", "lora"))
    assert 0 < linear.epoch < late.epoch < lora.epoch
    assert found.cost(pt.recipe("lora")) is lora
    assert made == ["linear", "lora@10-11", "lora"]


@pytest.mark.slow
def test_the_command_plans_trains_in_time_and_records_the_plan(tree, tmp_path):
    words = (
        "train",
        "--data",
        tree,
        *TINY,
        "--recipe",
        "lora",
        "--epochs",
        "5000",
        "--workers",
        "0",
        "--device",
        "cpu",
    )
    start = perf_counter()
    done = cli(*words, "--minutes", "0.3", "--out", tmp_path / "run")
    took = perf_counter() - start
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["plan"]["minutes"] == 0.3
    assert record["schedule"]["epochs"] == record["plan"]["epochs"] < 5000
    assert f"planned for 0.3 minutes: {record['plan']['why']}" in done.stderr
    assert took < 1.1 * 18 + 5
    least = refused(cli(*words, "--minutes", "0.0001", "--out", tmp_path / "other"))
    assert "0.0001 minutes are too few for recipe lora: one epoch of lora" in least


@pytest.mark.slow
def test_without_time_to_search_a_head_is_trained(tree, tmp_path):
    words = ("train", "--data", tree, *TINY, "--workers", "0", "--device", "cpu", "--minutes", "0.15")
    done = cli(*words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["recipe"] == "linear"
    assert "there is no time for a search" in record["chosen"]["why"]


def test_what_timing_takes_is_taken_off_the_time():
    found = planner(1, {"lora": (10, 40), "lora@6-11": (30, 4), "lora@8-11": (20, 4)})
    left = iter([50.0, 50.0, 47.0, 40.0])  # timing takes longer and longer
    found.left = lambda: next(left, 40.0)
    plan = found.plan(LORA)
    assert (plan.epochs, plan.first_block) == (3, 8)
