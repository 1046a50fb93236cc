"""`paretune bench`: paired ratios, exact bytes, one row for everyone, and no ratio without a baseline."""

import copy
import json
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from rich.console import Console
from test_contract import MATRIX, ONCE, REST
from torch import nn
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.cli.many import spread
from paretune.measure.memory import saved_bytes
from paretune.timing import resident, session
from paretune.timing.contestants import Contestant, rival
from paretune.timing.models import Plain, Step, Terms, backbone, build, moments, twin, unshare
from paretune.timing.payoff import unpaid
from paretune.timing.rounds import interleaved, times
from paretune.timing.row import Memory, Row
from paretune.training.objective import Objective

TINY = "paretune_tiny"
CPU = torch.device("cpu")
TERMS = Terms(TINY)
FAST = {"rounds": 1, "warmup": 1, "device": "cpu", "rss": False}


def bench(recipes, batches=(1,), **options):
    return pt.bench(TINY, recipes, batches, **{**FAST, **options})


def recipe(name, adapters=(), reducer=None):
    return pt.Recipe(name, "", tuple(adapters), reducer)


def rows(result):
    return {(row.recipe, row.batch): row for row in result.rows}


@pytest.fixture(scope="module")
def measured():
    """Three recipes beside timm, forward and step, at two batch sizes."""
    return bench(["sparse-tuning", "lora", "full"], (1, 3), train=True, rounds=3)


# ------------------------------------------------------------------------------------------------------------- ratios


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    found = times([1.0, 40.0, 3.0], batch=4, baseline=[2.0, 20.0, 30.0])  # ratios 0.5, 2, 0.1
    assert (found.ratio, found.median) == (0.5, 3.0)
    assert found.ratio_quartiles == pytest.approx((0.3, 1.25))
    assert found.quartiles == (2.0, 21.5)
    assert (found.ms_per_image, found.images_per_second) == (pytest.approx(750), pytest.approx(4 / 3))


def test_a_machine_that_slows_down_leaves_paired_ratios_alone():
    drift = [1.0, 2.0, 5.0, 9.0]
    assert times([0.5 * d for d in drift], 1, drift).ratio_quartiles == (0.5, 0.5)


def test_rounds_that_only_one_of_a_pair_has_finished_are_left_out_of_the_ratio():
    assert times([1.0, 2.0, 100.0], 1, [2.0, 4.0]).ratio == 0.5
    assert times([1.0, 2.0], 1, [2.0, 4.0, 100.0]).ratio == 0.5
    alone = times([1.0, 2.0], 1, [])
    assert (alone.ratio, alone.ratio_quartiles, alone.median) == (None, None, 1.5)


def test_everyone_runs_once_a_round_in_an_order_that_changes_and_repeats_with_the_seed():
    def orders(seed):
        called = []
        groups = [{(n, b): partial(called.append, (n, b)) for n in "abcd"} for b in (1, 8)]
        assert [key for key, _ in interleaved(groups, 6, CPU, seed)] == called
        return [tuple(called[i : i + 8]) for i in range(0, 48, 8)]

    found = orders(0)
    assert all(sorted(one) == sorted(found[0]) for one in found)
    assert all([b for _, b in one] == [1] * 4 + [8] * 4 for one in found), "a pair to be compared stays together"
    assert len(set(found)) > 1
    assert found == orders(0) != orders(1)


def test_who_raises_is_told_and_leaves_while_the_others_go_on():
    def fail():
        raise RuntimeError("no")

    found = list(interleaved([{"good": lambda: None, "bad": fail}], 3, CPU))
    assert [key for key, _ in found].count("good") == 3
    assert [str(value) for key, value in found if key == "bad"] == ["no"]


# -------------------------------------------------------------------------------------------------------- contestants


def test_all_contestants_have_equal_weights_and_frozen_ones_share_their_memory():
    base = backbone(TERMS)
    timm, lora = build(base, Contestant()), build(base, Contestant(pt.recipe("lora").methods))
    held = {p.data_ptr() for p in base.parameters()}
    theirs = [p for p in lora.backbone.blocks.parameters() if not p.requires_grad]
    assert len(theirs) == len(list(base.blocks.parameters()))
    assert all(p.data_ptr() in held for p in theirs)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(*(model.eval().run(images).features for model in (timm, lora)))
    assert all(p.requires_grad for p in timm.parameters())
    assert pt.cost(timm).trained == sum(p.numel() for p in timm.parameters())


