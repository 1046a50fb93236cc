"""An adapted model means the same outside of torch: exported to ONNX with any batch size, ONNX Runtime gives its logits
and lets the same patches go, also on pictures whose patches tie.
"""

import copy

import onnxruntime
import pytest
import torch
from anatomies import ANATOMIES
from test_contract import CLASSES, COLUMNS, REST, ROWS, backbone, images, stirred

import paretune as pt
from paretune.deploy.graph import Traced, program, write_onnx
from paretune.deploy.lint import lint


def two_blocks(anatomy, adapters, reducer):
    """A trained-looking model of two blocks."""
    torch.manual_seed(0)
    module = copy.deepcopy(backbone(anatomy))
    module.blocks = module.blocks[:2]
    return stirred(pt.adapt(module, adapters, reducer, CLASSES))


def pictures(anatomy):
    """Eight pictures: random ones, one colour, stripes of patches, two equal halves."""
    width = ANATOMIES[anatomy].image_size[1]
    x = images(anatomy, 8)
    x[1], x[2] = 0.0, 0.7
    x[3] = torch.arange(width).div(8, rounding_mode="floor").remainder(2)
    x[4, :, :, width // 2 :] = x[4, :, :, : width - width // 2]
    return x


def check(anatomy, adapters, reducer, path):
    """Assert that torch and ONNX Runtime agree at batches 1, 3 and 8, none of which the graph was traced with."""
    model, x = pt.merge(two_blocks(anatomy, adapters, reducer)), pictures(anatomy)
    write_onnx(program(model, (1, 64)), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    traced = Traced(model)
    for batch in (x[:1], x[1:2], x[:3], x):
        with torch.no_grad():
            logits, groups = traced(batch)
        found, slots = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert torch.equal(torch.from_numpy(slots), groups), f"other patches leave at batch {len(batch)}"
        torch.testing.assert_close(torch.from_numpy(found), logits, rtol=1e-5, atol=1e-5)
    assert lint(path) == []


def turns(things):
    """One of these for every backbone, in turn."""
    names = list(things)
    return [names[i % len(names)] for i in range(len(ANATOMIES))]


# Every backbone once, with every row and every column of the contract's matrix among them; `make test` takes the first
# ones, which hold every method, the others run by `make exhaustive`.
DIAGONAL = list(zip(ANATOMIES, turns(ROWS), turns(COLUMNS), strict=True))
FIRST = max(len(ROWS), len(COLUMNS))
EVERY = [(anatomy, "LoRA", column) for anatomy in ANATOMIES for column in COLUMNS]
EVERY += [("dinov3", row, column) for row in ROWS for column in COLUMNS]
SIX = ("vit", "deit_distilled", "dinov2_registers", "siglip", "eva02", "grouped_queries")
EVERY += [
    (anatomy, row, column) for anatomy in SIX for row in ("VPT", "DenseAdapter", "few bits") for column in COLUMNS
]
EVERY = list(dict.fromkeys(EVERY))


def test_the_diagonal_holds_every_method_and_every_backbone():
    assert {anatomy for anatomy, _, _ in DIAGONAL} == set(ANATOMIES)
    _, rows, columns = map(set, zip(*DIAGONAL[:FIRST], strict=True))
    assert (rows, columns) == (set(ROWS), set(COLUMNS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("anatomy", "row", "column"), [*DIAGONAL[:FIRST], *(pytest.param(*one, marks=REST) for one in DIAGONAL[FIRST:])]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_runtime_agrees_with_torch(anatomy, row, column, tmp_path):
    check(anatomy, ROWS[row], COLUMNS[column], tmp_path / "model.onnx")


@pytest.mark.parametrize(("anatomy", "row", "column"), [pytest.param(*one, marks=REST) for one in EVERY])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_so_it_does_for_every_reducer_and_every_adapter(anatomy, row, column, tmp_path):
    check(anatomy, ROWS[row], COLUMNS[column], tmp_path / "model.onnx")
