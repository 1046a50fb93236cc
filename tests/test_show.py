"""`paretune show`: the evidence is what the model did, the pictures say it, wrong requests are refused."""

import copy
import json

import numpy as np
import pytest
import torch
from anatomies import ANATOMIES
from PIL import Image
from test_contract import COLUMNS, ROWS, images, make, stirred
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.core.reduction import Merge
from paretune.core.tokens import Tokens
from paretune.errors import UsageError
from paretune.show.evidence import gather, on_grid, original
from paretune.show.heat import bar, coloured, heat
from paretune.show.panels import LARGE, SMALL, comfortable, overlap, panels, picture_of, spread
from paretune.show.sheet import CAPTION, cut, font, sheet


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(done):
    """The one sentence on stderr."""
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paretune: ")]
    return line


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two image files of 40 x 36 pixels."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("ash.png", "oak.png"):
        Image.fromarray(rng.integers(0, 255, (36, 40, 3)).astype(np.uint8)).save(folder / name)
    return [folder / "ash.png", folder / "oak.png"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model that lets tokens leave twice, and knows its classes."""
    torch.manual_seed(0)
    model = pt.adapt("paretune_tiny", [pt.LoRA(rank=2)], pt.EViT(keep=0.5, blocks=(3, 8)), ["ash", "oak"], True)
    pt.save(model, folder := tmp_path_factory.mktemp("saved") / "run")
    return folder


# ------------------------------------------------------------------------------------------------------ the evidence


def pairs():
    """Every backbone, each with another adapter and reducer, so that all of them are seen."""
    rows, columns = list(ROWS), list(COLUMNS)
    return [(name, rows[i % len(rows)], columns[i % len(columns)]) for i, name in enumerate(ANATOMIES)]


@pytest.mark.parametrize(("anatomy", "row", "column"), pairs())
def test_the_evidence_is_what_the_model_does_and_watching_changes_nothing(anatomy, row, column):
    model, some = stirred(make(anatomy, ROWS[row], COLUMNS[column])), images(anatomy)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reducer, last = model.reducer, len(model.backbone.blocks) - 1
    with torch.inference_mode():
        run = model.run(some)
    found = gather(model.train(), some, [0, last])
    assert torch.equal(found.logits, run.logits)
    assert model.reducer is reducer
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [stage.block for stage in found.stages] == [step.block for step in run.tokens.trail]
    if found.stages:
        groups = run.tokens.groups().numpy()
        assert np.array_equal(found.stages[-1].groups, np.where(groups < 0, groups, groups - run.tokens.prefix))
        assert found.stages[-1].tokens[1] == run.tokens.patches
    for seen in found.attention.values():
        assert seen.shape == (len(some), found.grid[0] * found.grid[1])
        assert np.all(np.nansum(seen, 1) <= 1 + 1e-6)
        assert np.all(np.nansum(seen, 1) > 0.1)
    early = [stage for stage in found.stages if (stage.block, stage.when) == (0, "before")]
    gone = early[0].groups < 0 if early else np.zeros_like(found.attention[0], dtype=bool)
    assert np.array_equal(
        np.isnan(found.attention[0]), gone
    )  # who leaves in the middle of block 0 is still attended to


def test_attention_is_the_row_of_the_class_token_averaged_over_heads():
    backbone, some = ANATOMIES["vit"].build(0), images("vit")
    block, inputs = backbone.blocks[2], []
    with torch.inference_mode():
        handle = block.attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        backbone(some)
        handle.remove()
        (h,) = inputs
        q, k, _ = block.attn.qkv(h).reshape(len(some), -1, 3, block.attn.num_heads, block.attn.head_dim).unbind(2)
        rows = torch.einsum("bhd,bnhd->bhn", q[:, 0], k) * block.attn.head_dim**-0.5
    expected = rows.softmax(-1).mean(1)[:, 1:]
    found = gather(make("vit", (), None), some, [2]).attention[2]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_merged_tokens_attention_is_shared_out_and_dropped_patches_have_none():
    tokens = Tokens(x=torch.zeros(1, 5, 2), prefix=1, readers=1, grid=(2, 2))
    keep, none = torch.tensor([[0, 1]]), torch.zeros(1, 0, dtype=torch.int64)
    fused = Merge(n_in=4, keep=keep, src=torch.tensor([[3]]), dst=torch.tensor([[1]]))  # 3 joins 1, 2 is dropped
    found = on_grid(torch.tensor([[0.2, 0.6]]), tokens.shrink(0, fused))
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.3, float("nan"), 0.3]]), equal_nan=True)
    dropped = Merge(n_in=4, keep=keep, src=none, dst=none)
    assert on_grid(torch.tensor([[0.2, 0.6]]), tokens.shrink(0, dropped)).isnan().tolist() == [
        [False, False, True, True]
    ]
    assert on_grid(torch.full((1, 4), 0.25), tokens).tolist() == [[0.25] * 4]


@pytest.mark.parametrize("row", ROWS)
def test_the_original_is_the_backbone_without_its_adapters(row):
    some, plain = images("vit"), make("vit", (), None)
    start = original(stirred(make("vit", ROWS[row], COLUMNS["EViT"])))
    if any(isinstance(adapter, pt.Full) for adapter in ROWS[row]):
        assert start is None  # trained itself, and random weights cannot be fetched again
        return
    assert start.reducer is None
    assert np.array_equal(gather(start, some, [3]).attention[3], gather(plain, some, [3]).attention[3])


def test_a_backbone_that_was_trained_is_fetched_anew_by_its_name():
    model, some = pt.adapt("paretune_tiny", [pt.Full()], classes=3, pretrained=True), torch.randn(1, 3, 32, 32)
    fresh = gather(pt.adapt("paretune_tiny", pretrained=True), some, [11]).attention[11]
    stirred(model)
    assert not np.array_equal(gather(model, some, [11]).attention[11], fresh)
    assert np.array_equal(gather(original(model), some, [11]).attention[11], fresh)
    assert original(pt.merge(model)) is None


def test_hf_peft_modules_are_taken_off_too():
    peft = pytest.importorskip("peft")
    backbone, some = ANATOMIES["vit"].build(0), images("vit")
    plain = gather(pt.adapt(copy.deepcopy(backbone)), some, [3]).attention[3]
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["qkv"], bias="none"), backbone)
    model = stirred(pt.adapt(backbone, [pt.LoRA(rank=1)], classes=3))
    assert not np.array_equal(gather(model, some, [3]).attention[3], plain)
    assert np.array_equal(gather(original(model), some, [3]).attention[3], plain)


# ------------------------------------------------------------------------------------------------------ the pictures


def test_at_most_six_stages_are_shown_with_the_first_and_the_last():
    assert spread(list(range(12))) == [0, 2, 4, 7, 9, 11]
    assert spread(list(range(6))) == list(range(6))
    assert spread([7]) == [7]
    assert spread([]) == []


def test_overlap_is_one_for_equal_maps_and_zero_for_disjoint_ones():
    one = np.array([0.1, 0.3, np.nan, 0.2])
    assert overlap(one, 2 * one) == pytest.approx(1)
    assert overlap(one, np.array([0, 0, 0.7, 0])) == 0
    assert overlap(np.array([1.0, 1.0]), np.array([1.0, 3.0])) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((32, 32), (8, 8)), ((48, 64), (6, 8)), ((224, 224), (14, 14)), ((1024, 512), (64, 32)), ((35, 35), (5, 5))],
)
def test_pictures_have_a_comfortable_size_and_whole_patches(size, grid):
    canvas = comfortable("x", np.zeros((*size, 3), np.uint8), grid)
    drawn = canvas.plain()
    assert SMALL <= max(drawn.size) <= LARGE
    assert (drawn.height % grid[0], drawn.width % grid[1]) == (0, 0)
    assert heat(canvas.image, np.ones(grid[0] * grid[1]), grid, 1.0, canvas.scale).size == drawn.size
    assert drawn.height * size[1] == drawn.width * size[0]


def test_heat_is_brightest_where_attention_is_and_grey_where_there_is_none():
    drawn = np.asarray(heat(np.full((2, 6, 3), 128, np.uint8), np.array([0.0, 0.4, np.nan]), (1, 3), 0.4, 5)).astype(
        int
    )
    none, most, gone = drawn[5, 5], drawn[5, 15], drawn[5, 25]
    assert most.sum() > 600 > 200 > none.sum()
    assert gone.max() - gone.min() == 0
    assert gone.max() < 60


def test_the_scale_of_colours_gets_lighter_all_the_way():
    lightness = coloured(np.linspace(0, 1, 50)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()
    assert bar(40, 10).size == (40, 10)


def test_a_sheet_cuts_long_words_and_grows_with_its_legend():
    pictures = [[Image.new("RGB", (90, 60), "red")] * 2]
    plain = sheet(["a", "b"], pictures)
    captioned = sheet(["a", "b"], pictures, [["c" * 50, "d"]], [(None, "what it means, " * 20)])
    assert captioned.width == plain.width
    assert captioned.height > plain.height + 60
    short = cut("a/very/long/name/of/an/image.png", 90, CAPTION)
    assert font(CAPTION).getlength(short) <= 90
    assert short.startswith("a/v")
    assert short.endswith("png")
    assert cut("short", 90, CAPTION) == "short"


def test_captions_and_alts_count_the_patches(pictures):
    def first(reducer):
        model = pt.adapt("paretune_tiny", [], reducer)
        return panels(model.eval(), pictures[:1]).rows[0][1]

    fused = first(pt.EViT(keep=0.7, blocks=(3,)))
    assert (fused.title, fused.caption) == ("block 3", "64 to 45 + 1")
    assert "of 64 patches 45 have a token of their own, 19 share 1, 0 are dropped" in fused.alt
    dropped = first(pt.EViT(keep=0.5, blocks=(3,), rest="drop"))
    assert dropped.caption == "64 to 32, 32 dropped"
    merged = first(pt.ToMe(r=(4,)))
    own, shared = map(int, merged.caption.removeprefix("64 to ").split(" + "))
    assert merged.title == "block 0"
    assert own + shared == 60


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ["no adapter", "several"])
def test_every_reducer_is_drawn(row, column, pictures):
    found = panels(stirred(make("not_square", ROWS[row], COLUMNS[column])), pictures)
    assert [len(panels) for panels in found.rows] == [len(found.rows[0])] * 2
    titles = [panel.title for panel in found.rows[0]]
    assert titles[0] == "image"
    assert titles[-2:] == ["attention before", "attention after"]
    assert (len(titles) > 3) == (COLUMNS[column] is not None)
    drawn = picture_of(found)
    assert drawn.width > len(titles) * found.rows[0][0].picture.width
    assert all(panel.alt.startswith("ash.png") for panel in found.rows[0])


def test_without_a_class_token_all_patches_are_asked(pictures):
    assert any("all patches, on average" in note for note in panels(make("gap", (), None).eval(), pictures).notes)
    assert any("the class token" in note for note in panels(make("vit", (), None).eval(), pictures).notes)


def test_a_full_fine_tuning_of_random_weights_says_that_nothing_was_before(pictures):
    found = panels(make("vit", (pt.Full(),), None).eval(), pictures)
    assert [panel.title for panel in found.rows[0]] == ["image", "attention"]
    assert "not at hand" in found.notes[-1]


# --------------------------------------------------------------------------------------------------- the command line


def test_show_draws_a_saved_model(saved, pictures, tmp_path):
    done = cli("show", saved, *pictures, "--out", tmp_path / "new" / "maps.png", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "block 3 64 to 32 + 1" in done.stdout
    with Image.open(tmp_path / "new" / "maps.png") as drawn:
        assert drawn.width > 5 * SMALL
        assert drawn.height > 2 * SMALL
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["maps.png"]
    said = cli("show", saved, pictures[0], "--out", tmp_path / "one.png", "--block", 5, "--json", "--device", "cpu")
    (row,) = json.loads(said.stdout)["images"]
    assert [panel["title"] for panel in row["panels"]][:3] == ["image", "block 3", "block 8"]
    assert "ash.png: " in row["panels"][0]["caption"]  # and what it is taken for
    assert "in block 5" in said.stdout


def test_show_puts_a_recipe_on_a_backbone(pictures, tmp_path):
    options = ("--recipe", "fpet-lora", "--set", "reducer.block=2", "--no-pretrained", "--device", "cpu")
    done = cli("show", "paretune_tiny", pictures[0], *options, "--out", tmp_path / "maps.png")
    assert done.exit_code == 0, done.output
    assert "block 2 64 to " in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("MODEL", "IMAGE", "--recipe", "lora"), "leave --recipe out"),
        (("MODEL", "IMAGE", "--image-size", "64"), "leave --image-size out"),
        (("paretune_tiny", "IMAGE"), "give one that `paretune train` wrote, or a backbone and --recipe"),
        (("paretune_tny", "IMAGE", "--recipe", "lora"), "did you mean paretune_tiny"),
        (("MODEL", "nowhere.png"), "nowhere.png: no such file"),
        (("MODEL", "IMAGE", "--block", "12"), "blocks 0 to 11"),
        (("MODEL", "IMAGE", "--out", "maps.pdf"), "ends in .png"),
        (("EMPTY", "IMAGE"), "is not a saved model"),
    ],
)
def test_show_refuses_in_one_sentence_and_writes_nothing(words, sentence, saved, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    names = {"MODEL": saved, "IMAGE": pictures[0], "EMPTY": tmp_path / "empty"}
    assert sentence in refused(cli("show", *(names.get(word, word) for word in words)))
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_wrong_block_is_refused_in_python_too(pictures):
    with pytest.raises(UsageError, match="blocks 0 to 3"):
        panels(make("vit", (), None), pictures, block=4)
