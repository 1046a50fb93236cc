"""Linears of 1, 2, 4 and 8 bits a weight, against the official implementation, their closed forms and their storage."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from anatomies import ANATOMIES
from safetensors.torch import load_file

import paretune as pt
from paretune.core import packed, quantised
from paretune.core.quantised import BITS, ConstantLinear, QuantisedLinear, codebook, quantise

GOLDEN = load_file(Path(__file__).parent / "golden" / "quantised_linear.safetensors")
official = pytest.mark.parametrize("bits", [bits for bits in BITS if f"w{bits}" in GOLDEN])


@pytest.fixture(params=BITS)
def bits(request):
    return request.param


def codes_of(bits, dtype=torch.float32):
    return torch.tensor(codebook(bits), dtype=dtype)


def code_index(weight, codes):
    """Which code every entry of a matrix stands for, by trying all."""
    normal = (weight - weight.mean()) / (weight.std() + 1e-5)
    return (normal[..., None] - codes).abs().argmin(-1)


# --------------------------------------------------------------------------------------------------------------- codes


@official
def test_the_codes_are_the_official_ones(bits):
    torch.testing.assert_close(codes_of(bits), GOLDEN[f"codes{bits}"], rtol=0, atol=1e-6)


def test_a_value_is_the_median_of_its_cell_and_cells_end_halfway(bits):
    codes = codes_of(bits, torch.float64)
    assert len(codes) == 2**bits
    assert (codes.diff() > 0).all()
    ends = torch.special.ndtr((codes[1:] + codes[:-1]) / 2)
    ends = torch.cat([ends.new_zeros(1), ends, ends.new_ones(1)])
    torch.testing.assert_close(torch.special.ndtr(codes), (ends[1:] + ends[:-1]) / 2, rtol=0, atol=1e-12)


def test_the_official_storage_was_exercised():
    assert [bits for bits in BITS if f"bytes{bits}" in GOLDEN] == [1, 2, 4]


# ------------------------------------------------------------------------------------------------------------- forward


@official
def test_outputs_are_the_official_ones(bits):
    layer = QuantisedLinear(48, 16, bits)
    layer.load_state_dict({"weight": GOLDEN[f"w{bits}"]})
    torch.testing.assert_close(layer(GOLDEN[f"x{bits}"]).detach(), GOLDEN[f"y{bits}"], rtol=0, atol=1e-5)


def test_every_weight_takes_the_nearest_code(bits):
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(bits), dtype=torch.float64) * 0.3 + 0.1
    codes = codes_of(bits, torch.float64)
    expected = weight.std() * codes[code_index(weight, codes)] + weight.mean()
    found = quantise(weight, codes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    used = len(code_index(weight, codes).unique())
    assert used == 2**bits if bits < 8 else used > 200
    assert len(found.unique().round(decimals=9).unique()) == used


def test_the_gradient_passes_the_codes_and_flows_through_mean_and_spread(bits):
    g = torch.Generator().manual_seed(bits)
    weight = (torch.randn(8, 12, generator=g, dtype=torch.float64) * 0.02).requires_grad_()
    pull = torch.randn(8, 12, generator=g, dtype=torch.float64)
    codes = codes_of(bits, torch.float64)
    (found,) = torch.autograd.grad((quantise(weight, codes) * pull).sum(), weight)

    # w^_i = std c_i + mean,  dc_i/dw~_i = 1,  w~ = (w - mean) / (std + eps),  dstd/dw_j = (w_j - mean) / ((n - 1) std)
    w, n = weight.detach(), weight.numel()
    mean, std = w.mean(), w.std()
    normal, chosen = (w - mean) / (std + 1e-5), codes[code_index(w, codes)]
    shrunk = std / (std + 1e-5)
    through_std = (pull * (chosen - shrunk * normal)).sum() * (w - mean) / ((n - 1) * std)
    through_mean = pull.sum() * (1 - shrunk) / n
    torch.testing.assert_close(found, shrunk * pull + through_std + through_mean, rtol=1e-9, atol=1e-12)
    assert through_std.abs().max() > (1e-3 if bits < 8 else 1e-5)  # the parts that a detached mean or spread would lose
    assert through_mean.abs() > 1e-7


def test_codes_are_no_state_to_save_and_follow_the_layer():
    layer = QuantisedLinear(6, 4, bits=2)
    assert list(layer.state_dict()) == ["weight"]
    assert layer.double().codes.dtype == torch.float64


def test_a_copy_of_wider_type_has_the_same_codes_also_next_to_the_end_of_a_cell(bits):
    torch.manual_seed(0)
    layer = QuantisedLinear(64, 64, bits)
    codes = codes_of(bits, torch.float64)
    ends = ((codes[1:] + codes[:-1]) / 2)[torch.arange(512) % (2**bits - 1)]
    with torch.no_grad():
        for _ in range(50):  # put weights on the ends of the cells; that moves mean and std a little
            mean, std = layer.weight.double().mean(), layer.weight.double().std()
            layer.weight.view(-1)[:512] = (ends * (std + 1e-5) + mean).float()
        wide = copy.deepcopy(layer).double()
        torch.testing.assert_close(layer.quantised().double(), wide.quantised(), rtol=0, atol=1e-6 * std.item())
        exact = (wide.weight - wide.weight.mean()) / (wide.weight.std() + 1e-5)
        bounds = (wide.codes[1:] + wide.codes[:-1]) / 2
        narrow = quantised.nearest(layer.weight, layer.codes, quantised.moments(layer.weight).float())
        assert (torch.bucketize(exact, bounds) != narrow).any(), "in float64 some would lie in the next cell"


def test_half_precision_weights_are_measured_in_full_precision(bits):
    layer = QuantisedLinear(300, 40, bits)
    half = copy.deepcopy(layer).bfloat16()
    assert half.quantised().dtype == torch.float32
    for x_type in (torch.bfloat16, torch.float32):
        assert half(torch.ones(2, 300, dtype=x_type)).dtype == x_type
    same = QuantisedLinear(300, 40, bits)
    same.load_state_dict({"weight": half.weight.float()})
    gap = (half.quantised() - same.quantised()).abs().mean() / same.weight.std()
    assert gap < 0.005  # the codes are rounded to bfloat16, mean and spread are not


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_every_weight_gets_a_gradient(bits, dtype):
    layer = QuantisedLinear(24, 8, bits)
    with torch.autocast("cpu", dtype):
        y = layer(torch.randn(5, 24))
    assert y.dtype == dtype
    y.float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()
    assert (layer.weight.grad != 0).all()


# ------------------------------------------------------------------------------------------------------------- storage

SHAPES = [(1, 2), (3, 5), (7, 1), (2, 24), (13, 33), (32, 768)]  # (out, in)


def trained_weight(shape, kind, seed=0):
    """A matrix as training may leave it."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=g)
    return {
        "normal": lambda: 0.02 * normal,
        "just begun": lambda: torch.nn.init.trunc_normal_(normal, std=1e-3, a=-2e-3, b=2e-3, generator=g),
        "uniform": lambda: torch.rand(shape, generator=g) - 0.5,
        "far from zero": lambda: normal + 30,
        "long tails": lambda: 0.1 * normal.sign() * normal.abs().exp(),
        "two heaps": lambda: normal.sign() + 0.01 * normal,
        "tiny": lambda: 1e-5 * normal,
    }[kind]()


