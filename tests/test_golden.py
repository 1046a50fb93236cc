"""Against tensors computed with the official implementations of ToMe, EViT, FPET, VPT and NOAH's Adapter; ToMe also by
trying all pairs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from timm.models import VisionTransformer

import paretune as pt
from paretune.core.method import Branch, Shape

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """One file: its tensors, what its metadata says, and the backbone that it was computed with."""

    def __init__(self, name):
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.says = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        self.tensors = {k: v for k, v in tensors.items() if not k.startswith("weights.")}

    def __getitem__(self, key):
        return self.tensors[key]

    def adapt(self, reducer=None, adapters=()):
        backbone = VisionTransformer(**json.loads(self.says["config"]))
        backbone.load_state_dict(self.weights)
        return pt.adapt(backbone, list(adapters), reducer).eval()

    @torch.no_grad()
    def run(self, model):
        return model.run(self["images"])


class Probe(Branch):
    """Adds nothing and remembers the residual stream before every MLP."""

    places = ("mlp",)

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, at, tokens):
        self.seen.append(tokens.with_x(at.x))
        return tokens


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tome_r4", "evit_fuse", "fpet", "vpt_deep", "vpt_shallow", "adapter_noah"])
def test_without_a_method_the_official_logits_of_all_tokens_come_out(name):
    golden = Golden(name)
    assert_close(golden.run(golden.adapt(None)).logits, golden["logits_full"])
    assert (golden["logits_full"] - golden["logits"]).abs().max() > 1e-2  # reduction moves these logits by far more


# --------------------------------------------------------------------------------------------------------------- ToMe


@pytest.fixture(scope="module")
def tome():
    golden = Golden("tome_r4")
    return golden, golden.run(golden.adapt(pt.ToMe(r=int(golden.says["r"]), proportional=True)))


def test_tome_has_the_official_logits(tome):
    golden, run = tome
    assert_close(run.logits, golden["logits"])


def test_tome_has_the_official_sizes(tome):
    golden, run = tome
    assert torch.equal(run.tokens.size, golden["size"][..., 0])


def test_tome_traces_every_input_token_to_the_official_output_token(tome):
    golden, run = tome
    cls = torch.zeros(len(golden["images"]), 1, dtype=torch.long)
    slots = torch.cat([cls, run.tokens.groups()], dim=1)  # CLS stays in front: input token 0 -> output token 0
    assert torch.equal(torch.nn.functional.one_hot(slots, run.tokens.x.shape[1]).mT.float(), golden["source"])


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tome_merges_the_most_similar_pairs_of_even_and_odd_positions_also_with_other_prefixes(made_up, prefix):
    look, tokens = made_up((3, 5), prefix=prefix)
    look.k[:, :, prefix + 2 : prefix + 4] = 0.0  # keys without a direction are similar to nothing
    shape = Shape(depth=1, width=16, head_width=8, grid=(3, 5), prefix=prefix)
    groups = pt.ToMe(r=3).build(shape)(0, look, tokens).groups()
    even = [p for p in range(15) if (p + prefix) % 2 == 0]  # the official code counts the whole sequence
    odd = [p for p in range(15) if (p + prefix) % 2]
    for b in range(2):
        cosine = torch.cosine_similarity(look.metric()[b, even, None], look.metric()[b, None, odd], dim=-1)
        ranked = sorted(even, key=lambda p: -cosine[even.index(p)].max())
        slots = sorted(ranked[3:]) + odd
        partner = {p: odd[cosine[even.index(p)].argmax()] for p in ranked[:3]}
        assert groups[b].tolist() == [slots.index(partner.get(p, p)) for p in range(15)]


# --------------------------------------------------------------------------------------------------------------- EViT


@pytest.fixture(scope="module")
def evit():
    golden = Golden("evit_fuse")
    config = pt.EViT(keep=float(golden.says["keep"]), blocks=tuple(json.loads(golden.says["blocks"])), normalise=False)
    return golden, golden.run(golden.adapt(config))


def test_evit_has_the_official_logits(evit):
    golden, run = evit
    assert_close(run.logits, golden["logits"])


def official_slots(kept_before, kept, count):
    """Slots of `count` tokens when `kept` stay in raster order and all others share the last slot.

    `kept` counts tokens as they lie after the official stage before: what it kept, by descending score, then the fused.
    """
    if kept_before is not None:
        rank = kept_before.argsort().argsort()
        kept = torch.cat([rank, torch.full((len(rank), 1), rank.shape[1])], dim=1).gather(1, kept)
    ours = kept.sort().values
    fused = torch.full((len(ours), count), ours.shape[1])
    return ours, fused.scatter(1, ours, torch.arange(ours.shape[1]).expand_as(ours))


def test_evit_keeps_the_official_patches_at_every_stage(evit):
    golden, run = evit
    (first_block, first, _), (second_block, second, _) = run.tokens.trail
    assert [first_block, second_block] == json.loads(golden.says["blocks"])
    kept_first, slots_first = official_slots(None, golden["kept_0"], 36)
    kept_second, slots_second = official_slots(golden["kept_0"], golden["kept_1"], 27)
    assert torch.equal(first.keep[:, :-1], kept_first)  # the last slot is the fused one
    assert torch.equal(second.keep[:, :-1], kept_second)
    assert torch.equal(first.groups(), slots_first)
    assert torch.equal(second.groups(), slots_second)


def test_evit_traces_every_patch_through_both_official_stages(evit):
    golden, run = evit
    slots = official_slots(golden["kept_0"], golden["kept_1"], 27)[1].gather(
        1, official_slots(None, golden["kept_0"], 36)[1]
    )
    assert torch.equal(run.tokens.groups(), 1 + slots)
    counts = torch.nn.functional.one_hot(1 + slots, run.tokens.x.shape[1]).sum(1)
    assert torch.equal(run.tokens.size[:, 1:].long(), counts[:, 1:])


# --------------------------------------------------------------------------------------------------------------- FPET


@pytest.fixture(scope="module")
def fpet():
    golden = Golden("fpet")
    model = golden.adapt(pt.FPET(block=int(golden.says["layer"])))
    model.reducer.refine[0].load_state_dict({"down.weight": golden["refine_down"], "up.weight": golden["refine_up"]})
    probe = Probe()
    model.branches.append(probe)
    return golden, golden.run(model), probe.seen[int(golden.says["layer"])]


def official_order():
    """Where [CLS | (odd row, even column) | (even row, odd column)] of 6x6 lie among survivors in raster order."""
    cells = [(i, j) for i in range(6) for j in range(6) if (i + j) % 2]
    odd_rows = [(i, j) for i in range(1, 6, 2) for j in range(0, 6, 2)]
    even_rows = [(i, j) for i in range(0, 6, 2) for j in range(1, 6, 2)]
    return torch.tensor([0] + [1 + cells.index(cell) for cell in odd_rows + even_rows])


def test_fpet_has_the_official_logits(fpet):
    golden, run, _ = fpet
    assert_close(run.logits, golden["logits"])


def test_fpet_has_the_official_tokens_after_the_merge(fpet):
    golden, _, merged = fpet
    assert_close(merged.x[:, official_order()], golden["tokens_after_merge"])


def test_fpet_has_the_official_sizes(fpet):
    golden, run, merged = fpet
    assert torch.equal(merged.size[:, official_order()], golden["size"][..., 0])
    assert torch.equal(run.tokens.size, merged.size)


def test_fpet_in_training_has_the_official_logits_too(fpet):
    golden, _, _ = fpet
    model = golden.adapt(pt.FPET(block=int(golden.says["layer"])))
    model.reducer.refine[0].load_state_dict({"down.weight": golden["refine_down"], "up.weight": golden["refine_up"]})
    model.reducer.refine[0].dropout.p = 0.0
    logits = model.train().run(golden["images"]).logits
    assert logits.requires_grad
    assert_close(logits.detach(), golden["logits"])


# ---------------------------------------------------------------------------------------------------- VPT and Adapter


def filled(model, tensors):
    """The model with its branch's tensors, all of them, set."""
    model.branches[0].load_state_dict(tensors)
    return model


