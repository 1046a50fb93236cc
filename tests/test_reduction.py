"""Linear maps over tokens: every verb is its matrix, nothing is lost, everything of a token leaves alike."""

from dataclasses import replace

import pytest
import torch
from anatomies import ANATOMIES, awake

import paretune as pt
from paretune.core.method import Shape
from paretune.core.reduction import Blend, Merge, descending
from paretune.core.tokens import Tokens

N, B = 9, 2
KEEP = torch.tensor([[8, 1, 4, 5], [0, 7, 2, 3]])
SRC = torch.tensor([[0, 3, 6], [8, 1, 5]])  # three join, two of nine are dropped
DST = torch.tensor([[2, 2, 0], [3, 0, 3]])
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.rand(B, N, generator=GENERATOR) + 0.1
ONE_HOT = torch.nn.functional.one_hot(DST, 4).float()
NOBODY = torch.empty(B, 0, dtype=torch.long)
REDUCTIONS = {
    "merge": Merge(n_in=N, keep=KEEP, src=SRC, dst=DST),
    "weighted merge": Merge(n_in=N, keep=KEEP, src=SRC, dst=DST, weight=WEIGHT),
    "merge that does not normalise": Merge(n_in=N, keep=KEEP, src=SRC, dst=DST, weight=WEIGHT, normalise=False),
    "merge of sizes that does not normalise": Merge(n_in=N, keep=KEEP, src=SRC, dst=DST, normalise=False),
    "drop": Merge(n_in=N, keep=KEEP, src=NOBODY, dst=NOBODY),
    "one plan for all images": Merge(n_in=N, keep=KEEP[:1], src=SRC[:1], dst=DST),
    "blend": Blend(n_in=N, keep=KEEP, src=SRC, share=ONE_HOT),
    "weighted blend": Blend(n_in=N, keep=KEEP, src=SRC, share=ONE_HOT, weight=WEIGHT, normalise=False),
    "one plan for all images, blended": Blend(n_in=N, keep=KEEP[:1], src=SRC[:1], share=ONE_HOT),
}
GRIDS = [(14, 14), (7, 7), (12, 16), (8, 18), (1, 7)]


@pytest.fixture(params=REDUCTIONS.values(), ids=REDUCTIONS)
def reduction(request):
    return request.param


def explicit(reduction):
    """The matrix written entry by entry."""
    matrix = torch.zeros(B, reduction.n_out, N)
    for b in range(B):
        own = b if len(reduction.keep) > 1 else 0
        for slot, token in enumerate(reduction.keep[own]):
            matrix[b, slot, token] = 1.0
        for i, token in enumerate(reduction.src[own]):
            if isinstance(reduction, Blend):
                matrix[b, :, token] = reduction.share[b, i]
            else:
                matrix[b, reduction.dst[b, i], token] = 1.0
    return matrix


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_the_matrix_is_what_keep_src_and_dst_say(reduction):
    assert torch.equal(reduction.matrix(), explicit(reduction))