def test_a_twin_trains_alone_once_it_has_memory_of_its_own():
    base = nn.Linear(3, 3)
    before = copy.deepcopy(base.state_dict())
    other = twin(base)
    unshare(other)
    Step(_adapted(other), True, pt.Schedule(lr=1.0), TERMS)(torch.randn(2, 3), torch.tensor([0, 1]))
    assert all(torch.equal(base.state_dict()[name], value) for name, value in before.items())
    assert not torch.equal(other.weight, base.weight)


def _adapted(module):
    """As much of a model as a step asks for."""
    holder = nn.Module()
    holder.backbone, holder.methods = module, lambda: ()  # nothing of it has a schedule
    return holder


def test_lent_moments_are_those_that_adamw_would_have_made_itself():
    models = [_adapted(nn.Linear(3, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, other = (Step(model, True, pt.Schedule(), TERMS) for model in models)
    other.lend(moments([other, Step(_adapted(nn.Linear(30, 4)), True, pt.Schedule(), TERMS)]))
    for _ in range(3):
        batch = torch.randn(5, 3), torch.randint(4, (5,))
        one(*batch)
        other(*batch)
    for a, b in zip(one.trained, other.trained, strict=True):
        assert torch.equal(a, b)
        assert a.grad is None
        assert {k: v.tolist() for k, v in one.optimizer.state[a].items()} == {
            k: v.tolist() for k, v in other.optimizer.state[b].items()
        }


def test_a_step_minimises_what_training_minimises():
    model = build(backbone(TERMS), Contestant(pt.recipe("fpet-lora").methods))
    step = Step(model, False, pt.Schedule(lr=1e-2), TERMS)
    assert isinstance(step.objective, Objective)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(100, (4,))
    before = step.objective(images, labels)["loss"].item()
    for _ in range(5):
        step(images, labels)
    assert step.objective(images, labels)["loss"].item() < before
    assert {p.grad is None for p in model.parameters()} == {True}


# ------------------------------------------------------------------------------------------------------------- memory


def test_saved_bytes_equal_a_count_by_hand():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    batch, floats = 3, 10 + 20 + 0  # inputs of both linears; ReLU's output is the second one's input
    assert saved_bytes(net, torch.zeros(batch, 10)) == 4 * batch * floats
    net[0].requires_grad_(False)  # a frozen layer keeps no input; nothing before it needs ReLU's sign
    assert saved_bytes(net, torch.zeros(batch, 10)) == 4 * batch * 20
    whole = Plain(nn.Linear(10, 5))
    labels = torch.zeros(batch, dtype=torch.long)
    weight_of_loss = 4  # the sum of the labels' weights, one number
    found = saved_bytes(whole, torch.zeros(batch, 10), labels)
    assert found == 4 * batch * 10 + 4 * batch * 5 + 8 * batch + weight_of_loss


def test_the_bytes_of_a_batch_grow_with_it_and_fewer_tokens_save_fewer(measured):
    found = {key: row.memory.saved_bytes for key, row in rows(measured).items()}
    for name in ("timm", "lora"):
        assert found[name, 3] == pytest.approx(3 * found[name, 1], rel=0.01)
    assert found["sparse-tuning", 3] < found["lora", 3] < found["full", 3]
    assert found["full", 3] == found["timm", 3], "paretune's trunk keeps no more than timm's own"
    row = rows(measured)["lora", 3]
    assert row.memory.saved_ratio == found["lora", 3] / found["timm", 3]


@pytest.mark.slow
@pytest.mark.skipif(not resident.SUPPORTED, reason="Linux alone tells")
def test_the_peak_of_resident_memory_holds_what_a_step_must_hold_and_mixes_nobody():
    result = bench(["linear", "full"], (1, 64), train=True, rss=True)
    assert result.errors == []
    found = {key: row.memory for key, row in rows(result).items()}
    trained = 4 * result.rows[0].cost.trained
    for name in ("timm", "full"):
        least = found[name, 64].saved_bytes + 2 * trained  # AdamW's moments; gradients replace what is saved
        assert least <= found[name, 64].peak_rss < 2 * (least + trained)
        assert found[name, 1].peak_rss < found[name, 64].peak_rss / 2
    assert found["linear", 64].peak_rss < found["full", 64].peak_rss / 2


def test_a_forked_measurement_gives_its_value_or_says_why_not():
    def fail():
        raise ValueError("a reason")

    assert resident.in_a_fork(lambda: 42) == "42"
    with pytest.raises(RuntimeError, match="ValueError: a reason"):
        resident.in_a_fork(fail)


# ---------------------------------------------------------------------------------------------------------- the table


def test_every_row_holds_costs_by_the_rule_and_ratios_to_timm(measured):
    found = rows(measured)
    assert [row.recipe for row in measured.rows] == ["timm", "sparse-tuning", "lora", "full"] * 2
    timm = 64 * 96 * 48 + 12 * (12 * 65 * 96 * 96 + 2 * 65 * 65 * 96) + 96 * 100
    lora = timm + 12 * 65 * 4 * 96 * 8
    for batch in (1, 3):
        assert found["timm", batch].cost.macs == timm
        assert found["lora", batch].macs_ratio == lora / timm
        assert found["timm", batch].forward.ratio == 1.0
        assert found["timm", batch].settings is None
        for name in ("sparse-tuning", "lora", "full"):
            row, base = found[name, batch], found["timm", batch]
            pairs = zip(row.forward.seconds, base.forward.seconds, strict=True)
            assert row.forward.ratio == sorted(own / other for own, other in pairs)[1]
            assert row.wall_per_macs == row.forward.ratio / row.macs_ratio
            assert len(row.step.seconds) == 3
            assert row.error is None


@pytest.mark.slow
def test_folded_leaves_cost_nothing_and_still_count_as_trained():
    found = rows(bench(["lora"], merge=True))
    assert found["lora", 1].macs_ratio == 1.0
    assert found["lora", 1].cost.trained_without_head == 12 * 4 * 96 * 8


@pytest.mark.slow
def test_ratios_refer_to_another_recipe_on_request_and_it_takes_part():
    found = rows(bench(["fpet-lora"], baseline="lora"))
    assert list(found) == [("timm", 1), ("fpet-lora", 1), ("lora", 1)]
    assert found["lora", 1].forward.ratio == found["lora", 1].macs_ratio == 1.0
    own, base = found["fpet-lora", 1].forward.seconds[0], found["lora", 1].forward.seconds[0]
    assert found["fpet-lora", 1].forward.ratio == own / base


KEYS = {
    None: "kind version date machine model image_size dtype compile train merged memory rounds baseline complete rows "
    "warmup",
    "machine": "device name threads cores platform python torch timm paretune torchvision accelerate pillow numpy",
    "row": "recipe batch settings cost macs_ratio forward wall_per_macs step memory error compile_seconds",
    "forward": "seconds median quartiles ratio ratio_quartiles ms_per_image images_per_second",
    "memory": "saved_bytes saved_ratio peak_rss cuda_peak_forward cuda_peak_step",
}


def test_json_holds_everything_under_the_names_that_readers_rely_on(measured):
    said = json.loads(json.dumps(measured.to_dict()))
    row = said["rows"][1]
    parts = {None: said, "machine": said["machine"], "row": row, "forward": row["forward"], "memory": row["memory"]}
    assert {name: set(part) for name, part in parts.items()} == {name: set(KEYS[name].split()) for name in KEYS}
    assert set(row["step"]) == set(row["forward"])
    assert (said["kind"], said["version"], said["complete"], said["baseline"]) == ("bench", 1, True, "timm")
    assert said["image_size"] == [32, 32]
    assert row["cost"] == json.loads(json.dumps(measured.rows[1].cost.to_dict()))
    assert [a["kind"] for a in row["settings"]["adapters"]] == ["DenseAdapter"]
    assert row["settings"]["reducer"]["kind"] == "EViT"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_fit_the_terminal_and_say_under_what_terms(measured, width):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(measured)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in ("paretune_tiny at 32x32", "float32", "fused attention", torch.__version__.split("+")[0], "3 rounds",
                 measured.machine["name"], "ratio: to timm", "batch 3"):  # fmt: skip
        assert part in text
    row = next(line for line in lines if line.strip().startswith("lora")).split()
    cell = measured.rows[2]
    assert row[1:4] == ["36.9k", f"{cell.cost.macs / 1e6:.1f}", f"{cell.macs_ratio:.2f}"]
    assert "36.9k" in str(measured)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["once", *(pytest.param(part, marks=REST) for part in range(4))])
def test_every_adapter_with_every_reducer_passes_through(part):
    labels = sorted(ONCE) if part == "once" else sorted(MATRIX.keys() - ONCE)[part::4]
    result = bench([recipe(label, *MATRIX[label]) for label in labels], (2,), train=True)
    assert result.errors == []
    assert {row.recipe for row in result.rows if row.forward and row.step} == {"timm", *labels}


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_recipe_passes_through(step):
    names = list(pt.recipes())[::step]
    result = bench(names, train=True)
    assert result.errors == []
    assert [row.recipe for row in result.rows if row.forward and row.step] == ["timm", *names]


@pytest.mark.slow
def test_other_number_types_and_image_sizes_pass_through():
    terms = {"image_size": 64, "dtype": "bfloat16", "train": True}
    result = pt.bench("vit_tiny_patch16_224", ["sparse-tuning"], (1,), **terms, **FAST)
    assert result.errors == []
    assert result.image_size == (64, 64)
    assert result.rows[1].step.median > 0
    assert str(result).startswith("vit_tiny_patch16_224 at 64x64, bfloat16")


@pytest.mark.slow
def test_compiling_takes_its_time_before_the_rounds_and_is_told_apart():
    result = bench([recipe("one", [pt.LoRA(rank=2)])], (1, 2), compile=True)
    assert result.errors == []
    for row in result.rows:
        assert row.compile_seconds > row.forward.median
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_who_fails_is_named_and_the_others_go_on(monkeypatch):
    def forward(model, own, terms):
        def fail(images):
            raise RuntimeError("out of luck")

        return forward_as_is(model, own, terms) if own else fail

    forward_as_is = session.forward
    monkeypatch.setattr(session, "forward", forward)
    result = bench(["lora"])
    assert result.errors == ["lora, batch 1: forward: out of luck"]
    assert "failed: lora, batch 1: forward: out of luck" in str(result)
    assert rows(result)["lora", 1].forward is None
    assert rows(result)["timm", 1].forward.ratio == 1.0


def test_without_a_measured_baseline_no_ratio_is_told(monkeypatch):
    def forward(model, own, terms):
        def fail(images):
            raise RuntimeError("the baseline fails")

        return fail if own else forward_as_is(model, own, terms)

    forward_as_is = session.forward
    monkeypatch.setattr(session, "forward", forward)
    result = bench(["lora", "fpet-lora"])
    for row in result.rows[1:]:
        assert row.forward.median > 0
        assert (row.forward.ratio, row.forward.ratio_quartiles, row.macs_ratio, row.wall_per_macs) == (None,) * 4
    line = next(line for line in str(result).splitlines() if line.strip().startswith("fpet-lora"))
    assert line.split().count("-") == 4


class _CtrlC:
    """A watcher that presses Ctrl-C at a certain moment."""

    def __init__(self, moment):
        self.moment = moment

    def __call__(self, what, done, total):
        assert done < total
        if done == self.moment:
            raise KeyboardInterrupt


def test_ctrl_c_gives_what_is_measured_so_far():
    # two contestants, one batch size: 2 to warm up, then 2 a round, and the third round is not finished
    result = bench(["lora"], rounds=5, watch=_CtrlC(2 + 2 + 2 + 1))
    assert not result.complete
    counts = sorted(len(row.forward.seconds) for row in result.rows)
    assert counts in ([2, 2], [2, 3])
    assert all(row.forward.ratio is not None for row in result.rows)
    assert "interrupted" in str(result)


def test_ctrl_c_before_the_first_round_gives_no_times_and_no_ratios():
    result = bench(["fpet-lora"], watch=_CtrlC(1))
    assert not result.complete
    assert {row.forward for row in result.rows} == {None}
    assert {row.macs_ratio for row in result.rows} == {None}
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["forward"] is None


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_writes_the_json_and_exits_with_130(tmp_path):
    out = tmp_path / "bench.json"
    words = f"bench --model {TINY} --recipe lora --batch 1 --rounds 1000000 --device cpu --json {out}".split()
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background shell's children ignore Ctrl-C
    code = "import sys; from paretune.timing import session; session.Session._tell_ = session.Session._tell\n"
    code += "def tell(self, what, key):\n    self._tell_(what, key)\n    self.done == 30 and print('go', flush=True)\n"
    code += "session.Session._tell = tell; from paretune.cli.main import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen,
    )  # fmt: skip
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "interrupted: only what was measured until then" in said
    assert "Traceback" not in complaints
    written = json.loads(out.read_text())
    assert written["complete"] is False
    assert len(written["rows"][0]["forward"]["seconds"]) >= 10
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recipes": ["lroa"]}, "unknown recipe 'lroa': did you mean lora"),
        ({"batches": (1, 0)}, "batch=0 must be at least 1"),
        ({"batches": ()}, "no batch size"),
        ({"rounds": 0, "warmup": 0}, "rounds=0 must be at least 1; warmup=0 must be"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"dtype": "float16"}, "float16 needs a GPU"),
        ({"dtype": "float"}, "unknown dtype 'float': did you mean float"),
        ({"device": "cdua"}, "unknown device 'cdua'"),
        ({"baseline": "fpet-lora"}, "baseline 'fpet-lora' reduces tokens"),
        ({"baseline": "tim"}, "unknown baseline 'tim': did you mean timm"),
        ({"recipes": ["lora", "lora"]}, "'lora' is there already"),
        ({"recipes": [recipe("timm")]}, "'timm' is there already"),
        ({"recipes": [recipe("far", reducer=pt.FPET(block=12))]}, "FPET block=12"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence_before_anything_runs(options, sentence):
    watched = []
    with pytest.raises(pt.UsageError, match=sentence.replace("(", r"\(")):
        bench(**{"recipes": ["lora"], **options}, watch=lambda *moment: watched.append(moment))
    assert watched == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(pt.UsageError, match="device 'cuda' was asked for"):
        bench(["lora"], device="cuda")


# -------------------------------------------------------------------------------------------------- the command line


def cli(words):
    return CliRunner().invoke(app, ["bench", "--model", TINY, "--device", "cpu", *words.split()])


def test_several_values_may_follow_one_flag():
    def read(words):
        return " ".join(spread(words.split(), {"--recipe", "--batch"}))

    assert read("--recipe a b --train --batch 1 8 --json o") == (
        "--recipe a --recipe b --train --batch 1 --batch 8 --json o"
    )
    assert read("--batch=1 8 --batch 32") == "--batch=1 --batch 8 --batch 32"
    assert read("a --rounds 3 b") == "a --rounds 3 b"


def test_the_command_prints_tables_and_writes_json_in_one_step(tmp_path):
    out = tmp_path / "b.json"
    done = cli(f"--recipe fpet-lora lora --batch 1 2 --rounds 1 --warmup 1 --set adapter.rank=4 "
               f"fpet-lora.reducer.block=3 --json {out}")  # fmt: skip
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert [(row["recipe"], row["batch"]) for row in written["rows"]] == [
        (name, batch) for batch in (1, 2) for name in ("timm", "fpet-lora", "lora")
    ]
    settings = {row["recipe"]: row["settings"] for row in written["rows"]}
    assert {settings[name]["adapters"][0]["rank"] for name in ("lora", "fpet-lora")} == {4}
    assert settings["fpet-lora"]["reducer"]["block"] == 3
    assert "fpet-lora" in done.stdout
    assert "\x1b" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--recipe lora lroa", "paretune: unknown recipe 'lroa'"),
        ("--batch 1 0", "paretune: cannot measure: batch=0 must be at least 1"),
        ("--dtype float16", "paretune: cannot measure: float16 needs a GPU"),
        ("--baseline fpet-lora", "paretune: baseline 'fpet-lora' reduces tokens"),
        ("--recipe lora --set reducer.keep=0.5", "the recipe 'lora' has no reducer"),
        ("--json /nowhere/at/all.json", "paretune: --json /nowhere/at/all.json: name a file"),
        ("--batch many", "Invalid value for '--batch'"),
        ("lora", "unexpected extra argument"),
    ],
)
def test_wrong_words_end_in_one_sentence_and_exit_code_2(words, sentence):
    done = cli(words)
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.slow
def test_a_failure_of_one_contestant_is_printed_and_ends_with_exit_code_1(monkeypatch):
    def fail(self, key, step, batch):
        self._failed(key, "step", RuntimeError("no room"))

    monkeypatch.setattr(session.Session, "_save", fail)
    done = cli("--recipe linear --batch 1 --rounds 1 --warmup 1 --train --no-rss")
    assert done.exit_code == 1
    assert "failed: linear, batch 1: step: no room" in done.stdout


