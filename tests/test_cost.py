"""Where the cost lies, block by block, and how it grows: the rows add up, and each stands where the rule puts it."""

import json
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from anatomies import ANATOMIES
from PIL import Image
from test_contract import third
from torch import nn
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.core.method import Reducer
from paretune.measure.counting import UNUSED, Place, dry_run
from paretune.measure.detail import detail
from paretune.measure.growth import growth, weightless

SIZE = (32, 32)


def tiny(adapters=(), reducer=None, classes=10):
    """The embedded backbone without its numbers: D = 96, 12 blocks, 8x8 patches of 4x4 pixels."""
    return weightless("paretune_tiny", adapters, reducer, classes)


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(done):
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr


# ----------------------------------------------------------------------------------------------------------- the sums


@pytest.mark.parametrize("name", third(pt.recipes(), pytest.mark.slow))
def test_the_rows_of_every_recipe_add_up_to_its_cost(name):
    recipe = pt.recipe(name)
    model = tiny(recipe.adapters, recipe.reducer)
    found, cost = detail(model), pt.cost(model)
    assert found.cost == cost
    for rows in (found.blocks, found.groups):
        assert sum(row.total for row in rows) == cost.macs
        assert sum(row.parameters for row in rows) == cost.total
        assert sum(row.trained for row in rows) == cost.trained
    assert [row.tokens for row in found.blocks if row.tokens] == list(cost.tokens)


@pytest.mark.parametrize("name", third(ANATOMIES, pytest.mark.slow))
def test_the_rows_of_every_anatomy_add_up_and_leave_the_model_as_it_was(name):
    build, size = ANATOMIES[name]
    model = pt.adapt(build(0), [pt.LoRA(rank=2), pt.DenseAdapter(width=4)], pt.EViT(keep=0.5, blocks=(1, 2)), classes=5)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = detail(model, size)
    assert sum(row.total for row in found.blocks) == found.cost.macs == pt.cost(model, size).macs
    assert sum(row.parameters for row in found.groups) == found.cost.total
    assert model.training
    assert "step" not in vars(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_block_costs_what_the_rule_says():
    n, d = 65, 96
    rows = {row.name: row for row in detail(tiny()).blocks}
    assert rows["embed"].macs == {"embed": 64 * d * 3 * 4 * 4}
    for i in range(12):
        assert rows[f"block {i}"].macs == {"attention": 4 * d * d * n + 2 * n * n * d, "mlp": 8 * d * d * n}
        assert rows[f"block {i}"].parameters == 12 * d * d + 13 * d
    assert rows["head"].macs == {"head": d * 10}
    assert rows["head"].parameters == 2 * d + 10 * d + 10
    assert rows["head"].trained == 10 * d + 10


def test_leaves_branches_and_the_reducer_stand_apart():
    n, d = 65, 96
    rows = {row.name: row for row in detail(tiny([pt.LoRA(rank=4), pt.AdaptFormer(width=8)], pt.FPET(block=6))).blocks}
    plain = 4 * d * d * n + 2 * n * n * d
    assert rows["block 2"].macs == {
        "attention": plain, "mlp": 8 * d * d * n, "leaves": 4 * d * 4 * n, "branches": 2 * d * 8 * n
    }  # fmt: skip
    refine, cosines = 2 * 64 * 32 * 32, 32 * 32 * 32  # 64 keys of 32 channels through a bottleneck of 32; |A| |B| d
    assert rows["block 6"].macs["reducer"] == refine + cosines
    assert rows["block 6"].macs["attention"] == plain
    assert rows["block 6"].macs["mlp"] == 8 * d * d * 33
    assert [name for name, row in rows.items() if "reducer" in row.macs] == ["block 6"]
    assert rows["block 6"].trained - rows["block 5"].trained == 2 * 32 * 32


def test_leaves_on_leaves_are_leaves_and_what_they_sit_on_is_not():
    alone, stacked = (detail(tiny(adapters)) for adapters in ([], [pt.LoRA(rank=2), pt.LoRA(rank=3)]))
    for plain, row in zip(alone.blocks, stacked.blocks, strict=True):
        assert {k: v for k, v in row.macs.items() if k != "leaves"} == plain.macs
    assert stacked.blocks[1].macs["leaves"] == 4 * 96 * (2 + 3) * 65


def test_a_module_of_hf_peft_is_a_leaf():
    peft = pytest.importorskip("peft")
    model = tiny().backbone
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["qkv", "fc1"]), model)
    plain, guest = detail(tiny()), detail(pt.adapt(model))
    assert guest.blocks[1].macs["leaves"] == 65 * 4 * (96 + 3 * 96 + 96 + 4 * 96)
    assert {k: v for k, v in guest.blocks[1].macs.items() if k != "leaves"} == plain.blocks[1].macs


