"""One noun each: adapters and reducer as Methods, and the unit of multiply-accumulates."""

import json
from dataclasses import replace

import pytest

import paretune as pt
from paretune.catalogue import RECIPES
from paretune.counts import GMACS, MMACS, PARTS, mac_unit
from paretune.methods import Methods, completed
from paretune.training.prepare import built, fit_on


@pytest.mark.parametrize("name", RECIPES)
def test_the_methods_of_a_recipe_come_back_from_their_json(name):
    methods = RECIPES[name].methods
    assert (methods.adapters, methods.reducer) == (RECIPES[name].adapters, RECIPES[name].reducer)
    described = json.loads(json.dumps(methods.to_json()))
    assert Methods.from_json(described) == methods
    assert Methods.from_json(described).key() == methods.key()
    assert completed(described) == described


def test_methods_differ_by_their_key_and_nothing_is_no_method():
    keys = {RECIPES[name].methods.key() for name in ("lora", "fpet-lora", "linear", "adaptformer")}
    assert len(keys) == 4
    assert Methods().to_json() == {"adapters": [], "reducer": None}


@pytest.mark.parametrize(
    ("methods", "printed"),
    [
        (Methods(), "no adapter, all tokens"),
        (Methods((pt.LoRA(),)), "LoRA, all tokens"),
        (Methods((pt.LoRA(rank=4, blocks=(2, 3)),), pt.FPET(block=6)), "LoRA(rank=4, blocks=(2, 3)) + FPET(block=6)"),
        (Methods((pt.LoRA(), pt.VPT(prompts=5)), pt.EViT(rest="drop")), "LoRA + VPT(prompts=5) + EViT(rest='drop')"),
        (Methods(reducer=pt.ToMe(r=(8, 4))), "no adapter + ToMe(r=(8, 4))"),
    ],
)
def test_methods_are_printed_as_in_python_without_their_defaults(methods, printed):
    assert str(methods) == printed


def test_unknown_methods_and_missing_keys_are_refused():
    with pytest.raises(pt.UsageError, match="unknown method 'Telepathy'"):
        Methods.from_json({"adapters": [{"kind": "Telepathy"}], "reducer": None})
    with pytest.raises(KeyError):
        Methods.from_json({"adapters": []})


@pytest.mark.parametrize(
    ("counts", "unit", "written"),
    [
        ([75_300_000, 98_740_000, None], MMACS, ["75.3", "98.7"]),
        ([17_564_000_000], GMACS, ["17.56"]),
        ([17_564_000_000, 503_900_000], GMACS, ["17.56", "0.504"]),
        ([10**9], GMACS, ["1.00"]),
        ([], GMACS, []),
        ([0], MMACS, ["0.0"]),
    ],
)
def test_macs_have_the_unit_of_the_largest_model_and_enough_digits(counts, unit, written):
    assert mac_unit(counts) is unit
    assert [unit.write(count) for count in counts if count is not None] == written


def test_parts_of_a_model_are_told_in_million():
    assert [PARTS.write(count) for count in (1_388_200_000, 589_824, 0)] == ["1,388.20", "0.590", "0.00"]


def test_what_is_fitted_sees_pictures_as_it_is_evaluated(tmp_path):
    from test_trials import pictures

    train, validate = pictures(16, 0, "train"), pictures(8, 1, "validate")
    recipe = replace(pt.recipe("linear"), schedule=pt.Schedule(epochs=1, warmup_epochs=0, drop_path=0.1))
    model = built("paretune_tiny", recipe.methods, recipe.schedule, train.classes)
    assert model.backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    fit_on(
        model, train, validate, recipe.schedule, tmp_path / "run", {"mean": (0.1, 0.2, 0.3)}, device="cpu", quiet=True
    )
    assert model.preprocessing["mean"] == (0.1, 0.2, 0.3)
    assert model.preprocessing["crop_mode"] == "squash"
    assert pt.load(tmp_path / "run").preprocessing == model.preprocessing