KINDS = ["normal", "just begun", "uniform", "far from zero", "long tails", "two heaps", "tiny"]


def layer_of(weight, bits):
    layer = QuantisedLinear(weight.shape[1], weight.shape[0], bits)
    layer.load_state_dict({"weight": weight})
    return layer


def read_back(layer):
    """A fresh layer that read what `layer` wrote."""
    fresh = QuantisedLinear(layer.weight.shape[1], layer.weight.shape[0], layer.bits)
    fresh.unpack(*layer.pack())
    return fresh


@official
def test_packed_weights_are_the_official_bytes(bits):
    codes, scales = layer_of(GOLDEN[f"w{bits}"], bits).pack()
    assert torch.equal(codes, GOLDEN[f"bytes{bits}"])
    torch.testing.assert_close(scales, GOLDEN[f"mean_std{bits}"], rtol=1e-6, atol=1e-8)


@official
def test_the_official_bytes_compute_the_official_outputs(bits):
    layer = QuantisedLinear(48, 16, bits)
    layer.unpack(GOLDEN[f"bytes{bits}"], GOLDEN[f"mean_std{bits}"])
    torch.testing.assert_close(layer(GOLDEN[f"x{bits}"]).detach(), GOLDEN[f"y{bits}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_survive_packing_with_no_tail_lost(bits, shape):
    count = math.prod(shape)
    numbers = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(count))
    numbers[-1] = 2**bits - 1
    stored = packed.to_bytes(numbers, bits)
    assert stored.dtype == torch.uint8
    assert len(stored) == math.ceil(count * bits / 8)
    assert torch.equal(packed.from_bytes(stored, bits, count), numbers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_read_computes_the_same_bits_and_is_written_as_it_was(bits, shape, kind):
    layer = layer_of(trained_weight(shape, kind), bits)
    read = read_back(layer)
    assert torch.equal(read.quantised(), layer.quantised())
    assert all(torch.equal(*pair) for pair in zip(read.pack(), layer.pack(), strict=True))
    assert torch.equal(read_back(read).quantised(), layer.quantised())
    assert torch.equal(copy.deepcopy(read).float().quantised(), layer.quantised())


def test_the_weights_of_a_read_layer_alone_stand_for_nearly_the_same(bits):
    layer = layer_of(trained_weight((32, 768), "normal"), bits)
    read = read_back(layer)
    alone = layer_of(read.weight.detach(), bits)  # as a state dict hands them on
    torch.testing.assert_close(alone.quantised(), layer.quantised(), rtol=0, atol=1e-6 * layer.weight.std().item())
    assert read.remainder.abs().max() < 1e-6 * layer.weight.std()
    assert (read.weight - layer.weight).abs().max() > 1e-4  # the float weights themselves are not stored


def test_a_read_layer_trains_on_as_if_it_had_not_been_stored(bits):
    """Both follow a target weight by gradient descent; what was read gets as near to it."""
    layer = layer_of(trained_weight((16, 64), "normal"), bits)
    goal = 0.03 * torch.randn(16, 64, generator=torch.Generator().manual_seed(9))
    losses = []
    for one in (layer, read_back(layer)):
        optimizer = torch.optim.Adam(one.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(60):
            optimizer.zero_grad()
            loss = (one.quantised() - goal).square().sum()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][0] == losses[1][0]
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.1)


def test_the_number_of_threads_does_not_matter_to_what_was_read(bits):
    layer = layer_of(trained_weight((128, 1024), "long tails"), bits)  # more entries than one thread sums
    read, threads = read_back(layer), torch.get_num_threads()
    found, narrow = [], set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(read.quantised())
            narrow.add(read.weight.mean().item())
    finally:
        torch.set_num_threads(threads)
    assert len(narrow) > 1, "in float32 it matters"
    assert all(torch.equal(one, layer.quantised()) for one in found)


def test_a_device_without_float64_computes_the_same_up_to_rounding(bits, monkeypatch):
    layer = layer_of(trained_weight((32, 768), "normal"), bits)
    read = read_back(layer)
    monkeypatch.setattr(quantised, "WITHOUT_FLOAT64", ("cpu",))
    assert quantised.moments(layer.weight).dtype == torch.float32
    assert {buffer.dtype for buffer in layer.buffers()} == {torch.float32}
    for one in (read, read_back(layer)):
        torch.testing.assert_close(one.quantised(), layer.quantised(), rtol=0, atol=1e-6 * layer.weight.std().item())


def test_a_layer_says_how_it_is_packed():
    assert QuantisedLinear(5, 3, bits=2).layout() == {"bits": 2, "shape": [3, 5]}


# ------------------------------------------------------------------------------------------------------------ adapters

FEW_BITS = [pt.LoRA(rank=4, at="q v fc2", bits=1), pt.AdaptFormer(width=6, bits=1)]


@pytest.fixture(params=FEW_BITS, ids=lambda adapter: type(adapter).__name__)
def adapter(request, bits):
    return dataclasses.replace(request.param, bits=bits)


def model_of(adapter, reducer=None):
    torch.manual_seed(0)
    return pt.adapt(ANATOMIES["vit"].build(0), [adapter], reducer, 5)


def images():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_an_adapter_of_few_bits_trains_as_many_weights_and_all_of_them_are_quantised(adapter):
    plain, few = (
        {n: p.shape for n, p in model_of(one).named_parameters() if p.requires_grad}
        for one in (dataclasses.replace(adapter, bits=0), adapter)
    )
    assert plain == few
    owners = [module for module in model_of(adapter).modules() if isinstance(module, QuantisedLinear)]
    assert {f"{tuple(m.weight.shape)}" for m in owners} == {f"{tuple(s)}" for n, s in few.items() if "head" not in n}
    assert {m.bits for m in owners} == {adapter.bits}


def test_a_fresh_adapter_of_few_bits_is_near_the_backbone_but_not_it(adapter):
    plain, few = (model_of(one).eval() for one in (dataclasses.replace(adapter, bits=0), adapter))
    few.backbone.head.load_state_dict(plain.backbone.head.state_dict())
    with torch.no_grad():
        gap = (few(images()) - plain(images())).abs().max()
    assert 1e-6 < gap < 0.05
    ups = [m.up.weight for m in few.modules() if hasattr(m, "up")]
    assert ups
    assert all(0 < w.abs().max() <= 2e-3 and w.std() > 5e-4 for w in ups)


def test_merging_folds_the_weights_of_few_bits(adapter):
    model = model_of(adapter, pt.FPET(block=1)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "head" not in name:
                p.normal_(0, 0.1)
    merged = pt.merge(model)
    assert not [m for m in merged.modules() if isinstance(m, QuantisedLinear)]
    assert [m for m in merged.modules() if isinstance(m, ConstantLinear)]  # FPET's refinement at least
    assert [m for m in model.modules() if isinstance(m, QuantisedLinear)]
    with torch.no_grad():
        torch.testing.assert_close(merged(images()), model(images()), rtol=1e-5, atol=1e-5)
        merged.bfloat16()(images().bfloat16())


def test_weights_that_became_constants_give_the_same_bits(bits):
    layer = QuantisedLinear(24, 8, bits)
    holder = torch.nn.Sequential(layer)
    quantised.fold_all(holder)
    x = torch.randn(3, 24)
    assert torch.equal(holder(x), layer(x))
    assert not [p for p in holder.parameters() if p.requires_grad]


def test_few_bits_leave_no_room_for_biases_or_other_counts():
    for wrong, says in (
        (pt.AdaptFormer(bits=1, bias=True), "bits=1 bias=True: quantised projections have no bias"),
        (pt.AdaptFormer(bits=3), r"AdaptFormer bits=3: must be one of \(1, 2, 4, 8\), or 0"),
        (pt.LoRA(bits=16), r"LoRA bits=16: must be one of \(1, 2, 4, 8\), or 0"),
    ):
        with pytest.raises(pt.UsageError, match=says):
            model_of(wrong)


@pytest.mark.parametrize("base", ["bi-lora", "bi-adaptformer"])
def test_the_named_recipes_are_the_published_settings(base):
    alone, fpet = pt.recipe(base), pt.recipe(f"fpet-{base}")
    assert alone.adapters == fpet.adapters
    (adapter,) = alone.adapters
    assert (adapter.bits, adapter.scale, adapter.dropout) == (1, 1.0, 0.1)
    assert alone.reducer is None
    assert fpet.reducer == pt.recipe("fpet-lora").reducer
    assert alone.schedule == fpet.schedule == pt.recipe("lora").schedule
