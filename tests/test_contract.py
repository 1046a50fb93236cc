"""What every adapter, every reducer and every backbone owe to each other: one suite that finds them all by itself.

A new method needs a line in `SETTINGS`; everything else follows from the registers.
"""

import copy
import functools
import pickle
import tempfile
from collections.abc import Callable, Iterable

import pytest
import torch
from anatomies import ANATOMIES
from torch import Tensor, nn

import paretune as pt
from paretune.adapters import ADAPTERS
from paretune.core.leaf import Leafed
from paretune.core.model import Adapted
from paretune.reducers import REDUCERS

CLASSES = 5
# Settings that fit the tiny backbones, 25 to 48 patches, also where they are cut to two blocks. Bottlenecks have 16
# ReLUs: of a few, all may be off for all tokens, which looks like a tensor without a gradient.
SETTINGS = {
    pt.LoRA: pt.LoRA(rank=2, scale=0.5, at="q v proj fc2"),
    pt.RepAdapter: pt.RepAdapter(rank=4, scale=0.5),
    pt.AdaptFormer: pt.AdaptFormer(width=16, scale=0.5, bias=True),
    pt.DenseAdapter: pt.DenseAdapter(width=16, scale=0.5, reads=(1, 3)),
    pt.Adapter: pt.Adapter(width=16, scale=0.5, placing="both", blocks=(1, 0)),
    pt.VPT: pt.VPT(prompts=(3, 2), blocks=(1, 0)),
    pt.Full: pt.Full(),
    pt.DynamicViT: pt.DynamicViT(keep=0.6, blocks=(0, 1)),
    pt.EViT: pt.EViT(keep=0.6, blocks=(0, 1)),
    pt.FPET: pt.FPET(block=(0, 1), refine_width=16),
    pt.Pool: pt.Pool(block=1),
    pt.ToMe: pt.ToMe(r=(3, 4)),
}


# Every adapter alone, none, several at once in both orders of the leaves, and few bits x every reducer and none.
ROWS = {"no adapter": (), **{kind.__name__: (SETTINGS[kind],) for kind in ADAPTERS if kind in SETTINGS}}
ROWS["several"] = (
    SETTINGS[pt.LoRA], SETTINGS[pt.RepAdapter], pt.LoRA(rank=1, at="q k v fc2"), SETTINGS[pt.AdaptFormer],
    SETTINGS[pt.DenseAdapter], pt.DenseAdapter(width=16, carry="output"),
    pt.DenseAdapter(width=16, reads=(2,), fuse="input"), pt.DenseAdapter(width=16, reads=(1, 3), fuse="output"),
    SETTINGS[pt.Adapter],
)  # fmt: skip
ROWS["few bits"] = (pt.LoRA(rank=3, at="q v fc2", bits=1), pt.AdaptFormer(width=16, bits=4, blocks=(1, 0)))
# A quantiser divides by the spread of the weights, so they cannot start at zero: this changes logits, by at most so
# much where no reducer may let another token go for it.
NOT_QUITE_NOTHING = {ROWS["few bits"]: 0.1, ROWS["VPT"]: torch.inf}  # prompts are attended to from the start
COLUMNS = {"no reducer": None, **{kind.__name__: SETTINGS[kind] for kind in REDUCERS if kind in SETTINGS}}
MATRIX = {f"{row} x {column}": (ROWS[row], COLUMNS[column]) for row in ROWS for column in COLUMNS}


PARTS = ("", "more", "rest")


