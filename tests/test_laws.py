"""The laws are wide enough: methods that only this file knows speak at every moment, sit on every kind of layer, reduce
twice in a block, and save, load, merge, cost, draw and export like any other.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from anatomies import ANATOMIES
from PIL import Image
from test_contract import CLASSES, backbone, close, images, stirred
from test_portable import check
from torch import nn

import paretune as pt
from paretune.adapters import ADAPTERS
from paretune.core import anatomy as anatomy_of_timm
from paretune.core.leaf import Leaf, Leafed
from paretune.core.method import Branch, Reducer, Shape
from paretune.core.reduction import Merge
from paretune.core.tokens import Tokens
from paretune.folding import stripped
from paretune.measure.counting import Place, dry_run
from paretune.measure.fake_memory import saved_bytes, saved_parts
from paretune.reducers import REDUCERS
from paretune.show.evidence import gather
from paretune.show.panels import panels
from paretune.training.objective import Objective


@dataclass(frozen=True)
class Speaker:
    """A gain at every moment, a carried and a held state between them."""

    start: float = 0.1
    """the first gain"""

    def problems(self, shape):
        return []

    def attach(self, body):
        body.branch(SpeakerBranch(body.shape, self.start))


class SpeakerBranch(Branch):
    places = ("enter", "attn", "mlp", "exit")
    needs_teacher = True

    def __init__(self, shape, start):
        super().__init__()
        self.gains = nn.ParameterDict({place: nn.Parameter(torch.full((shape.width,), start)) for place in self.places})
        self.epoch, self.depth = None, shape.depth

    def forward(self, at, tokens):
        read = at.x if at.y is None else at.y + at.h
        if at.place == "enter":
            tokens = tokens.carry({"stream": at.x[..., :4]}).hold({"mean": at.x.mean(1, keepdim=True)})
        if at.place == "exit":
            assert at.block == self.depth
            return tokens.plus(self.gains["exit"] * tokens.held["mean"]).carry({"stream": None})
        carried = tokens.carried["stream"].mean(-1, keepdim=True)
        return tokens.plus(self.gains[at.place] * torch.tanh(read) + 0.01 * carried)

    def at_epoch(self, epoch):
        self.epoch = epoch

    def losses(self, run, teacher, divergence):
        return {"apart": divergence(run.logits, teacher.logits)}


@dataclass(frozen=True)
class Affine:
    """A factor on every output channel of the patch convolution and of all norms; folds."""

    at: str = "patch norm1 norm2 norm"
    """which layers"""

    def problems(self, shape):
        return []

    def attach(self, body):
        for spot in body.layers(self.at):
            spot.put(FactorLeaf(len(spot.layer.weight)))


class FactorLeaf(Leaf):
    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))

    def forward(self, layer, x):
        y = layer(x)
        return y * (self.factor[:, None, None] if y.dim() == 4 else self.factor)  # channels first in a convolution

    def fold(self, weight, bias):
        factor = self.factor.view(-1, *[1] * (weight.dim() - 1))
        return weight * factor, None if bias is None else bias * self.factor

    def losses(self, run, teacher, divergence):
        return {"large": self.factor.square().sum()}


@dataclass(frozen=True)
class Twice:
    """Merge every second patch into the one before, then drop the last slot; both in block 1."""

    def problems(self, shape):
        return []

    def build(self, shape):
        return TwiceReducer()


class TwiceReducer(Reducer):
    proportional = True

    def forward(self, block, look, tokens):
        if block != 1:
            return ()
        patches = torch.arange(tokens.patches, device=tokens.x.device)[None]
        keep, src = patches[:, ::2], patches[:, 1::2]
        merge = Merge(n_in=tokens.patches, keep=keep, src=src, dst=src // 2)
        left = patches[:, : merge.n_out - 1]
        return merge, Merge(n_in=merge.n_out, keep=left, src=left[:, :0], dst=left[:, :0])


METHODS = {"every moment": (Speaker(),), "norms and patches": (Affine(),), "both": (Affine(), Speaker())}


def make(adapters, reducer=None, anatomy="vit", **options):
    torch.manual_seed(0)
    return stirred(pt.adapt(copy.deepcopy(backbone(anatomy)), adapters, reducer, CLASSES, **options))


@pytest.fixture
def registered(monkeypatch):
    """The one line that a new method needs."""
    monkeypatch.setattr("paretune.methods.ADAPTERS", (*ADAPTERS, Speaker, Affine))
    monkeypatch.setattr("paretune.methods.REDUCERS", (*REDUCERS, Twice))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("reducer", [None, Twice()], ids=["all", "twice"])
def test_unknown_methods_are_saved_loaded_and_merged(name, reducer, registered, tmp_path):
    model, x = make(METHODS[name], reducer), images("vit")
    pt.save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(pt.load(tmp_path)(x), model(x))
        merged = pt.merge(model)
        close(merged(x), model(x))
    assert not [module for module in merged.modules() if isinstance(module, Leafed)]


def shape_of(model):
    return anatomy_of_timm.shape(model.backbone)


@pytest.mark.parametrize("anatomy", ["vit", "gap", "dinov2_registers", "eva02", "grouped_queries", "respost", "dinov3"])
def test_leaves_sit_on_norms_and_the_patch_convolution_of_every_family(anatomy):
    plain = pt.adapt(copy.deepcopy(backbone(anatomy))).eval()
    last = "norm" if "norm" in shape_of(plain).layers else "fc_norm"
    model = make((Affine(at=f"patch norm1 norm2 {last}"),), anatomy=anatomy)
    leaves = sum(isinstance(module, Leafed) for module in model.modules())
    assert leaves == 2 + 2 * len(plain.backbone.blocks)
    with torch.no_grad():
        close(pt.merge(model)(images(anatomy)), model(images(anatomy)))


def test_two_reductions_in_one_block_are_made_in_turn():
    run = make((), Twice()).run(images("vit"))
    assert [(step.block, step.reduction.n_in, step.reduction.n_out) for step in run.tokens.trail] == [
        (1, 36, 18), (1, 18, 17)
    ]  # fmt: skip
    groups = run.tokens.groups()
    assert torch.equal(groups[0], torch.where(torch.arange(36) < 34, torch.arange(36) // 2 + 1, -1))
    assert pt.cost(make((), Twice())).tokens == ((37, 37), (37, 18), (18, 18), (18, 18))


def test_what_they_cost_stands_at_its_place():
    tally = dry_run(make(METHODS["both"], Twice()), (48, 48))
    names = [name for here in tally.tensors.values() for name in here]
    assert sum(name.endswith("leaf.factor") for name in names) == 2 + 2 * 4
    assert {place for place, here in tally.tensors.items() if any("gains" in name for name in here)} == {
        Place(0, "branches"), Place(4, "branches")
    }  # fmt: skip
    assert {place for place, here in tally.tensors.items() if any("factor" in name for name in here)} == {
        Place(None, "leaves"), *(Place(block, "leaves") for block in range(4))
    }  # fmt: skip


def test_they_are_drawn(tmp_path):
    model = make(METHODS["both"], Twice())
    found = gather(model, images("vit"), [0, 2])
    assert [stage.tokens for stage in found.stages] == [(36, 18), (18, 17)]
    assert np.nansum(found.attention[2][0]) > 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    (row,) = panels(model, [tmp_path / "x.png"], None).rows
    assert len(row) >= 4  # the picture, two reductions, attention


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_they_are_exported(tmp_path):
    check("registers_gap", METHODS["every moment"], Twice(), tmp_path / "model.onnx")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_losses_and_epochs_reach_every_kind_of_method():
    model = make(METHODS["both"])
    losses = Objective(model.train(), nn.CrossEntropyLoss())(images("vit"), torch.tensor([0, 1, 2]))
    assert set(losses) == {"loss", "apart", "large"}
    factors = [module.factor for module in model.modules() if isinstance(module, FactorLeaf)]
    assert losses["large"].item() == pytest.approx(sum(f.square().sum().item() for f in factors))
    for method in model.methods():
        method.at_epoch(7)
    assert model.branches[0].epoch == 7


# ------------------------------------------------------------------------------------------------- what the trunk says


def test_whoever_watches_is_told_what_has_ended_in_order():
    told = []
    model = make((Speaker(),), pt.FPET(block=1))
    run = model.run(images("vit"), watch=lambda part, block, tokens, look=None: told.append((part, block, look)))
    one = ["reducer", "branches", "attention", "branches", "reducer", "mlp", "branches"]
    assert [part for part, _, _ in told] == ["embed", *one * 4, "branches", "head"]
    blocks = [block for _, block, _ in told]
    assert all(a <= b for a, b in pairwise(blocks))
    assert [part for part, _, look in told if look is not None] == ["attention"] * 4
    with torch.no_grad():
        assert torch.equal(run.logits, model(images("vit")))


def test_saved_bytes_stand_at_their_places():
    model = make((pt.AdaptFormer(width=16),), pt.EViT(keep=0.5, blocks=(2,)))
    parts = saved_parts(model, 2)
    assert parts.total() == saved_bytes(model, 2)
    assert {place.part for place in parts} >= {"attention", "mlp", "branches", "head"}
    assert parts[Place(1, "mlp")] > parts[Place(3, "mlp")]  # fewer patches keep less


@dataclass(frozen=True)
class Half:
    """The MLP sees the first half of the patches alone."""

    def problems(self, shape):
        return []

    def attach(self, body):
        body.branch(HalfBranch())


class HalfBranch(Branch):
    places = ()

    def forward(self, at, tokens):
        raise AssertionError("it has nothing to say")

    def around(self, block, tokens):
        keep = torch.arange(tokens.patches // 2, device=tokens.x.device)[None]
        return Merge(n_in=tokens.patches, keep=keep, src=keep[:, :0], dst=keep[:, :0])


def test_an_mlp_around_some_patches_costs_less_and_gives_nothing_to_the_others():
    x, half = images("vit"), make((Half(),))
    whole = stripped(half)
    tokens = [[], []]
    for model, seen in zip((half, whole), tokens, strict=True):
        with torch.no_grad():
            model.run(x, watch=lambda part, block, t, look=None, seen=seen: part == "branches" and seen.append(t.x))
    before, after, plain = tokens[0][1], tokens[0][2], tokens[1][2]  # of block 0: after attention, after the MLP
    torch.testing.assert_close(after[:, :19], plain[:, :19])
    assert torch.equal(after[:, 19:], before[:, 19:])
    spared = pt.cost(whole).macs - pt.cost(half).macs
    assert spared == 4 * 18 * 2 * 24 * 96


# ------------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_prompts_are_never_pooled_merged_or_asked(anatomy):
    model = make((pt.VPT(prompts=3, dropout=0.0),), pt.ToMe(r=2), anatomy=anatomy)
    with torch.no_grad():
        run = model.run(images(anatomy))
    own = model.backbone.num_prefix_tokens
    assert (run.tokens.prefix, run.tokens.own_prefix) == (own + 3, own)
    assert torch.equal(run.tokens.size[:, : own + 3], torch.ones(3, own + 3))
    assert run.tokens.groups().min() >= own + 3
    # What stands where the prompts stand has no part in the head.
    moved = run.features.clone()
    moved[:, own : own + 3] += 100
    assert torch.equal(anatomy_of_timm.head(model.backbone, moved, run.tokens), run.logits)


def test_two_kinds_of_prompts_and_states_stay_apart():
    torch.manual_seed(0)
    tokens = Tokens(x=torch.randn(2, 7, 4), prefix=1, readers=1, grid=(2, 3), size=torch.full((2, 7), 2.0))
    tokens = tokens.carry({"state": torch.ones(2, 7, 3)}).prepend("a", torch.zeros(2, 4)).prepend("b", torch.ones(3, 4))
    again = tokens.prepend("a", torch.full((1, 4), 5.0))
    assert (tokens.prefix, again.prefix, again.own_prefix, again.patches) == (6, 5, 1, 6)
    assert torch.equal(again.x[:, 1], torch.full((2, 4), 5.0))
    assert torch.equal(again.x[:, 2:5], torch.ones(2, 3, 4))
    assert torch.equal(again.x[:, 5:], tokens.x[:, 6:])
    assert again.size[0].tolist() == [2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert again.carried["state"][0, :, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert torch.equal(again.without_prompts(again.x), torch.cat([tokens.x[:, :1], tokens.x[:, 6:]], 1))


def test_where_a_size_is_0_the_prompts_of_the_block_before_stay():
    model = make((pt.VPT(prompts=(4, 0, 2, 0), dropout=0.0),))
    lengths = []
    model.run(
        images("vit"), watch=lambda part, block, tokens, look=None: part == "mlp" and lengths.append(tokens.x.shape[1])
    )
    assert lengths == [41, 41, 39, 39]
    assert pt.cost(model).tokens == ((41, 41), (41, 41), (39, 39), (39, 39))
    assert [tuple(p.shape) for p in model.branches[0].prompts.values()] == [(4, 24), (2, 24)]


@pytest.mark.parametrize(
    ("adapter", "count"),
    [
        (pt.VPT(prompts=8), 73_728), (pt.VPT(prompts=50), 460_800), (pt.VPT(prompts=50, deep=False), 38_400),
        (pt.Adapter(width=8), 156_768), (pt.Adapter(width=64), 1_189_632),
        (pt.Adapter(width=8, placing="both"), 313_536),
        (pt.LoRA(rank=(8,) * 6 + (0,) * 6), 147_456), (pt.AdaptFormer(width=8, blocks=(9, 10, 11)), 36_864),
        (pt.RepAdapter(blocks=(0,)), 19_984), (pt.Full(blocks=(11,)), 7_087_872),
        (pt.DenseAdapter(width=8, blocks=(10, 11)), 2 * (2 * 768 * 8 + 8 + 768) + 768 * 8 + 8),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_on_vit_base_whole_and_in_some_blocks(adapter, count):
    with torch.device("meta"):
        model = pt.adapt("vit_base_patch16_224", [adapter])
    assert pt.cost(model).trained == count


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        (pt.LoRA(blocks=(4,)), r"LoRA blocks=\(4,\): the backbone has blocks 0 to 3, each once"),
        (pt.LoRA(blocks=(1, 1)), "each once"),
        (pt.AdaptFormer(blocks=()), r"AdaptFormer blocks=\(\): needs at least one block"),
        (pt.Adapter(width=(1, 2)), "Adapter width has 2 entries for 4 blocks"),
        (pt.VPT(prompts=(0, 0, 0, 0)), "not 0 in all"),
        (pt.VPT(prompts=(1, 2, 3, 4), deep=False), "give one number for shallow prompts"),
        (pt.RepAdapter(rank=(3,), blocks=(0,)), "groups=2: must divide"),
        (pt.Full(blocks=(9,)), "Full blocks"),
    ],
    ids=str,
)
def test_blocks_and_sizes_that_do_not_fit_are_refused(adapter, says):
    with pytest.raises(pt.UsageError, match=says):
        pt.adapt(copy.deepcopy(backbone("vit")), [adapter])


def test_only_the_blocks_asked_for_change():
    model = make((pt.LoRA(rank=(0, 2, 3, 0), at="q v proj"), pt.AdaptFormer(blocks=(3,)), pt.Full(blocks=(0,))))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    blocks = {name.split(".")[2] for name in names if "low_rank" in name}
    assert blocks == {"1", "2"}
    assert {name.split("blocks.")[1][0] for name in names if name.startswith("branches")} == {"3"}
    assert {n.split(".")[2] for n in names if "blocks" in n and "low_rank" not in n and "branches" not in n} == {"0"}


def test_the_shape_says_where_leaves_can_sit():
    with torch.device("meta"):
        found = shape_of(pt.adapt("vit_base_patch16_224"))
    assert found == Shape(
        12, 768, 64, (14, 14), 1,
        {"patch": "conv", "norm1": "norm", "q": "linear", "k": "linear", "v": "linear", "proj": "linear",
         "norm2": "norm", "fc1": "linear", "fc2": "linear", "norm": "norm"},
        (16, 16),
    )  # fmt: skip
