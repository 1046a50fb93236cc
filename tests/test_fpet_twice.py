"""FPET in any block and in several: which patches are left for the next merge, and who learns from it."""

import dataclasses
import itertools

import pytest
import torch
from anatomies import ANATOMIES

import paretune as pt
from paretune.core.attention import Look
from paretune.core.method import Shape
from paretune.reducers.fpet import halves

GRIDS = [(14, 14), (7, 7), (12, 16), (8, 18), (1, 7), (2, 1), (37, 37)]


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def without_dropout(reducer):
    for module in reducer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return reducer


def survivors(grid, split, turns):
    """The cells (row, column) that are left after so many reductions, by `halves` alone."""
    left = torch.arange(grid[0] * grid[1])
    for turn in range(turns):
        leaving, staying = halves(grid, split, turn, "cpu")
        assert sorted(torch.cat([leaving, staying]).tolist()) == list(range(len(left)))
        assert staying.tolist() == sorted(staying.tolist())
        assert len(leaving) > 0
        left = left[staying]
    return [divmod(cell, grid[1]) for cell in left.tolist()]


def cells(grid):
    return list(itertools.product(range(grid[0]), range(grid[1])))


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if min(grid) > 1], ids=str)
def test_what_a_checkerboard_left_is_split_by_rows_and_then_it_starts_over_on_the_coarser_grid(grid):
    assert survivors(grid, "checkerboard", 1) == [(i, j) for i, j in cells(grid) if (i + j) % 2]
    assert survivors(grid, "checkerboard", 2) == [(i, j) for i, j in cells(grid) if i % 2 and not j % 2]
    coarse = [(i // 2, j // 2) for i, j in survivors(grid, "checkerboard", 2)]
    assert coarse == cells((grid[0] // 2, (grid[1] + 1) // 2))
    third = [(i // 2, j // 2) for i, j in survivors(grid, "checkerboard", 3)]
    assert third == [(i, j) for i, j in coarse if (i + j) % 2]


@pytest.mark.parametrize("grid", [(1, 13), (13, 1)])
def test_a_line_is_a_checkerboard_every_time(grid):
    assert [max(cell) for cell in survivors(grid, "checkerboard", 1)] == [1, 3, 5, 7, 9, 11]
    assert [max(cell) for cell in survivors(grid, "checkerboard", 2)] == [3, 7, 11]
    assert [max(cell) for cell in survivors(grid, "checkerboard", 3)] == [7]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_second_of_what_is_left_leaves_where_the_split_alternates(grid):
    for turns in range(4):
        left = cells(grid)
        for _ in range(turns):
            left = left[1::2]
        if left:
            assert survivors(grid, "alternate", turns) == left


def test_many_reductions_leave_one_patch_and_no_fewer(made_up):
    for grid in ((4, 5), (5, 4), (1, 7), (14, 14)):
        look, tokens = made_up(grid)
        reducer = pt.FPET(block=tuple(range(12)), refine_width=0).build(Shape(12, 16, 8, grid, 1)).eval()
        counts = []
        for block in range(12):
            count = 1 + tokens.patches
            look = Look(look.q[:, :, :count], look.k[:, :, :count], look.k[:, :, :count], None, 1, 1)
            if (reduction := reducer(block, look, tokens)) is not None:
                tokens = tokens.shrink(block, reduction)
            counts.append(tokens.patches)
        assert counts[-1] == 1
        assert counts == sorted(counts, reverse=True)
        assert torch.equal(tokens.size.sum(1), torch.full((2,), 1.0 + grid[0] * grid[1]))
    assert counts[:6] == [98, 49, 24, 12, 6, 2]


def test_every_reduction_has_a_refinement_of_its_own(made_up):
    look, tokens = made_up()
    reducer = without_dropout(pt.FPET(block=(3, 1)).build(Shape(4, 16, 8, (6, 6), 1)))
    first = tokens.shrink(1, reducer(1, look, tokens))
    first.x.square().sum().backward()
    moved = {name for name, p in reducer.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"refine.0.down.weight", "refine.0.up.weight"}
    look = Look(look.q[:, :, :19], look.k[:, :, :19], look.k[:, :, :19], None, 1, 1)
    alone = dataclasses.replace(first, x=first.x.detach(), size=None)
    alone.shrink(3, reducer(3, look, alone)).x.square().sum().backward()
    assert all(p.grad.any() for p in reducer.parameters())
    assert sum(p.numel() for p in reducer.parameters()) == 2 * 2 * 8 * 32
    assert [reducer(block, look, tokens) for block in (0, 2)] == [None, None]


@pytest.mark.parametrize(("block", "depth", "blocks"), [
    (None, 12, (6,)), (None, 24, (12,)), (None, 1, (0,)), (0, 12, (0,)), (11, 12, (11,)), ((9, 3, 6, 3), 12, (3, 6, 9)),
])  # fmt: skip
def test_it_reduces_at_half_of_the_depth_or_where_it_is_told_to(block, depth, blocks):
    shape = Shape(depth, 16, 8, (6, 6), 1)
    assert pt.FPET(block=block).build(shape).blocks == blocks


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "name", ["vit", "gap", "deit_distilled", "dinov2_registers", "dinov3", "not_square", "odd_grid"]
)
@pytest.mark.parametrize("block", [0, 1, 2, 3, (0, 1), (1, 3), (0, 1, 2, 3)], ids=str)
def test_every_block_and_several_work_on_every_grid_and_prefix(name, block, training):
    build_backbone, size = ANATOMIES[name]
    model = pt.adapt(build_backbone(0), [pt.DenseAdapter(width=4)], pt.FPET(block=block)).train(training)
    run = model.run(random(2, 3, *size))
    grid, blocks = run.tokens.grid, (block,) if isinstance(block, int) else block
    assert tuple(step.block for step in run.tokens.trail) == blocks
    assert run.tokens.patches == len(survivors(grid, "checkerboard", len(blocks)))
    assert torch.equal(run.tokens.size[:, run.tokens.prefix :].sum(1), torch.full((2,), float(grid[0] * grid[1])))
    assert (run.tokens.groups() >= run.tokens.prefix).all()
    if training:
        run.logits.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.reducer.parameters())
        # What merges in the last block reaches no head that reads CLS.
        assert all(p.grad.any() for p in model.reducer.parameters()) or blocks[-1] == 3


def test_two_merges_are_the_maps_of_both_one_after_the_other():
    model = pt.adapt(ANATOMIES["vit"].build(0), [], pt.FPET(block=(1, 2))).eval()
    run = model.run(random(2, 3, 48, 48))
    first, second = (step.reduction for step in run.tokens.trail)
    whole = second.matrix() @ first.matrix()
    assert torch.equal(whole.argmax(1) + 1, run.tokens.groups())
    assert torch.equal(whole.sum(-1), run.tokens.size[:, 1:])
