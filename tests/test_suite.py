"""A suite tunes on validation images, looks at the test once, and loses nothing but time when it is interrupted."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_contract import third
from typer.testing import CliRunner

import paretune as pt
from paretune.backbone import create
from paretune.catalogue import Schedule
from paretune.checkpoint import fingerprint
from paretune.cli.main import app
from paretune.ledger.results import Ledger, key
from paretune.suite import jobs
from paretune.suite.jobs import work
from paretune.suite.planning import Plan, steadiest
from paretune.suite.pool import Here, Processes
from paretune.suite.progress import Progress
from paretune.suite.protocols import PROTOCOLS, Protocol, protocol
from paretune.suite.run import run_suite
from paretune.suite.suites import Source, Suite, open_suite
from paretune.training import trials

QUICK = Protocol("quick", "for tests", Schedule(epochs=1, batch_size=8, warmup_epochs=0), factors=(1.0, 30.0))
SIZES = {"train800": 16, "val200": 8, "train800val200": 24, "test": 12}


def write_task(folder, seed):
    """A task of two classes laid out as VTAB-1K: dark and bright noise."""
    random = np.random.default_rng(seed)
    for part, count in SIZES.items():
        (folder / "images" / part).mkdir(parents=True)
        lines = []
        for i in range(count):
            pixels = random.integers(0, 80, (32, 32, 3)) + 120 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / part / f"{i:06}.png")
            lines.append(f"images/{part}/{i:06}.png {i % 2}\n")
        (folder / f"{part}.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    write_task(root / "night", 0)
    write_task(root / "day", 1)
    (root / "suite.json").write_text(json.dumps({"groups": {"night": "natural", "day": "structured"}}))
    return root


@pytest.fixture
def plan(root, tmp_path):
    return planned(root, tmp_path)


def planned(root, folder):
    recipes = (pt.recipe("linear"), replace(pt.recipe("lora"), adapters=(pt.LoRA(rank=2),)))
    return Plan(open_suite(str(root)), recipes, QUICK, (0, 1), "paretune_tiny", folder / "out", "cpu")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """The folder of the plan's trainings, `out` and `ledger.jsonl`: made once, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    run_suite(planned(root, folder), Here(work), Ledger(folder / "ledger.jsonl"))
    return folder