# ------------------------------------------------------------------------------------------------- whether it pays


def a_row(recipe, seconds, adapters=(), reducer=None, settings=True):
    cost = pt.cost(pt.adapt("paretune_tiny"))
    said = {"adapters": list(adapters), "reducer": reducer} if settings else None
    return Row(recipe, 1, said, cost, 1.0, times(seconds, 1, [1.0] * len(seconds)), 1.0, None, Memory(), None, None)


@pytest.mark.slow
def test_a_reducer_that_is_no_faster_than_the_same_adapters_does_not_pay():
    lora, fpet = [{"kind": "LoRA"}], {"kind": "FPET"}
    rows = [
        a_row("timm", [1.0] * 5, settings=False),
        a_row("lora", [1.2] * 5, lora),
        a_row("fpet-lora", [1.3] * 5, lora, fpet),
        a_row("quick", [1.1] * 5, lora, fpet),  # slower than timm, but faster than the same adapters
        a_row("alone", [1.01] * 5, [], fpet),
        a_row("good", [0.8] * 5, [], fpet),
        a_row("now and then", [0.5, 0.9, 0.9, 1.1, 0.8], [], fpet),
    ]
    said = unpaid(rows, "timm")
    assert [sentence.split(",")[0] for sentence in said] == ["fpet-lora", "alone"]
    assert "1.08 of the time of lora" in said[0]
    assert "1.01 of the time of timm" in said[1]


