"""Merging in one block: average pooling of neighbours, and ToMe's matching where and as often as it is told."""

import pytest
import torch
from anatomies import ANATOMIES

import paretune as pt
from paretune.core.method import Shape

GRIDS = [(2, 4), (14, 14), (7, 7), (3, 4), (4, 3), (1, 6), (1, 7), (7, 1), (2, 1), (5, 3)]


def shape(grid=(6, 6), depth=4):
    return Shape(depth=depth, width=16, head_width=8, grid=grid, prefix=1)


# --------------------------------------------------------------------------------------------------------------- Pool


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_patch_shares_a_token_with_one_neighbour_and_at_most_one_is_alone(made_up, grid):
    look, tokens = made_up(grid)
    reduction = pt.Pool(block=0).build(shape(grid))(0, look, tokens)
    groups = reduction.groups()[0].tolist()
    pairs = [[cell for cell in range(len(groups)) if groups[cell] == slot] for slot in range(reduction.n_out)]
    assert sorted(map(len, pairs)) == [1] * (len(groups) % 2) + [2] * (len(groups) // 2)
    for first, second in (pair for pair in pairs if len(pair) == 2):
        (i, j), (k, m) = divmod(first, grid[1]), divmod(second, grid[1])
        last = j == m == grid[1] - 1 and grid[1] % 2
        assert (k - i, m - j) == ((1, 0) if last else (0, 1))
    assert [pair[0] for pair in pairs] == sorted(pair[0] for pair in pairs)  # raster order


def test_a_token_is_the_mean_of_its_pair_and_counts_for_two(made_up):
    look, tokens = made_up((2, 4))
    after = tokens.shrink(0, pt.Pool(block=0).build(shape((2, 4)))(0, look, tokens))
    assert torch.equal(after.size, torch.tensor([[1.0, 2.0, 2.0, 2.0, 2.0]]).expand(2, -1))
    torch.testing.assert_close(after.x[:, 1:], tokens.x[:, 1:].unflatten(1, (4, 2)).mean(2))
    assert torch.equal(after.x[:, 0], tokens.x[:, 0])


def test_the_maximum_takes_the_larger_of_every_channel_and_counts_for_two(made_up):
    look, tokens = made_up((2, 4))
    after = tokens.shrink(0, pt.Pool("max", block=0).build(shape((2, 4)))(0, look, tokens))
    assert torch.equal(after.x[:, 1:], tokens.x[:, 1:].unflatten(1, (4, 2)).amax(2))
    assert torch.equal(after.size, torch.tensor([[1.0, 2.0, 2.0, 2.0, 2.0]]).expand(2, -1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("by", ["average", "max"])
@pytest.mark.parametrize("name", ["vit", "gap", "deit_distilled", "dinov2_registers", "dinov3", "odd_grid"])
def test_both_run_on_every_anatomy_with_adapters(name, by, training):
    build, size = ANATOMIES[name]
    model = pt.adapt(build(0), [pt.LoRA(rank=2), pt.DenseAdapter(width=4, carry="output")], pt.Pool(by, block=1))
    run = model.train(training).run(torch.randn(2, 3, *size))
    count = run.tokens.grid[0] * run.tokens.grid[1]
    assert run.tokens.patches == (count + 1) // 2
    assert torch.equal(run.tokens.size[:, run.tokens.prefix :].sum(1), torch.full((2,), float(count)))
    run.logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_narrow_state_does_not_cross_a_maximum_silently():
    model = pt.adapt(ANATOMIES["vit"].build(0), [pt.DenseAdapter(width=4)], pt.Pool("max", block=1))
    with pytest.raises(pt.UsageError, match="use carry='output'"):
        model(torch.randn(2, 3, 48, 48))
    early = pt.adapt(ANATOMIES["vit"].build(0), [pt.DenseAdapter(width=4)], pt.Pool("max", block=0))
    assert early(torch.randn(2, 3, 48, 48)).shape == (2, 7), "nothing has been carried yet"


def test_it_reduces_once_at_half_of_the_depth_or_where_it_is_told_to(made_up):
    look, tokens = made_up()
    for config, at in ((pt.Pool(), 2), (pt.Pool(block=0), 0), (pt.Pool(block=3), 3)):
        reducer = config.build(shape())
        assert [reducer(block, look, tokens) is not None for block in range(4)] == [block == at for block in range(4)]
    look, tokens = made_up((1, 1))
    assert pt.Pool(block=0).build(shape((1, 1)))(0, look, tokens) is None
    assert pt.Pool(block=4).problems(shape()) == ["Pool block=4: the backbone has blocks 0 to 3"]
    assert pt.Pool(block=-1).problems(shape())


# --------------------------------------------------------------------------------------------------------------- ToMe


@pytest.mark.parametrize(
    ("config", "left"),
    [
        (pt.ToMe(r=4), (32, 28, 24, 20)),
        (pt.ToMe(r=(4, 0, 3)), (32, 32, 29, 29)),
        (pt.ToMe(r=18, blocks=(2,)), (36, 36, 18, 18)),
        (pt.ToMe(r=18, blocks=(3,)), (36, 36, 36, 18)),
        (pt.ToMe(r=10, blocks=(0, 2, 3)), (26, 26, 16, 8)),  # of 16 only 8 pairs
        (pt.ToMe(r=(2, 9), blocks=(3, 1)), (36, 27, 27, 25)),
    ],
    ids=str,
)
def test_it_merges_so_many_pairs_in_these_blocks(config, left):
    model = pt.adapt(ANATOMIES["vit"].build(0), [], config).eval()
    run = model.run(torch.randn(2, 3, 48, 48))
    counts = {step.block: step.reduction.n_out for step in run.tokens.trail}
    now = 36
    for block in range(4):
        now = counts.get(block, now)
        assert now == left[block]
    assert torch.equal(run.tokens.size.sum(1), torch.full((2,), 37.0))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (pt.ToMe(blocks=(0, 4)), "ToMe blocks=(0, 4): the backbone has blocks 0 to 3, each once"),
        (pt.ToMe(blocks=(1, 1)), "ToMe blocks=(1, 1): the backbone has blocks 0 to 3, each once"),
        (pt.ToMe(r=(1, 2), blocks=(1,)), "ToMe r has 2 entries for 1 blocks"),
        (pt.ToMe(r=(1,), blocks=(1, 2)), "ToMe r has 1 entries for 2 blocks"),
        (pt.ToMe(r=19, blocks=(2,)), "ToMe r=19: 36 patches form 0 to 18 pairs"),
        (pt.ToMe(r=(10, 18), blocks=(3, 0)), "ToMe r=10 at block 3: the 18 patches left form 0 to 9 pairs"),
        (pt.ToMe(r=(1,) * 5), "ToMe r has 5 entries, the backbone has 4 blocks"),
    ],
    ids=str,
)
def test_schedules_that_cannot_be_are_named(config, says):
    assert config.problems(shape()) == [says]


def test_in_one_block_it_halves_as_fpet_without_refinement_does_by_other_pairs(made_up):
    look, tokens = made_up((14, 14))
    tome = pt.ToMe(r=98, blocks=(6,)).build(shape((14, 14), 12))
    fpet = pt.FPET(block=6, split="alternate", refine_width=0).build(shape((14, 14), 12)).eval()
    ours, theirs = tome(6, look, tokens), fpet(6, look, tokens)
    assert ours.n_out == theirs.n_out == 98
    # CLS shifts the parity: who leaves here stays there
    assert torch.equal(ours.keep[0], theirs.src[0])
    assert torch.equal(ours.src[0].sort().values, theirs.keep[0])


def test_a_share_of_pairs_is_that_of_the_patches_that_a_block_has():
    shares = pt.adapt("paretune_tiny", [], pt.ToMe(r=0.5, blocks=(6,)), 2, pretrained=True).eval()
    counts = pt.adapt("paretune_tiny", [], pt.ToMe(r=32, blocks=(6,)), 2, pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shares.run(images).tokens.groups(), counts.run(images).tokens.groups())
    twice = pt.adapt("paretune_tiny", [], pt.ToMe(r=0.25, blocks=(3, 6)), 2).eval().run(images)
    assert [step.reduction.n_out for step in twice.tokens.trail] == [48, 36]
    with pytest.raises(pt.UsageError, match=r"a share must be from 0 to 0\.5"):
        pt.adapt("paretune_tiny", [], pt.ToMe(r=0.6), 2)