def test_deep_prompts_have_the_official_logits_and_tokens():
    golden = Golden("vpt_deep")
    model = golden.adapt(None, [pt.VPT(prompts=int(golden.says["prompts"]))])
    prompts = golden["method.prompts"]
    run = golden.run(filled(model, {f"prompts.{block}": rows for block, rows in enumerate(prompts)}))
    assert_close(run.logits, golden["logits"])
    assert_close(run.tokens.x, golden["tokens"])


def test_shallow_prompts_have_the_official_logits_and_tokens():
    golden = Golden("vpt_shallow")
    model = golden.adapt(None, [pt.VPT(prompts=int(golden.says["prompts"]), deep=False)])
    run = golden.run(filled(model, {"prompts.0": golden["method.prompts"]}))
    assert_close(run.logits, golden["logits"])
    assert_close(run.tokens.x, golden["tokens"])


def test_the_adapter_behind_the_mlp_has_noahs_logits():
    golden = Golden("adapter_noah")
    official = {"down.weight": "A", "down.bias": "a", "up.weight": "B", "up.bias": "b"}
    tensors = {
        f"blocks.mlp.{block}.{ours}": golden[f"method.blocks.{block}.adapter.{theirs}"]
        for block in range(3)
        for ours, theirs in official.items()
    }
    assert_close(golden.run(filled(golden.adapt(None, [pt.Adapter(width=5)]), tensors)).logits, golden["logits"])