def test_sum_is_the_matrix(reduction):
    for t in (random(B, N), random(B, N, 3)):
        flat = t.reshape(B, N, -1)
        torch.testing.assert_close(reduction.sum(t), (explicit(reduction) @ flat).reshape(B, 4, *t.shape[2:]))
    coarse = torch.full((B, N), 201.0, dtype=torch.bfloat16)  # which counts exactly to 256
    torch.testing.assert_close(reduction.sum(coarse), 201 * explicit(reduction).sum(-1), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sized", [True, False])
def test_mean_is_the_weighted_matrix_over_its_row_sums(reduction, sized, dtype):
    t = random(B, N, 3, dtype=dtype)
    size = torch.randint(1, 9, (B, N), generator=torch.Generator().manual_seed(2)).float() if sized else None
    weight = reduction.weight if reduction.weight is not None else size if sized else torch.ones(B, N)
    matrix = explicit(reduction) * weight[:, None]
    if reduction.normalise:
        matrix = matrix / matrix.sum(-1, keepdim=True)
    found = reduction.mean(t, size)
    assert found.dtype == dtype
    last_place = max(1e-5, torch.finfo(dtype).eps)  # sums in another order may round to the neighbour
    torch.testing.assert_close(found, (matrix @ t.float()).to(dtype), rtol=last_place, atol=1e-5)


def test_a_peak_is_the_channel_wise_maximum_of_every_slot_and_nothing_else_differs():
    plain = REDUCTIONS["merge"]
    peak, t = replace(plain, peak=True), random(B, N, 3)
    groups = plain.groups()
    expected = torch.stack([torch.stack([t[b, groups[b] == slot].amax(0) for slot in range(4)]) for b in range(B)])
    assert torch.equal(peak.mean(t, torch.rand(B, N)), expected)
    assert torch.equal(peak.sum(t), plain.sum(t))
    assert plain.linear
    assert not peak.linear


def test_spread_is_the_transposed_matrix_and_fills_what_was_dropped(reduction):
    t, matrix = random(B, 4, 3), explicit(reduction)
    dropped = matrix.sum(1) == 0
    expected = (matrix.mT @ t).masked_fill(dropped[..., None], -7.0)
    torch.testing.assert_close(reduction.spread(t, fill=-7.0), expected)
    torch.testing.assert_close(reduction.spread(t[..., 0], fill=-7.0), expected[..., 0])


def test_pick_takes_the_rows_of_the_representatives(reduction):
    for table in (random(1, N, 2, 3, 4), random(B, N, 2, 3, 4)):
        found = reduction.pick(table)
        for b, slots in enumerate(reduction.keep):
            for slot, token in enumerate(slots):
                assert torch.equal(found[b, slot], table[b % len(table), token])


def test_groups_name_the_slot_of_every_token_and_minus_one_for_dropped_ones(reduction):
    matrix = explicit(reduction)
    assert torch.equal(reduction.groups(), torch.where(matrix.sum(1) > 0, matrix.argmax(1), -1))


def test_soft_shares_blend_as_their_matrix():
    blend = Blend(n_in=N, keep=KEEP, src=SRC, share=random(B, 3, 4).softmax(-1))
    t, matrix = random(B, N, 3), explicit(blend)
    assert torch.equal(blend.matrix(), matrix)
    torch.testing.assert_close(blend.sum(t), matrix @ t)
    expected = matrix @ (t * WEIGHT[..., None]) / (matrix @ WEIGHT[..., None])
    torch.testing.assert_close(blend.mean(t, WEIGHT), expected)


def test_a_large_channel_does_not_overflow_half_precision(reduction):
    t = torch.full((B, N, 2), 1e4, dtype=torch.float16)
    found = replace(reduction, normalise=True).mean(t, torch.full((B, N), 9.0))
    assert (found == 1e4).all()


def reducers(grid, d=8):
    """Every reducer that merges, at block 0."""
    shape = Shape(depth=1, width=16, head_width=d, grid=grid, prefix=1)
    most = grid[0] * grid[1] // 2
    built = {
        "EViT": pt.EViT(keep=0.6, blocks=(0,)).build(shape),
        "EViT as released": pt.EViT(keep=0.3, blocks=(0,), normalise=False).build(shape),
        "ToMe": pt.ToMe(r=max(most // 3, 1)).build(shape),
        "ToMe, all that it can": pt.ToMe(r=most).build(shape),
        "FPET": pt.FPET(block=0).build(shape).eval(),
        "FPET in training": pt.FPET(block=0).build(shape),
        "FPET, every second": pt.FPET(block=0, split="alternate", refine_width=0).build(shape).eval(),
    }
    return built.items()


@pytest.mark.parametrize("keys", ["random", "identical", "zero"])
@pytest.mark.parametrize("grid", GRIDS + [(24, 24)], ids=str)
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16], ids=str)
def test_merging_conserves_total_size(made_up, grid, keys, precision):
    look, tokens = made_up(grid, keys=keys)
    size = torch.randint(1, 4, (2, tokens.x.shape[1])).float()
    size[:, 0] = 1.0  # CLS
    for name, reducer in reducers(grid):
        for before in (tokens, replace(tokens, size=size)):
            with torch.autocast("cpu", precision, enabled=precision is not None):
                after = before.shrink(0, reducer(0, look, before))
            total = tokens.x.shape[1] if before.size is None else size.sum(1)
            assert torch.equal(after.size.sum(1), torch.as_tensor(total).expand(2).float()), name
            assert (after.size >= 1).all(), name
            assert after.x.isfinite().all(), name
            assert after.x.shape[1] == after.size.shape[1] < tokens.x.shape[1], name


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
def test_a_plan_made_under_autocast_is_that_of_full_precision(made_up, precision):
    look, tokens = made_up((14, 14))
    for name, reducer in reducers((14, 14)):
        plan = reducer.eval()(0, look, tokens)
        with torch.autocast("cpu", precision):
            assert torch.equal(reducer(0, look, tokens).groups(), plan.groups()), name


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_prefix_tokens_are_untouched_bit_for_bit(made_up, prefix):
    look, tokens = made_up(prefix=prefix)
    tokens = tokens.carry({"state": tokens.x * 3})
    size = torch.full(tokens.x.shape[:2], 2.0)
    size[:, :prefix] = 1.0
    for before in (tokens, replace(tokens, size=size)):
        for name, reducer in reducers(tokens.grid):
            after = before.shrink(0, reducer(0, look, before))
            assert torch.equal(after.x[:, :prefix], tokens.x[:, :prefix]), name
            assert torch.equal(after.carried["state"][:, :prefix], tokens.x[:, :prefix] * 3), name
            assert (after.size[:, :prefix] == 1).all(), name
            assert not torch.isin(after.x[:, prefix:], tokens.x[:, :prefix]).any(), name


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_carried_states_and_rope_leave_with_their_tokens(made_up, grid):
    look, tokens = made_up(grid)
    place = torch.arange(grid[0] * grid[1])[None, :, None, None, None].expand(-1, -1, 2, 3, 4)
    tokens = replace(tokens, rope=place).carry({"copy": tokens.x, "first": tokens.x[..., :3]})
    for name, reducer in reducers(grid):
        reduction = reducer(0, look, tokens)
        after = tokens.shrink(0, reduction)
        assert torch.equal(after.carried["copy"], after.x), name
        assert torch.equal(after.carried["first"], after.x[..., :3]), name
        kept = reduction.keep[..., None, None, None].expand(-1, -1, 2, 3, 4)
        assert torch.equal(after.rope, kept), name
        assert after.trail == ((0, reduction, "middle"),), name


def chain(tokens):
    """Three reductions of 12 patches, one of which drops; the matrices they stand for, one after the other."""
    first = Merge(n_in=12, keep=torch.tensor([[0, 2, 3, 5, 7, 8, 9, 11]]), src=torch.tensor([[1, 4, 6, 10]]),
                  dst=torch.tensor([[0, 3, 3, 7], [6, 6, 1, 0]]))  # fmt: skip
    second = Merge(n_in=8, keep=torch.tensor([[7, 0, 3, 4, 1], [1, 2, 3, 4, 5]]), src=NOBODY, dst=NOBODY)
    share = torch.nn.functional.one_hot(torch.tensor([[1, 1], [0, 1]]), 3).float()
    third = Blend(n_in=5, keep=torch.tensor([[0, 2, 4]]), src=torch.tensor([[1, 3]]), share=share)
    matrix = torch.eye(12).expand(2, -1, -1)
    for block, reduction in enumerate((first, second, third)):
        tokens = tokens.shrink(block, reduction)
        matrix = reduction.matrix() @ matrix
    return tokens, matrix


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_trail_of_three_reductions_is_the_tracked_source_matrix(prefix):
    tokens, matrix = chain(Tokens(x=random(2, prefix + 12, 4), prefix=prefix, readers=0, grid=(3, 4)))
    expected = torch.where(matrix.sum(1) > 0, matrix.argmax(1) + prefix, -1)
    assert torch.equal(tokens.groups(), expected)
    assert torch.equal(tokens.size[:, prefix:], matrix.sum(-1))
    assert (expected == -1).any()

    spread = (matrix.mT @ tokens.x[:, prefix:]).masked_fill((expected < 0)[..., None], -7.0)
    torch.testing.assert_close(tokens.unmerge(tokens.x[:, prefix:], fill=-7.0), spread)


def test_unmerging_an_unprocessed_merge_gives_every_patch_the_mean_of_its_group(made_up):
    look, tokens = made_up((5, 5))
    for name, reducer in list(reducers((5, 5)))[2:]:
        after = tokens.shrink(0, reducer(0, look, tokens))
        full, groups = after.unmerge(after.x[:, 1:]), after.groups()
        for b in range(2):
            for patch in range(25):
                members = 1 + (groups[b] == groups[b, patch]).nonzero()[:, 0]
                torch.testing.assert_close(full[b, patch], tokens.x[b, members].mean(0), msg=name)


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("picture", ["noise", "constant"])
@pytest.mark.parametrize(
    "reducer", [pt.EViT(0.5, (1, 2, 3)), pt.ToMe(r=(9, 8, 4)), pt.FPET(2)], ids=lambda r: type(r).__name__
)
def test_a_whole_model_conserves_total_size_and_loses_no_patch(reducer, picture, precision):
    build, size = ANATOMIES["dinov2_registers"]
    backbone = awake(build(0))
    if picture == "constant":
        torch.nn.init.zeros_(backbone.pos_embed)
    model = pt.adapt(backbone, [], reducer).train()
    images = random(2, 3, *size) if picture == "noise" else torch.ones(2, 3, *size)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        run = model.run(images)
    counts = torch.nn.functional.one_hot(run.tokens.groups(), run.tokens.x.shape[1]).sum(1)
    assert torch.equal(counts[:, 5:].float(), run.tokens.size[:, 5:])
    assert torch.equal(run.tokens.size.sum(1), torch.full((2,), 5.0 + 25))
    assert run.logits.isfinite().all()


def test_a_scale_per_token_and_channel_changes_features_before_their_mean_and_nothing_that_is_carried():
    g = torch.Generator().manual_seed(0)
    x, size, state = torch.randn(2, 7, 4, generator=g), torch.tensor([[1.0, 1, 2, 3, 1, 1, 4]] * 2), torch.ones(2, 7, 3)
    keep, src, dst = torch.tensor([[0, 2, 4]]), torch.tensor([[1, 3]]), torch.tensor([[0, 1]])
    scale = torch.rand(2, 6, 4, generator=g) + 0.5
    merge = Merge(n_in=6, keep=keep, src=src, dst=dst, scale=scale)  # patch 5 is dropped
    tokens = Tokens(x=x, prefix=1, readers=1, grid=(2, 3), size=size).carry({"state": state})
    after = tokens.shrink(0, merge)
    weights = merge.matrix() * size[:, None, 1:]
    expected = weights @ (scale * x[:, 1:]) / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(after.x[:, 1:], expected)
    assert torch.equal(after.x[:, 0], x[:, 0])
    torch.testing.assert_close(after.carried["state"], torch.ones(2, 4, 3))
    assert after.size.tolist() == [[1.0, 3.0, 4.0, 1.0]] * 2
    assert merge.mean(x[:, 1:], size[:, 1:]).sub(expected).abs().max() > 0.05


@pytest.mark.parametrize("values", [0, 1, 3])
def test_the_exported_order_is_the_stable_sort(values, monkeypatch):
    scores = torch.randint(0, values + 1, (5, 40), generator=torch.Generator().manual_seed(values)).float()
    order = descending(scores)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(descending(scores), order)