def test_trained_tensors_stand_in_the_block_that_uses_them_first():
    h, d = 8, 96
    rows = detail(tiny([pt.DenseAdapter(width=h)])).blocks[1:13]
    downs = [1, 2, 2] + [3] * 9
    assert [row.trained for row in rows] == [k * (d * h + h) + h * d + d for k in downs]


def test_a_tensor_that_nothing_uses_stands_apart():
    model = tiny()
    model.backbone.register_parameter("spare", nn.Parameter(torch.empty(7, device="meta")))
    assert dry_run(model, SIZE).tensors[UNUSED] == ["backbone.spare"]
    last = detail(model).blocks[-1]
    assert (last.name, last.parameters, last.total) == ("unused", 7, 0)


class LooksAhead(Reducer):
    """Multiplies all tokens with each other before block 2, and lets all of them stay."""

    def before(self, block, tokens):
        if block == 2:
            tokens.x @ tokens.x.transpose(1, 2)

    def forward(self, block, look, tokens):
        return None


def test_what_a_reducer_does_before_a_block_belongs_to_that_block():
    model = tiny()
    model.reducer = LooksAhead()
    macs = dry_run(model, SIZE).macs
    assert {place for place in macs if place.part == "reducer"} == {Place(2, "reducer")}
    assert macs[Place(2, "reducer")] == 65 * 65 * 96
    assert macs[Place(2, "attention")] == macs[Place(1, "attention")]


def test_the_ledger_counts_what_goes_through_layernorms():
    assert dry_run(tiny(), SIZE).normed == (2 * 12 + 1) * 65 * 96


def test_in_training_a_reducer_is_counted_as_it_answers_there():
    model, merge = tiny(reducer=pt.FPET(block=6)).eval(), 32 * 32 * (96 + 2)  # features, their weights, sizes
    assert dry_run(model, SIZE, training=True).total - dry_run(model, SIZE).total == merge
    assert not model.training


def test_all_tokens_cost_what_the_model_without_its_reducer_costs():
    with_reducer, without = tiny([pt.LoRA()], pt.EViT()), tiny([pt.LoRA()])
    assert pt.cost(with_reducer, reduced=False).macs == pt.cost(without).macs
    assert pt.cost(with_reducer, reduced=False).tokens == pt.cost(without).tokens


# ------------------------------------------------------------------------------------------------------------- growth


def test_growth_is_the_cost_at_every_size():
    rows = growth("paretune_tiny", pt.recipe("fpet-lora"), [64, 32, 64], classes=10)
    assert [row.image_size for row in rows] == [(32, 32), (64, 64)]
    model = weightless("paretune_tiny", *_methods("fpet-lora"), 10, img_size=64)
    assert (rows[1].macs, rows[1].macs_all_tokens) == (pt.cost(model).macs, pt.cost(model, reduced=False).macs)
    assert rows[1].tokens == (257, 129)
    assert rows[1].ratio == rows[1].macs / rows[1].macs_all_tokens


def _methods(name):
    recipe = pt.recipe(name)
    return recipe.adapters, recipe.reducer


@pytest.mark.slow
def test_large_images_on_vit_b_need_no_memory():
    (row,) = growth("vit_base_patch16_224", pt.recipe("sparse-tuning"), [1024])
    assert row.tokens == (4097, 1409)
    assert 0.59 < row.ratio < 0.61