# ------------------------------------------------------------------------------------------------------------- rivals


def test_the_rival_trains_as_many_numbers_of_the_same_layers_in_timms_own_forward():
    lora = pt.recipe("lora")
    mine, theirs = (build(backbone(TERMS), one) for one in (Contestant(lora.methods), rival("hf-peft", lora)))
    assert pt.cost(theirs).trained == pt.cost(mine).trained
    assert list(theirs.branches) == []
    wrapped = {type(block.attn.qkv).__module__.split(".")[0] for block in theirs.backbone.blocks}
    assert wrapped == {"peft"}
    images = torch.randn(2, 3, 32, 32)
    mine, theirs = mine.eval().run(images).features, theirs.backbone.eval().forward_features(images)
    assert (mine - theirs).abs().max() < 1e-4  # both start at the backbone


def test_the_rivals_settings_are_those_of_the_lora():
    one = pt.LoRA(rank=4, scale=0.5, dropout=0.2, at="k proj fc2", blocks=(1, 2))
    assert one.in_peft() == {
        "r": 4, "lora_alpha": 2.0, "lora_dropout": 0.2, "target_modules": ["attn.proj", "attn.qkv", "mlp.fc2"],
        "layers_to_transform": [1, 2], "layers_pattern": "blocks",
    }  # fmt: skip
    model = build(backbone(TERMS), rival("hf-peft", recipe("some", [one])))
    named = [name for name, p in model.backbone.named_parameters() if "lora_A" in name]
    assert [name.split(".base_layer")[0].split(".lora_A")[0] for name in named] == [
        f"blocks.{i}.{place}" for i in (1, 2) for place in ("attn.qkv", "attn.proj", "mlp.fc2")
    ]