def share(anatomy: str, part: str) -> list[str]:
    """The part of the matrix that is tried on a backbone.

    `make test` tries a diagonal, which holds every row and column, another one for every backbone, so that all of the
    matrix is seen. A third of every diagonal is quick; these thirds together see all of the matrix too. The rest runs
    by `make exhaustive`.
    """
    shift = list(ANATOMIES).index(anatomy)
    diagonal = [(i + j - shift) % len(COLUMNS) == 0 for i in range(len(ROWS)) for j in range(len(COLUMNS))]
    on_it = [label for label, on in zip(MATRIX, diagonal, strict=True) if on]
    quick = on_it[shift // len(COLUMNS) % 3 :: 3]
    return {
        "": quick,
        "more": [label for label in on_it if label not in quick],
        "rest": [label for label in MATRIX if label not in on_it],
    }[part]


REST = (pytest.mark.slow, pytest.mark.exhaustive)
MARKS = {"": (), "more": pytest.mark.slow, "rest": REST}


def third(things: Iterable, others: object = REST) -> list:
    """Every third of these in `make test`, the others in `make exhaustive`, or where the marks say."""
    return [pytest.param(one, marks=others) if i % 3 else one for i, one in enumerate(things)]


@functools.cache
def backbone(anatomy: str) -> nn.Module:
    """A tiny backbone; take a copy."""
    return ANATOMIES[anatomy].build(0)


def make(anatomy: str, adapters: tuple, reducer: object, classes: int | None = CLASSES) -> Adapted:
    """An adapted model before training; equal seeds give equal reducers, whatever the adapters."""
    torch.manual_seed(0)
    return pt.adapt(copy.deepcopy(backbone(anatomy)), adapters, reducer, classes)


@torch.no_grad()
def stirred(model: Adapted) -> Adapted:
    """The model in evaluation mode with every trained tensor moved, as if training had begun."""
    torch.manual_seed(1)
    for tensor in model.parameters():
        if tensor.requires_grad:
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def trained(model: nn.Module) -> set[str]:
    """The names of the tensors that train."""
    return {name for name, tensor in model.named_parameters() if tensor.requires_grad}


def images(anatomy: str, count: int = 3) -> Tensor:
    """Random images for a backbone."""
    return torch.randn(count, 3, *ANATOMIES[anatomy].image_size, generator=torch.Generator().manual_seed(2))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that logits are equal up to rounding."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def contract(check: Callable[[str, tuple, object], None]) -> Callable:
    """A test for every backbone that runs `check(anatomy, adapters, reducer)` and names what fails."""

    @pytest.mark.parametrize(
        ("anatomy", "part"),
        [
            pytest.param(name, part, id=f"{name}-{part}".strip("-"), marks=MARKS[part])
            for part in PARTS
            for name in ANATOMIES
        ],
    )
    def test(anatomy: str, part: str) -> None:
        for label in share(anatomy, part):
            try:
                check(anatomy, *MATRIX[label])
            except Exception as error:
                raise AssertionError(f"{label} on {anatomy}: {error}") from error

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def test_every_registered_method_is_under_contract():
    assert set(SETTINGS) == {*ADAPTERS, *REDUCERS}
    assert len(MATRIX) == (len(ADAPTERS) + 3) * (len(REDUCERS) + 1)
    assert {label for anatomy in ANATOMIES for label in share(anatomy, "")} == set(MATRIX)
    assert {label for part in PARTS for label in share("clip", part)} == set(MATRIX)


@contract
def test_it_runs_in_training_and_in_evaluation(anatomy, adapters, reducer):
    model = stirred(make(anatomy, adapters, reducer))
    for mode in (True, False):
        run = model.train(mode).run(images(anatomy))
        assert run.logits.shape == (3, CLASSES)
        assert run.logits.isfinite().all()
        assert run.tokens.groups().shape == (3, run.tokens.grid[0] * run.tokens.grid[1])
        fewer = run.tokens.patches < run.tokens.groups().shape[1] or (mode and run.tokens.masked)
        assert (reducer is not None) == fewer == bool(run.tokens.trail)


@contract
def test_before_training_adapters_change_nothing(anatomy, adapters, reducer):
    reducer = None if adapters in NOT_QUITE_NOTHING else reducer
    without, model = (make(anatomy, these, reducer, classes=None).eval() for these in ((), adapters))
    with torch.no_grad():
        close(model(images(anatomy)), without(images(anatomy)), NOT_QUITE_NOTHING.get(adapters, 1e-5))


@contract
def test_every_trained_tensor_gets_a_gradient_and_no_frozen_one_does(anatomy, adapters, reducer):
    model = stirred(make(anatomy, adapters, reducer)).train()
    logits = model(images(anatomy))
    (logits * torch.linspace(0.5, 2.0, logits.numel()).view_as(logits)).sum().backward()
    assert [name for name in trained(model) if not model.get_parameter(name).grad.any()] == []
    assert [name for name in trained(model) if not model.get_parameter(name).grad.isfinite().all()] == []
    assert {name for name, tensor in model.named_parameters() if tensor.grad is not None} == trained(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("label", MATRIX)
def test_training_in_half_precision_loses_no_token_and_no_gradient(label, dtype):
    model = stirred(make("registers_gap", *MATRIX[label])).train()
    with torch.autocast("cpu", dtype):
        run = model.run(images("registers_gap"))
        loss = (run.logits * torch.linspace(0.5, 2.0, run.logits.numel()).view_as(run.logits)).sum()
    loss.backward()
    gradients = {name: model.get_parameter(name).grad for name in trained(model)}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    if run.tokens.size is not None:
        sizes, groups = run.tokens.size[:, run.tokens.prefix :], run.tokens.groups()
        # A mask lets patches go, the other reducers here only merge.
        here = (groups >= 0).sum(1) if run.tokens.masked else torch.full((3,), groups.shape[1])
        assert torch.equal(sizes.sum(1), here.float())
        assert torch.equal(sizes, sizes.round())


@contract
def test_an_image_alone_gives_what_it_gives_in_a_batch(anatomy, adapters, reducer):
    model = stirred(make(anatomy, adapters, reducer))
    with torch.no_grad():
        together = model(images(anatomy))
        close(torch.cat([model(image[None]) for image in images(anatomy)]), together)
    assert (together[0] - together[1]).abs().max() > 1e-3, "images must matter"


@contract
def test_what_is_loaded_is_what_was_saved_bit_for_bit(anatomy, adapters, reducer):
    model = stirred(make(anatomy, adapters, reducer))
    with tempfile.TemporaryDirectory() as folder:
        pt.save(model, folder)
        loaded = pt.load(folder)
    assert not loaded.training
    assert (loaded.spec.adapters, loaded.spec.reducer) == (adapters, reducer)
    assert trained(loaded) == trained(model)
    with torch.no_grad():
        assert torch.equal(loaded(images(anatomy)), model(images(anatomy)))


@contract
def test_merging_changes_nothing_and_leaves_no_leaf(anatomy, adapters, reducer):
    model = stirred(make(anatomy, adapters, reducer))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = pt.merge(model)
    assert not [module for module in merged.modules() if isinstance(module, Leafed)]
    assert trained(merged) == set()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        close(merged(images(anatomy)), model(images(anatomy)))


@contract
def test_a_pickle_and_a_deep_copy_give_the_same_and_share_nothing(anatomy, adapters, reducer):
    model = stirred(make(anatomy, adapters, reducer))
    with torch.no_grad():
        logits = model(images(anatomy))
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images(anatomy)), logits)
            assert trained(twin) == trained(model)
            for tensor in twin.parameters():
                tensor.zero_()
        assert torch.equal(model(images(anatomy)), logits)