def test_sizes_that_the_patches_do_not_tile_are_refused_by_name():
    with pytest.raises(pt.UsageError, match=r"patches of 4x4 do not tile images of side 33, 2; the nearest .* 32, 4"):
        growth("paretune_tiny", pt.recipe("lora"), [32, 33, 2])


def test_a_recipe_that_does_not_fit_a_size_is_refused_with_the_size():
    recipe = pt.Recipe("many", "", reducer=pt.ToMe(r=20))
    with pytest.raises(pt.UsageError, match=r"many at 16x16: .*ToMe r=20"):
        growth("paretune_tiny", recipe, [32, 16])


# -------------------------------------------------------------------------------------------------------- as a command


@pytest.mark.slow
def test_sizes_take_several_values_after_one_flag():
    done = cli("cost", "--model", "paretune_tiny", "--recipe", "linear", "fpet-lora", "--sizes", 32, 48, "--json")
    rows = json.loads(done.stdout)["sizes"]
    assert [(row["recipe"], row["image_size"]) for row in rows] == [
        ("linear", [32, 32]), ("linear", [48, 48]), ("fpet-lora", [32, 32]), ("fpet-lora", [48, 48])
    ]  # fmt: skip
    assert rows[0]["ratio"] == 1
    text = cli("cost", "--model", "paretune_tiny", "--recipe", "fpet-lora", "--sizes", 32, 48).stdout
    assert "145 to 73" in text
    assert "\x1b" not in text


def test_detail_prints_a_row_per_block_and_json_that_adds_up():
    asked = ("cost", "--model", "paretune_tiny", "--recipe", "fpet-lora", "--classes", 10, "--detail")
    text = cli(*asked).stdout
    for part in ("block 0", "block 11", "65 -> 33", "reducer", "leaves", "head", "share"):
        assert part in text
    found = json.loads(cli(*asked, "--json").stdout)
    assert sum(sum(row["macs"].values()) for row in found["blocks"]) == found["macs"]
    assert sum(row["trained"] for row in found["groups"]) == found["trained"]


@pytest.mark.slow
def test_several_recipes_stand_side_by_side():
    asked = ("cost", "--model", "paretune_tiny", "--recipe", "linear", "lora", "--classes", 10)
    assert json.loads(cli(*asked, "--json").stdout)["recipes"]["linear"]["trained"] == 970
    text = cli(*asked).stdout
    assert "linear" in text
    assert "37,834" in text


def test_help_says_what_the_papers_call_flops():
    assert "FLOPs" in cli("cost", "--help").stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--sizes", 33), "patches of 4x4 do not tile images of side 33"),
        (("--image-size", 33), "patches of 4x4 do not tile images of side 33"),
        (("--sizes", 32, "--detail"), "leave out --detail"),
        (("--sizes", 32, "--image-size", 32), "leave out --detail and --image-size"),
        (("--plot", "x.png"), "--sizes 224 384 512"),
        (("--sizes", 32, "--plot", "x.gif"), ".png, .svg, .pdf"),
        (("--sizes", 32, "--plot", "nowhere/x.png"), "no folder 'nowhere'"),
        (("--recipe", "sparse-tuninh"), "did you mean sparse-tuning"),
    ],
)
def test_wrong_requests_end_in_one_sentence(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(cli("cost", "--model", "paretune_tiny", *args))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_drawn_as_its_suffix_says(suffix, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"grown.{suffix}"
    done = cli("cost", "--model", "paretune_tiny", "--recipe", "fpet-lora", "--sizes", 32, 64, "--plot", path)
    assert done.exit_code == 0, done.output
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == "png":
        with Image.open(path) as drawn:
            assert min(drawn.size) > 500
    elif suffix == "svg":
        text = " ".join(ElementTree.parse(path).getroot().itertext())
        assert "fpet-lora" in text
        assert "paretune_tiny" in text
    else:
        assert path.read_bytes().startswith(b"%PDF")


def test_without_matplotlib_a_plot_is_refused_before_anything_is_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("cost", "--model", "paretune_tiny", "--sizes", 32, "--plot", tmp_path / "x.png")
    assert "pip install paretune[plot]" in refused(done)
