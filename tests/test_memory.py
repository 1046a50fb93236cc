"""What a training step keeps: computed again with the same gradients, or kept in eight bits."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from anatomies import ANATOMIES, P8, anatomy
from PIL import Image
from test_contract import CLASSES, ROWS, SETTINGS, images, make, stirred, third
from test_laws import Affine, Half
from test_train import run, small_model
from torch import Tensor, nn

import paretune as pt
from paretune.core.memory import in_eight_bits
from paretune.core.model import Adapted
from paretune.measure import fake_memory
from paretune.measure.growth import weightless
from paretune.measure.live import Live, extrapolated
from paretune.measure.memory import saved_by
from paretune.training.objective import Objective

REDUCED = {"no reducer": None, "EViT": SETTINGS[pt.EViT], "FPET": SETTINGS[pt.FPET]}
SPARSE = ((pt.DenseAdapter(width=32),), pt.EViT(keep=0.7))
RIVAL = ((pt.AdaptFormer(width=64, bias=True),), None)


def gradients(model: Adapted, x: Tensor, memory: str, steps: int = 1) -> dict[str, Tensor]:
    """The gradients of the trained tensors after some passes, for the same random numbers."""
    model = copy.deepcopy(model).train()
    model.memory = memory
    torch.manual_seed(3)
    objective = Objective(model, nn.CrossEntropyLoss())
    for _ in range(steps):
        sum(objective(x, torch.arange(len(x)) % CLASSES).values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def same(model: Adapted, x: Tensor, tolerance: float = 1e-6, **more) -> None:
    """Assert that the gradients are the same where the MLP is computed again."""
    full, exact = gradients(model, x, "full", **more), gradients(model, x, "exact", **more)
    assert full.keys() == exact.keys()
    for name, gradient in full.items():
        torch.testing.assert_close(exact[name], gradient, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.parametrize("column", REDUCED)
@pytest.mark.parametrize("row", ROWS)
def test_what_is_computed_again_gives_the_same_gradients(row, column):
    same(stirred(make("vit", ROWS[row], REDUCED[column])), images("vit"))


@pytest.mark.parametrize("family", third(ANATOMIES, pytest.mark.slow))
def test_every_family_computes_its_mlp_again(family):
    adapters = (pt.LoRA(rank=2, at="q v"), pt.AdaptFormer(width=16))
    model = stirred(make(family, adapters, SETTINGS[pt.EViT]))
    same(model, images(family))
    assert kept(model, images(family), "exact") < kept(model, images(family), "full")


INSIDE = {
    "LoRA": ("vit", pt.LoRA(rank=2, at="fc1 fc2")),
    "LoRA on SwiGLU": ("dinov3_swiglu", pt.LoRA(rank=2, at="fc1_g fc1_x fc2")),
    "a norm": ("vit", Affine(at="norm2")),
    "part of the patches": ("vit", Half()),
    "all": ("vit", pt.Full()),
}


@pytest.mark.parametrize("case", INSIDE)
def test_leaves_inside_of_what_is_computed_again_train_as_before(case):
    family, adapter = INSIDE[case]
    same(stirred(make(family, (adapter, SETTINGS[pt.AdaptFormer]), SETTINGS[pt.FPET])), images(family), steps=2)


def dropping() -> Adapted:
    """A model with dropout in its MLPs and attention, and with stochastic depth."""
    torch.manual_seed(0)
    build = anatomy("vit_tiny_patch16_224", **P8, proj_drop_rate=0.3, attn_drop_rate=0.2, drop_path_rate=0.3).build
    return stirred(pt.adapt(build(0), (pt.LoRA(rank=2, at="fc1 fc2"),), SETTINGS[pt.EViT], CLASSES))


def test_dropout_and_stochastic_depth_draw_the_same_numbers_again():
    model, x = dropping(), images("vit")
    same(model, x, steps=2)
    first, other = (gradients(model, x, "full", steps=steps) for steps in (1, 2))
    assert any(not torch.allclose(2 * first[name], other[name]) for name in first), "it drops"


def test_modules_of_hf_peft_train_as_before():
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["qkv", "fc1", "fc2"], r=3, lora_dropout=0.2)
    hosted = peft.inject_adapter_in_model(config, ANATOMIES["vit"].build(0))
    same(stirred(pt.adapt(hosted, (), SETTINGS[pt.EViT], CLASSES)), images("vit"))


@pytest.mark.parametrize(("memory", "rounding"), [("exact", 1e-3), ("low", 0.05)])
def test_autocast_and_checkpointing_go_with_it(memory, rounding):
    model = stirred(make("vit", (pt.LoRA(rank=2, at="q v fc1 fc2"),), SETTINGS[pt.EViT]))
    with torch.autocast("cpu", torch.bfloat16):
        full, other = (gradients(model, images("vit"), kind) for kind in ("full", memory))
    for name, gradient in full.items():
        assert (other[name] - gradient).norm() <= rounding * gradient.norm() + 1e-6, name
    once = gradients(model, images("vit"), memory)
    model.backbone.set_grad_checkpointing(True)
    for name, gradient in gradients(model, images("vit"), memory).items():
        torch.testing.assert_close(gradient, once[name], rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- eight bits


@pytest.mark.parametrize("act", [nn.GELU(), nn.GELU("tanh"), pytest.param("quick", id="quick")])
def test_a_derivative_in_eight_bits_is_within_0_0026(act):
    act = ANATOMIES["clip_quickgelu"].build(0).blocks[0].mlp.act if act == "quick" else act
    x = torch.linspace(-30, 30, 60_001, requires_grad=True)
    there, coded = act(x), in_eight_bits(act)(x)
    assert torch.equal(there, coded)
    (exact,), (found,) = (torch.autograd.grad(y.sum(), x) for y in (there, coded))
    assert (found - exact).abs().max() <= 0.0026
    assert found[0] == 0
    assert found[-1] == 1


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip_quickgelu", "siglip", "eva02", "dinov3_swiglu", "respost"])
def test_in_eight_bits_gradients_hardly_change(family):
    model = stirred(make(family, (pt.LoRA(rank=2, at="q v"), SETTINGS[pt.AdaptFormer]), SETTINGS[pt.FPET]))
    full, low = (gradients(model, images(family), memory) for memory in ("full", "low"))
    for name, gradient in full.items():
        assert (low[name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-6, name
    assert kept(model, images(family), "low") < kept(model, images(family), "full")


# ------------------------------------------------------------------------------------------------------ what is kept


def kept(model: Adapted, x: Tensor, memory: str) -> int:
    """Bytes that a training forward keeps, weights apart."""
    model = copy.deepcopy(model).train()
    model.memory = memory
    return saved_by(lambda: model(x), [*model.parameters(), *model.buffers()])


def of_vit_b(methods: tuple, memory: str) -> int:
    """The same for a ViT-B/16 and a batch of 8, on tensors without values."""
    model = weightless("vit_base_patch16_224", *methods, 100)
    model.memory = memory
    return fake_memory.saved_bytes(model, 8)


@pytest.mark.slow
def test_sparse_tuning_keeps_less_than_half_of_what_adaptformer_keeps():
    whole = of_vit_b(RIVAL, "full")
    full, exact, low = (of_vit_b(SPARSE, memory) / whole for memory in ("full", "exact", "low"))
    assert full == pytest.approx(0.66, abs=0.01)
    assert exact <= 0.45
    assert low <= 0.50


@pytest.mark.parametrize("memory", ["exact", "low"])
def test_shadows_keep_what_tensors_with_numbers_keep(memory):
    model = pt.adapt("paretune_tiny", (pt.LoRA(rank=2, at="q v fc2"),), pt.EViT(keep=0.7), 10)
    model.memory = memory
    assert fake_memory.saved_bytes(model, 2) == kept(model, torch.zeros(2, 3, 32, 32), memory)


def test_blocks_below_the_first_trained_tensor_keep_nothing():
    model = make("vit", (pt.LoRA(rank=2, blocks=(3,)),), None)
    assert kept(model, images("vit"), "exact") < kept(model, images("vit"), "full")
    assert kept(make("vit", (), None), images("vit"), "exact") == kept(make("vit", (), None), images("vit"), "full")


def test_evaluation_and_settings_do_not_know_of_it():
    model = stirred(make("vit", (SETTINGS[pt.AdaptFormer],), SETTINGS[pt.EViT]))
    other = copy.deepcopy(model)
    other.memory = "low"
    x = images("vit").requires_grad_()
    assert torch.equal(model(x), other(x))
    sizes = [saved_by(lambda m=m: m(x), [*m.parameters(), *m.buffers()]) for m in (model, other)]
    assert sizes[0] == sizes[1]
    assert model.state_dict().keys() == other.state_dict().keys()
    assert replace(model.spec) == other.spec


# ---------------------------------------------------------------------------------------------------------- a training


def test_a_training_keeps_less_records_it_and_leaves_the_model_as_it_was(tmp_path):
    models = {memory: small_model((pt.AdaptFormer(width=4),)) for memory in ("full", "exact", "low")}
    found = {}
    for memory, model in models.items():
        found[memory] = run(tmp_path / memory, model=model, memory=memory)
        assert model.memory == "full"
        assert found[memory].record["memory"] == memory
    losses = {memory: [row["train_loss"] for row in result.history] for memory, result in found.items()}
    assert losses["exact"] == pytest.approx(losses["full"], abs=1e-5)
    assert losses["low"] == pytest.approx(losses["full"], abs=0.02)
    assert losses["low"][-1] < losses["low"][0]
    assert pt.load(tmp_path / "low").memory == "full"


def test_a_run_goes_on_with_the_memory_that_it_began_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", interrupt=45, memory="exact")
    with pytest.raises(pt.UsageError, match='memory was "exact", is "full"'):
        run(tmp_path / "a", resume=True)
    path = tmp_path / "a" / "state" / "settings.json"
    settings = json.loads(path.read_text())
    del settings["memory"]  # as runs wrote it before
    path.write_text(json.dumps(settings))
    run(tmp_path / "a", resume=True)


def test_another_memory_is_refused_by_name(tmp_path):
    with pytest.raises(pt.UsageError, match=r"unknown memory 'tiny': known: full, exact, low"):
        run(tmp_path, memory="tiny")


# ------------------------------------------------------------------------------------------------------- what is told


def course(model: Adapted, count: int) -> list[int]:
    """The living bytes after every operation of a step."""
    objective = Objective(model.train(), nn.CrossEntropyLoss())
    with Live() as live:
        batch = torch.zeros(count, *model.preprocessing["input_size"]), torch.zeros(count, dtype=torch.long)
        sum(objective(*batch).values()).backward()
        model.zero_grad()
    return live.course


def test_what_lives_is_what_was_made_and_not_yet_freed():
    x = torch.zeros(1000)
    with Live() as live:
        y = x + 1
        y += x
        z = y[:10]
        del y, z
        x.add_(1)
    assert live.course == [4000, 4000, 4000, 0]


@pytest.mark.parametrize(
    "recipe", third(["sparse-tuning", "full", "fpet-lora", "sparse-tuning-dynamicvit", "vpt"], pytest.mark.slow)
)
def test_two_small_batches_tell_the_peak_of_a_large_one(recipe):
    methods = pt.recipe(recipe)
    model = pt.adapt("paretune_tiny", methods.adapters, methods.reducer, 10)
    told = extrapolated(course(model, 2), course(model, 3), 24)
    assert told == pytest.approx(max(course(model, 24)), rel=0.02)


TOLD = """
import atexit, sys
from pathlib import Path
from paretune.cli.main import run

atexit.register(lambda: print(Path("/proc/self/status").read_text(), file=sys.stderr))
run()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what a process holds")
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--batch-size", "32"), marks=pytest.mark.exhaustive),
        pytest.param(("--memory", "exact", "--image-size", "96"), marks=pytest.mark.exhaustive),
        ("--memory", "exact", "--image-size", "96", "--recipe", "sparse-tuning"),
    ],
)
def test_a_training_tells_what_its_process_will_need(more, tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 4)):
        for name in ("ant", "bee"):
            (folder := tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    words = f"train --data {tmp_path}/data --out {tmp_path}/out --model paretune_tiny --epochs 1 --warmup-epochs 0"
    done = subprocess.run(
        [sys.executable, "-c", TOLD, *words.split(), "--device", "cpu", "--workers", "0", *more],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    amount, unit = re.search(r"about ([\d.]+) (MB|GB) for the process", done.stderr).groups()
    held = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", done.stderr)[1])
    assert float(amount) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(held, rel=0.1)
