"""Linears of 1, 2 and 4 bits a weight, against the official implementation and their closed forms."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paretune.core.quantised import BITS, QuantisedLinear, codebook, quantise

GOLDEN = load_file(Path(__file__).parent / "golden" / "quantised_linear.safetensors")


@pytest.fixture(params=BITS)
def bits(request):
    return request.param


def codes_of(bits, dtype=torch.float32):
    return torch.tensor(codebook(bits), dtype=dtype)


def code_index(weight, codes):
    """Which code every entry of a matrix stands for, by trying all."""
    normal = (weight - weight.mean()) / (weight.std() + 1e-5)
    return (normal[..., None] - codes).abs().argmin(-1)


def test_the_codes_are_the_official_ones(bits):
    torch.testing.assert_close(codes_of(bits), GOLDEN[f"codes{bits}"], rtol=0, atol=1e-6)


def test_a_value_is_the_median_of_its_cell_and_cells_end_halfway(bits):
    codes = codes_of(bits, torch.float64)
    ends = torch.special.ndtr((codes[1:] + codes[:-1]) / 2)
    ends = torch.cat([ends.new_zeros(1), ends, ends.new_ones(1)])
    torch.testing.assert_close(torch.special.ndtr(codes), (ends[1:] + ends[:-1]) / 2, rtol=0, atol=1e-9)


def test_outputs_are_the_official_ones(bits):
    layer = QuantisedLinear(48, 16, bits)
    layer.load_state_dict({"weight": GOLDEN[f"w{bits}"]})
    torch.testing.assert_close(layer(GOLDEN[f"x{bits}"]).detach(), GOLDEN[f"y{bits}"], rtol=0, atol=1e-5)


def test_every_weight_takes_the_code_that_the_official_storage_holds(bits):
    packed = GOLDEN[f"bytes{bits}"].long()
    stored = torch.stack([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)], dim=-1).reshape(16, 48)
    mean, std = GOLDEN[f"mean_std{bits}"]
    found = quantise(GOLDEN[f"w{bits}"], codes_of(bits))
    torch.testing.assert_close(found, std * GOLDEN[f"codes{bits}"][stored] + mean, rtol=0, atol=1e-6)


def test_every_weight_takes_the_nearest_code(bits):
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(bits), dtype=torch.float64) * 0.3 + 0.1
    codes = codes_of(bits, torch.float64)
    expected = weight.std() * codes[code_index(weight, codes)] + weight.mean()
    found = quantise(weight, codes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert len(found.unique().round(decimals=9).unique()) == 2**bits


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
    assert through_std.abs().max() > 1e-3  # the parts that a detached mean or spread would lose
    assert through_mean.abs() > 1e-7


def test_codes_are_no_state_to_save_and_follow_the_layer():
    layer = QuantisedLinear(6, 4, bits=2)
    assert list(layer.state_dict()) == ["weight"]
    assert layer.double().codes.dtype == torch.float64