@pytest.fixture
def ledger(trained, tmp_path):
    """Of the finished plan, with its trainings beside it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return Ledger(tmp_path / "ledger.jsonl")


def results(ledger):
    return {(row.task, row.recipe, row.seed): (row.test, row.val, row.chosen) for row in ledger.rows()}


@pytest.mark.slow
def test_every_recipe_is_tuned_on_val_and_tested_once_from_every_seed(plan, tmp_path, monkeypatch):
    tested, trained = [], []
    monkeypatch.setattr(trials, "evaluate", spy(trials.evaluate, tested, lambda model, data, device: len(data)))
    monkeypatch.setattr(trials, "fit_on", spy(trials.fit_on, trained, sizes))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert run_suite(plan, Here(work), ledger) == []
    rows = ledger.rows()
    assert len(rows) == 2 * 2 * 2
    assert tested == [SIZES["test"]] * 8
    assert set(trained) == {(SIZES["train800"], SIZES["val200"])}
    assert len(trained) == 4 * (2 + 1)  # two learning rates from seed 0, and seed 1 at the better one
    for row in rows:
        best = max(row.candidates, key=lambda one: (one["val"], -one["lr"]))
        assert row.chosen == {"lr": best["lr"]}
        assert row.settings["schedule"]["lr"] == best["lr"]
        assert row.group == {"night": "natural", "day": "structured"}[row.task]
        assert row.data["images"] == {"train": 16, "val": 8, "test": 12}
    assert [row.task for row in rows] == ["day"] * 4 + ["night"] * 4  # whole tasks first


@pytest.mark.slow
def test_what_was_found_is_not_looked_for_again(plan, ledger, monkeypatch):
    before = ledger.path.read_text()
    run_suite(plan, Here(lambda job: pytest.fail(f"ran {job} again")), ledger)
    assert ledger.path.read_text() == before
    more = replace(plan, seeds=(0, 1, 2))
    trained = []
    monkeypatch.setattr(trials, "fit_on", spy(trials.fit_on, trained, lambda *args, **kwargs: kwargs["seed"]))
    run_suite(more, Here(work), ledger)
    assert trained == [2] * 4
    assert len(ledger.rows()) == 12


@pytest.mark.slow
def test_a_setting_that_a_method_gained_since_does_not_make_results_or_trainings_others(
    plan, ledger, tmp_path, monkeypatch
):
    rows = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    for described in [row["settings"] for row in rows]:
        for adapter in described["adapters"]:
            assert adapter.pop("dropout") == 0.1
    ledger.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in (tmp_path / "out").rglob("trial.json"):
        trial = json.loads(file.read_text())
        for adapter in trial["settings"]["adapters"]:
            del adapter["dropout"]
        file.write_text(json.dumps(trial))
    run_suite(plan, Here(lambda job: pytest.fail(f"ran {job} again")), ledger)
    monkeypatch.setattr(trials, "fit_on", lambda *args, **kwargs: pytest.fail("trained again"))
    fresh = Ledger(tmp_path / "fresh.jsonl")
    assert run_suite(plan, Here(work), fresh) == []
    assert results(fresh) == results(ledger)
    other = replace(plan, recipes=(replace(plan.recipes[1], adapters=(pt.LoRA(rank=2, dropout=0.0),)),))
    assert all("holds another trial" in sentence for sentence in run_suite(other, Here(work), ledger))


@pytest.mark.slow
def test_an_interrupted_suite_ends_as_one_that_was_not(plan, ledger, tmp_path):
    again = replace(plan, out=tmp_path / "again")
    for patience in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run_suite(again, Here(losing_patience(patience)), Ledger(tmp_path / "again.jsonl"))
    run_suite(again, Here(work), Ledger(tmp_path / "again.jsonl"))
    assert results(Ledger(tmp_path / "again.jsonl")) == results(ledger)


@pytest.mark.slow
def test_a_failed_job_is_told_and_the_others_go_on(plan, tmp_path):
    def fails(job):
        if job.task == "day" and job.recipe.name == "lora":
            raise RuntimeError("out of luck")
        return work(job)

    ledger, told = Ledger(tmp_path / "ledger.jsonl"), []
    failed = run_suite(plan, Here(fails), ledger, told.append)
    assert len(failed) == 2
    assert all("day, lora" in sentence and "out of luck" in sentence for sentence in failed)
    done = {(row.task, row.recipe) for row in ledger.rows()}
    assert done == {("day", "linear"), ("night", "linear"), ("night", "lora")}
    assert sum(line.startswith("FAILED") for line in told) == 2


def test_a_learning_rate_at_which_training_diverges_loses(plan, tmp_path):
    wild = replace(QUICK, factors=(1.0, 1e30))
    plan = replace(plan, protocol=wild, recipes=plan.recipes[1:], suite=plan.suite.only(["day"]), seeds=(0,))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert run_suite(plan, Here(work), ledger) == []
    (row,) = ledger.rows()
    assert row.chosen == {"lr": 1e-3}
    assert [one["val"] is None for one in row.candidates] == [False, True]


@pytest.mark.slow
def test_a_recipe_that_always_diverges_is_told_and_the_others_go_on(plan, tmp_path):
    hopeless = replace(plan.recipes[1], schedule=replace(plan.recipes[1].schedule, lr=1e30))
    plan = replace(plan, recipes=(hopeless, plan.recipes[0]), suite=plan.suite.only(["day"]), seeds=(0,))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    (sentence,) = run_suite(plan, Here(work), ledger)
    assert "diverged at every learning rate" in sentence
    assert [row.recipe for row in ledger.rows()] == ["linear"]


@pytest.mark.slow
def test_processes_find_what_one_process_finds(plan, ledger, tmp_path):
    plan = replace(plan, suite=plan.suite.only(["day"]), recipes=plan.recipes[1:])
    together = Ledger(tmp_path / "together.jsonl")
    run_suite(replace(plan, out=tmp_path / "two"), Processes(work, 2, jobs.prepare), together)
    assert results(together) == {key: value for key, value in results(ledger).items() if key[:2] == ("day", "lora")}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_suites_in_one_folder_train_everything_once_and_keep_both_results(plan, tmp_path):
    untuned = replace(QUICK, factors=(1.0,))
    first = replace(plan, suite=plan.suite.only(["day"]), recipes=plan.recipes[:1], protocol=untuned, seeds=(0,))
    second, book = replace(first, seeds=(0, 1)), Ledger(tmp_path / "ledger.jsonl")
    longer = replace(first, protocol=untuned.lasting(2))

    def run(plan):
        return run_suite(plan, Processes(work, 1, jobs.prepare), Ledger(book.path))

    with ThreadPoolExecutor(2) as pool:  # the trainings run in processes of their own, at the same time
        assert list(pool.map(run, (first, second))) == [[], []]
    alone = Ledger(tmp_path / "alone.jsonl")
    assert run_suite(replace(first, out=tmp_path / "alone", seeds=(0, 1)), Here(work), alone) == []
    assert results(book) == results(alone)
    assert len(list((tmp_path / "out").rglob("trial.json"))) == len(list((tmp_path / "alone").rglob("trial.json")))
    before = book.path.read_text()
    refused = run_suite(longer, Here(work), book)
    assert refused
    assert all("holds another trial" in sentence and "use another folder" in sentence for sentence in refused)
    assert book.path.read_text() == before


@pytest.mark.ray
def test_a_ray_cluster_finds_what_one_process_finds(plan, root, tmp_path):
    """In a process of its own: Ray leaves threads, sockets and warnings behind in the one that asked for it."""
    alone = Ledger(tmp_path / "alone.jsonl")
    plan = replace(
        plan, suite=plan.suite.only(["day"]), recipes=plan.recipes[:1], protocol=PROTOCOLS["offline"].lasting(1)
    )
    run_suite(plan, Here(work), alone)
    command = [sys.executable, "-m", "paretune", "suite", "run", "--suite", str(root), "--tasks", "day"]
    command += ["--recipe", "linear", "--epochs", "1", "--seeds", "2", "--device", "cpu", "--ray", "local"]
    done = subprocess.run([*command, "--out", str(tmp_path / "ray")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert results(Ledger(tmp_path / "ray" / "ledger.jsonl")) == results(alone)


@pytest.mark.parametrize("name", third(["adapter-plus", "petl-vit", "fpet"], pytest.mark.slow))
def test_a_protocol_for_vtab_trains_on_all_images(plan, tmp_path, monkeypatch, name):
    trained = []
    monkeypatch.setattr(trials, "fit_on", spy(trials.fit_on, trained, seen))
    short = replace(protocol(name).lasting(2), schedule=replace(protocol(name).schedule, epochs=2, warmup_epochs=1))
    plan = replace(plan, protocol=short, recipes=plan.recipes[:1], suite=plan.suite.only(["day"]), seeds=(0,))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    run_suite(plan, Here(work), ledger)
    (row,) = ledger.rows()
    chosen_on_test = name != "adapter-plus"
    assert trained == [(24, 12 if chosen_on_test else 8, 10 if chosen_on_test else 2)]
    assert row.protocol["test_used"] == ("to choose the epoch" if chosen_on_test else "once")
    means = {"adapter-plus": [0.5] * 3, "petl-vit": [0.485, 0.456, 0.406], "fpet": [0.0] * 3}
    assert row.protocol["preprocessing"]["mean"] == means[name]


def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_trained(plan, tmp_path):
    wrong = replace(pt.recipe("fpet-lora"), reducer=pt.FPET(block=12))
    with pytest.raises(pt.UsageError, match="block"):
        run_suite(replace(plan, recipes=(plan.recipes[0], wrong)), Here(pytest.fail), Ledger(tmp_path / "ledger.jsonl"))


def cli(*args):
    return CliRunner().invoke(app, ["suite", *map(str, args)])


def test_the_command_runs_goes_on_and_refuses(root, tmp_path):
    out, ledger = tmp_path / "out", tmp_path / "ledger.jsonl"
    asked = ("run", "--suite", root, "--tasks", "day", "--recipe", "linear", "--epochs", 1, "--seeds", 1,
             "--out", out, "--ledger", ledger, "--device", "cpu")  # fmt: skip
    done = cli(*asked)
    assert done.exit_code == 0, done.output
    assert f"1 results in {ledger}" in done.stdout
    assert "4 of 4  day, linear" in done.stderr
    again = cli(*asked)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    more = cli(*asked, "--resume", "--seeds", 2, "--json")
    assert json.loads(more.stdout) == {"ledger": str(ledger), "failed": []}
    assert len(Ledger(ledger).rows()) == 2


@pytest.mark.slow
def test_a_backbone_comes_from_a_file_and_other_weights_are_another_backbone(plan, root, tmp_path):
    def command(*more):
        return cli("run", "--suite", root, "--tasks", "day", "--recipe", "linear", "--epochs", 1, "--seeds", 1,
                   "--out", tmp_path / "out", "--ledger", ledger.path, "--device", "cpu", *more)  # fmt: skip

    file, ledger = tmp_path / "own.safetensors", Ledger(tmp_path / "ledger.jsonl")
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_file(create("paretune_tiny", False, None, {}).state_dict(), file)
        done = command("--checkpoint", file, *(("--resume",) if seed == 2 else ()))
        assert done.exit_code == seed - 1, done.output
    assert "checkpoint was" in done.stdout  # trainings of other weights are not taken for these
    (row,) = ledger.rows()
    pretrained = replace(plan, suite=plan.suite.only(["day"])).origin[0]
    assert row.backbone["source"] == "file"
    assert row.backbone["fingerprint"] != pretrained["fingerprint"]
    torch.manual_seed(1)
    own = create("paretune_tiny", False, None, {})
    assert row.backbone["fingerprint"] == fingerprint(own.state_dict())
    assert command("--checkpoint", tmp_path / "none.npz", "--resume").exit_code == 2


def test_the_command_refuses_what_cannot_be(root, tmp_path):
    out = ("--out", tmp_path / "out")
    for words, sentence in (
        (("run", "--recipe", "lora", "lora"), "each recipe once"),
        (("run", "--recipe", "lora", "--protocol", "papers"), "unknown protocol"),
        (("run", "--recipe", "lora", "--jobs", 999), "cores"),
        (("run", "--recipe", "lora", "--set", "schedule.epochs=3"), "only schedule.lr is free"),
        (("run", "--recipe", "lora", "--set", "lora.schedule.batch_size=3"), "only schedule.lr is free"),
        (("vtab1k", "--recipe", "lora"), "--data FOLDER"),
        (("vtab1k", "--recipe", "lora", "--data", root), "VTAB-1K's 19 tasks"),
    ):
        done = cli(*words, *out)
        assert done.exit_code == 2, done.output
        assert sentence in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_protocols_and_tasks_are_listed(root):
    assert "adapter-plus" in cli("protocols").stdout
    assert json.loads(cli("protocols", "--json").stdout)["petl-vit"]["test_used"] == "to choose the epoch"
    assert json.loads(cli("tasks", "--suite", root, "--json").stdout)["tasks"] == {
        "day": "structured",
        "night": "natural",
    }


def test_protocols_say_how_the_test_images_were_used():
    used = {name: one.describe()["test_used"] for name, one in PROTOCOLS.items()}
    assert used == {
        "offline": "once", "steady": "once", "adapter-plus": "once", "petl-vit": "to choose the epoch",
        "fpet": "to choose the epoch",
    }  # fmt: skip
    assert PROTOCOLS["offline"].lasting(5).describe() != PROTOCOLS["offline"].describe()
    assert PROTOCOLS["offline"].lasting(5).schedule.warmup_epochs == 0.5


def test_suites_that_are_not_there_are_refused_by_name(tmp_path, root):
    with pytest.raises(pt.UsageError, match="offline, vtab1k or real with --data FOLDER, or a folder"):
        open_suite(str(tmp_path))
    with pytest.raises(pt.UsageError, match="caltech101"):
        open_suite("vtab1k", tmp_path)
    with pytest.raises(pt.UsageError, match="--data"):
        open_suite("vtab1k")
    with pytest.raises(pt.UsageError, match="did you mean night"):
        open_suite(str(root)).only(["nigth"])
    with pytest.raises(pt.UsageError, match="needs no data"):
        open_suite("offline", tmp_path)


def test_the_offline_suite_has_eight_tasks_or_more_in_three_groups():
    suite = open_suite("offline")
    assert len(suite.groups) >= 8
    assert set(suite.groups.values()) == {"natural", "specialized", "structured"}


def test_the_clock_tells_the_time_left_from_what_jobs_took(monkeypatch):
    now = iter([0.0, 60.0, 60.1, 180.1])
    monkeypatch.setattr("paretune.suite.progress.monotonic", lambda: next(now))
    clock = Progress(63)
    job = jobs.Job(Suite("s", {}, Source(dict)), "day", pt.recipe("linear"), QUICK, "m", 1e-3, 0, False, "out", "cpu")
    trial = trials.Trial(0, None, 0.5, 1, 1.0)
    assert clock.done(job, trial) == "1 of 63  day, linear, lr 0.001, seed 0: val 50.0%  about 1:02 h left"
    assert "about 1:01 h left" in clock.done(job, None)  # read, not run
    assert "about 1:30 h left" in clock.done(job, trial)  # one minute and two


def sizes(model, train, val, *args, **kwargs):
    return len(train), len(val)


def seen(model, train, val, *args, **kwargs):
    return len(train), len(val), kwargs["look_every"]


def spy(function, calls, what):
    def spied(*args, **kwargs):
        calls.append(what(*args, **kwargs))
        return function(*args, **kwargs)

    return spied


def losing_patience(after):
    """`work` that is interrupted at its so many-th call."""
    calls = []

    def run(job):
        calls.append(job)
        if len(calls) == after:
            raise KeyboardInterrupt
        return work(job)

    return run


# --------------------------------------------------------------------------------------- the steadier protocol


def test_the_rate_is_the_middle_of_the_longest_row_of_good_ones():
    rates = [1.0, 3.0, 10.0, 30.0]
    assert steadiest(rates, {1.0: [0.9], 3.0: [0.5], 10.0: [0.4], 30.0: [2.0]}) == 10.0
    good = {1.0: [0.5, 0.6, 0.4], 3.0: [0.5, 0.5, 0.48], 10.0: [0.4, 0.6, 0.46], 30.0: [2.0, 2.0, 2.0]}
    assert steadiest(rates, good) == 3.0  # 1, 3 and 10 cannot be told apart
    apart = {1.0: [0.45, 0.45], 3.0: [0.9, 0.9], 10.0: [0.44, 0.46], 30.0: [0.4, 0.5]}
    assert steadiest(rates, apart) == 10.0  # 10 and 30 are neighbours, 1 stands alone
    assert steadiest(rates, {1.0: [0.5], 30.0: [0.4]}) == 30.0  # the others diverged


@pytest.mark.slow
def test_a_steady_protocol_chooses_by_loss_and_says_so(plan, tmp_path):
    steady = replace(QUICK, name="steady here", factors=(1.0, 3.0), tuning_seeds=(0, 1), by="loss", choose="careful")
    plan = replace(plan, suite=plan.suite.only(["day"]), recipes=plan.recipes[:1], protocol=steady, seeds=(0,))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert run_suite(plan, Here(work), ledger) == []
    (row,) = ledger.rows()
    losses = {}
    for candidate in row.candidates:
        losses.setdefault(candidate["lr"], []).append(candidate["val"])
    assert row.chosen["lr"] == steadiest(sorted(losses), losses)
    assert row.protocol["rate"] == "lowest loss on val200, then good neighbours"
    assert row.protocol["choose"] == "careful"
    assert "choose" not in QUICK.describe()


@pytest.mark.slow
def test_an_image_size_belongs_to_the_question(plan, tmp_path):
    plan = replace(plan, suite=plan.suite.only(["day"]), recipes=plan.recipes[:1], seeds=(0,), image_size=16)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert run_suite(plan, Here(work), ledger) == []
    (row,) = ledger.rows()
    assert row.backbone["options"] == {"img_size": 16}
    assert row.cost["tokens_last"] == 17
    assert key(vars(row)) != key(replace(plan, image_size=None).pairs()[0].question(0))