def short(anatomy: str, blocks: int, adapters: tuple, reducer: object) -> Adapted:
    """A model of few blocks without dropout, in training mode: compiling takes seconds per block."""
    torch.manual_seed(0)
    model = copy.deepcopy(backbone(anatomy))
    model.blocks = model.blocks[:blocks]
    adapted = stirred(pt.adapt(model, adapters, reducer, CLASSES)).train()
    for module in adapted.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return adapted


def assert_one_graph(model: Adapted, images: Tensor, backend: str) -> None:
    """Assert that one graph without a break computes the same outputs and gradients as the model itself."""
    results = []
    for run in (model, torch.compile(model, fullgraph=True, backend=backend)):
        torch.manual_seed(3)  # some timm models jitter their RoPE in training
        model.zero_grad()
        logits = run(images)
        logits.square().sum().backward()
        results.append([logits.detach(), *(model.get_parameter(name).grad for name in sorted(trained(model)))])
    torch._dynamo.reset()
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-3, atol=1e-4 * eager.abs().max().item())


LONGEST = max(len(ROWS), len(COLUMNS))
ONCE = {f"{list(ROWS)[i % len(ROWS)]} x {list(COLUMNS)[i % len(COLUMNS)]}" for i in range(LONGEST)}  # all of both


@pytest.mark.slow
@pytest.mark.parametrize("label", sorted(ONCE))
def test_every_method_trains_as_one_compiled_graph(label):
    assert_one_graph(short("vit", 2, *MATRIX[label]), images("vit", 2), "aot_eager")


@pytest.mark.parametrize("label", [pytest.param(label, marks=REST) for label in MATRIX if label not in ONCE])
def test_so_does_every_pair_of_methods(label):
    assert_one_graph(short("vit", 2, *MATRIX[label]), images("vit", 2), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", third(ANATOMIES))
def test_every_backbone_trains_as_one_compiled_graph(anatomy):
    assert_one_graph(short(anatomy, 1, (SETTINGS[pt.LoRA],), pt.FPET(block=0)), images(anatomy, 2), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("reducer", third(COLUMNS))
def test_inference_is_one_compiled_graph(reducer):
    model = short("deit_distilled", 2, ROWS["several"], COLUMNS[reducer]).eval()
    with torch.no_grad():
        graph = torch.compile(model, fullgraph=True, backend="aot_eager")
        close(graph(images("deit_distilled")), model(images("deit_distilled")))
    torch._dynamo.reset()


@pytest.mark.slow
def test_inductor_compiles_training_into_one_graph():
    assert_one_graph(short("vit", 2, (SETTINGS[pt.DenseAdapter],), SETTINGS[pt.EViT]), images("vit", 2), "inductor")