def test_a_bench_with_a_rival_times_it_beside_the_recipe_whose_job_it_does():
    found = rows(bench(["sparse-tuning", recipe("mine", [pt.LoRA(rank=2)])], train=True, rival="hf-peft"))
    assert [name for name, _ in found] == ["timm", "sparse-tuning", "mine", "hf-peft"]
    theirs = found["hf-peft", 1]
    assert (theirs.error, theirs.settings) == (None, None)
    assert theirs.step.ratio is not None
    assert theirs.cost.trained == found["mine", 1].cost.trained
    assert theirs.memory.saved_bytes > 0
    alone = bench(["sparse-tuning"], rival="hf-peft")
    assert [row.recipe for row in alone.rows] == ["timm", "sparse-tuning", "lora", "hf-peft"]
    assert "hf-peft: the job of the LoRA here" in str(alone)


def test_rivals_that_cannot_be_are_refused():
    with pytest.raises(pt.UsageError, match="did you mean hf-peft"):
        bench(["lora"], rival="hfpeft")
    with pytest.raises(pt.UsageError, match="'hf-peft' is there already"):
        bench([recipe("hf-peft", [pt.LoRA()])], rival="hf-peft")
    with pytest.raises(pt.UsageError, match="leave out bits"):
        bench([recipe("bi", [pt.LoRA(bits=1)])], rival="hf-peft")
    with pytest.raises(pt.UsageError, match="a LoRA and nothing else"):
        build(backbone(TERMS), rival("hf-peft", pt.recipe("fpet-lora")))
