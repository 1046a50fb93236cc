"""FPET's matching: a one-hot map with a soft gradient, which loses no token and costs the backbone's keys nothing."""

import itertools

import pytest
import torch
from anatomies import ANATOMIES

import paretune as pt
from paretune.core.method import Shape
from paretune.core.reduction import Blend, Merge
from paretune.core.tokens import Tokens
from paretune.reducers.fpet import halves, straight_through

SPLITS = ["checkerboard", "alternate"]
GRIDS = [(14, 14), (7, 7), (12, 16), (8, 18), (1, 7), (2, 1), (37, 37)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(grid=(6, 6), d=8, **settings):
    torch.manual_seed(0)
    return pt.FPET(block=0, **settings).build(Shape(depth=1, width=16, head_width=d, grid=grid, prefix=1))


def without_dropout(reducer):
    for module in reducer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return reducer


# -------------------------------------------------------------------------------------------------------------- match


def test_the_forward_is_the_one_hot_of_the_best_key_exactly():
    similarity = random(3, 40, 30, dtype=torch.float32).tanh().requires_grad_()
    share = straight_through(similarity, similarity.argmax(-1))
    assert share.requires_grad
    assert torch.equal(share.detach(), torch.nn.functional.one_hot(similarity.argmax(-1), 30).float())


@pytest.mark.parametrize("training", [True, False])
def test_every_leaving_patch_joins_the_survivor_with_the_most_similar_refined_key(made_up, training):
    look, tokens = made_up((4, 5), prefix=2)
    reducer = without_dropout(build((4, 5))).train(training)
    torch.nn.init.normal_(reducer.refine[0].up.weight)  # at its start the refinement changes no match
    groups = reducer(0, look, tokens).groups()
    keys = reducer.refine[0](look.k[:, :, 2:].mean(1)).detach()
    survivors = [cell for cell in range(20) if (cell // 5 + cell % 5) % 2]
    for b in range(2):
        for cell in range(20):
            if cell in survivors:
                assert groups[b, cell] == survivors.index(cell)
            else:
                cosines = [torch.cosine_similarity(keys[b, cell], keys[b, s], dim=0) for s in survivors]
                assert groups[b, cell] == torch.stack(cosines).argmax()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_two_halves_split_every_grid_by_its_own_rows_and_columns(grid, split):
    leaving, staying = (half.tolist() for half in halves(grid, split, 0, "cpu"))
    rows, columns = grid
    assert sorted(leaving + staying) == list(range(rows * columns))
    assert len(staying) == rows * columns // 2
    assert leaving == sorted(leaving)  # raster order
    assert staying == sorted(staying)
    for cell in leaving:
        assert (sum(divmod(cell, columns)) if split == "checkerboard" else cell) % 2 == 0


# ----------------------------------------------------------------------------------------------------------- gradient


def merged(share, x, size):
    """Features and sizes after x (B, A + N', D) merged by the shares (B, A, N'): the first A tokens leave."""
    gone, left = share.shape[1:]
    cells = torch.arange(gone + left)
    blend = Blend(n_in=gone + left, keep=cells[None, gone:], src=cells[None, :gone], share=share)
    return blend.mean(x, size), blend.sum(size)


def test_the_gradient_is_the_closed_form():
    a, b, width = 7, 5, 6
    similarity = random(2, a, b).tanh().requires_grad_()
    x, size = random(2, a + b, width, seed=1), torch.randint(1, 5, (2, a + b)).double()
    g, h = random(2, b, width, seed=2), random(2, b, seed=3)
    best = similarity.argmax(-1)
    share = straight_through(similarity, best)
    share.retain_grad()
    y, total = merged(share, x, size)
    ((y * g).sum() + (total * h).sum()).backward()

    # dL/dM_ab = s_a <g_b, x_a - y_b> / den_b + s_a h_b,  den_b = s_b + sum_a M_ab s_a
    leaving, s_a, one_hot = x[:, :a], size[:, :a, None], torch.nn.functional.one_hot(best, b).double()
    den = size[:, a:] + (one_hot * s_a).sum(1)
    y = (size[:, a:, None] * x[:, a:] + one_hot.mT @ (s_a * leaving)) / den[..., None]
    pull = s_a * (((leaving @ g.mT) - (y * g).sum(-1)[:, None]) / den[:, None] + h[:, None])
    torch.testing.assert_close(share.grad, pull, rtol=1e-11, atol=1e-11)

    # dL/dC_ab = s'_ab G_ab - 1/2 [b among the two best of a] sum_c s'_ac G_ac,  s' = soft (1 - soft)
    similarity, found = similarity.detach(), similarity.grad
    top = similarity.topk(2, dim=-1)
    soft = (similarity - top.values.mean(-1, keepdim=True)).sigmoid()
    slope = soft * (1 - soft)
    among = torch.zeros_like(slope).scatter(2, top.indices, 1.0)
    expected = slope * pull - 0.5 * among * (slope * pull).sum(-1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("width", [0, 32])
def test_stop_gradient_keeps_the_matching_from_the_keys_and_only_from_them(made_up, stop, width):
    look, tokens = made_up()
    look.plain.requires_grad_()
    x = tokens.x.clone().requires_grad_()
    reducer = without_dropout(build(refine_width=width, stop_gradient=stop))
    after = tokens.with_x(x).shrink(0, reducer(0, look, tokens))
    after.x.square().sum().backward()
    assert (x.grad != 0).any(-1).all()  # the merge itself is differentiable everywhere
    assert (look.plain.grad is None) == stop
    if not stop:
        assert (look.plain.grad[:, :, 1:] != 0).any(-1).all()
        assert (look.plain.grad[:, :, 0] == 0).all()  # CLS is no candidate
    for p in reducer.parameters():
        assert p.grad.abs().sum() > 0
    assert len(list(reducer.parameters())) == (2 if width else 0)


def test_gradients_stay_finite_where_keys_are_zero(made_up):
    look, tokens = made_up(keys="zero")
    look.plain.requires_grad_()
    reducer = build(stop_gradient=False)
    tokens.shrink(0, reducer(0, look, tokens)).x.square().sum().backward()
    assert look.plain.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in reducer.parameters())


# --------------------------------------------------------------------------------------------------------------- ties


def test_two_equal_best_keys_lose_no_token():
    similarity = torch.tensor([[[0.9, 0.9, 0.1], [0.5, 0.5, 0.5], [0.2, 0.1, 0.3]]], requires_grad=True)
    share = straight_through(similarity, similarity.argmax(-1))
    assert torch.equal(share.sum(-1), torch.ones(1, 3))
    _, total = merged(share, torch.ones(1, 6, 2), torch.ones(1, 6))
    assert total.sum() == 6


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("twins", ["all", "pairs"])
def test_a_model_whose_patches_have_equal_keys_loses_no_token(twins, precision, training):
    build_backbone, size = ANATOMIES["vit"]
    backbone = build_backbone(0)
    torch.nn.init.zeros_(backbone.pos_embed)
    images = torch.ones(2, 3, *size)
    if twins == "pairs":  # every patch twice, side by side in a column
        images = random(2, 3, 24, 6, dtype=torch.float32).repeat_interleave(2, 2).repeat_interleave(8, 3)
    model = pt.adapt(backbone, [], pt.FPET(block=1)).train(training)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        run = model.run(images)
    assert torch.equal(run.tokens.size.sum(1), torch.full((2,), 37.0))
    assert (run.tokens.groups() > 0).all()


# ------------------------------------------------------------------------------------------------ training, evaluation


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["vit", "gap", "dinov3", "not_square", "odd_grid"])
def test_the_training_forward_is_the_evaluation_forward(name, split):
    build_backbone, size = ANATOMIES[name]
    model = pt.adapt(build_backbone(0), [], pt.FPET(block=1, split=split))
    without_dropout(model.reducer)
    images = random(2, 3, *size, dtype=torch.float32)
    training, evaluation = model.train().run(images), model.eval().run(images)
    assert type(training.tokens.trail[0].reduction) is Blend
    assert type(evaluation.tokens.trail[0].reduction) is Merge
    assert torch.equal(training.tokens.size, evaluation.tokens.size)
    assert torch.equal(training.tokens.groups(), evaluation.tokens.groups())
    torch.testing.assert_close(training.tokens.x, evaluation.tokens.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(training.logits, evaluation.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "bits"), [(0, 1), *itertools.product([32], [1, 2, 4])])
def test_the_refinement_has_few_bits_a_weight_and_adds_to_the_keys(width, bits):
    reducer = build(refine_width=width, refine_bits=bits, d=16).eval()
    keys = random(2, 5, 16, dtype=torch.float32)
    (refine,) = reducer.refine
    if not width:
        assert torch.equal(refine(keys), keys)
        return
    seen = []  # the weights that the two linears act by: their outputs for unit vectors
    for linear in (refine.down, refine.up):
        torch.nn.init.normal_(linear.weight, std=0.1)
        seen.append(linear(torch.eye(linear.weight.shape[1])).T)
        assert len((seen[-1] * 1e4).round().unique()) == 2**bits
    down, up = seen
    assert (down.shape, up.shape) == ((32, 16), (16, 32))
    torch.testing.assert_close(refine(keys), keys + (keys @ down.T).relu() @ up.T)
    assert (refine(keys) != keys).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_model_cast_to_another_dtype_runs_and_loses_no_token(dtype, training):
    build_backbone, size = ANATOMIES["vit"]
    model = pt.adapt(build_backbone(0), [], pt.FPET(block=1)).to(dtype).train(training)
    run = model.run(random(2, 3, *size, dtype=dtype))
    assert run.logits.dtype == dtype
    assert torch.equal(run.tokens.size.sum(1).float(), torch.full((2,), 37.0))


def test_it_merges_once_and_one_patch_alone_is_left_alone(made_up):
    look, tokens = made_up((1, 1))
    assert build((1, 1))(0, look, tokens) is None
    look, tokens = made_up((4, 4))
    assert build((4, 4))(1, look, tokens) is None
    after = tokens.shrink(0, build((4, 4))(0, look, tokens))
    assert isinstance(after, Tokens)
    assert after.patches == 8
