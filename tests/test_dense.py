"""Dense Adapters: the narrow state that travels gives the values and gradients of the paper's formula, written out.

DA_n = s W_up relu(W_1 y_n + W_2 S(DA_{n-1}) + W_3 S(DA_{n-3}))        S = all reductions in between
"""

import pytest
import torch
from anatomies import ANATOMIES, anatomy, awake

import paretune as pt
from paretune.adapters.dense import DenseBranch
from paretune.core.attention import Look
from paretune.core.method import Shape
from paretune.core.tokens import Tokens

SCALE = 0.7
# Reductions in a row: the skips from n-1 and n-3 cross one, two and three of them.
REDUCERS = {
    "no reducer": None,
    "EViT": lambda depth: pt.EViT(0.7, tuple(range(1, depth))),
    "EViT, not normalised": lambda depth: pt.EViT(0.7, tuple(range(1, depth)), normalise=False),
    "EViT, two apart": lambda depth: pt.EViT(0.5, tuple(range(1, depth, 2)), normalise=False),
    "EViT, best of the rest": lambda depth: pt.EViT(0.6, tuple(range(0, depth, 2)), rest="argmax"),
    "EViT, rest dropped": lambda depth: pt.EViT(0.6, (depth - 2, depth - 1), rest="drop"),
    "ToMe": lambda depth: pt.ToMe(r=4),
    "FPET": lambda depth: pt.FPET(block=(depth - 1) // 2, stop_gradient=False),
    "FPET, three times": lambda depth: pt.FPET(block=tuple(range(1, depth))[:3], stop_gradient=False),
}


def build(depth, reducer, carry, name="mae", **settings):
    """A model in float64 with adapters and refinement away from their zero start, the same for every `carry`."""
    if name == "mae":  # pools over patches, so that each of them counts up to the end
        options = {"embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 48, "num_classes": 5}
        backbone = anatomy("vit_base_patch16_224", depth=depth, global_pool="avg", **options).build(0)
    else:
        backbone = ANATOMIES[name].build(0)
    adapters = [pt.DenseAdapter(**{"width": 6, "scale": SCALE, "reads": (1, 3), **settings}, carry=carry)]
    model = pt.adapt(backbone, adapters, None if reducer is None else reducer(depth))
    torch.manual_seed(1)
    awake(model.branches)
    model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def images_of(name="mae"):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, *ANATOMIES[name].image_size, generator=generator, dtype=torch.float64)


def outcome(forward, model):
    """Logits, and the gradients of all trained tensors, of the whole backbone and of the images."""
    images = images_of().requires_grad_()
    model.requires_grad_(True)
    logits = forward(model, images)
    wanted = {"images": images, **dict(model.named_parameters())}
    pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = torch.autograd.grad((logits * pull).sum(), wanted.values())
    return {"logits": logits.detach(), **dict(zip(wanted, gradients, strict=True))}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        scale = t.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(
            found[name] / scale, t / scale, rtol=0, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


def mean_matrix(reduction, size):
    """The map that a reduction is on features: (B, n_out, n_in), divided by its row sums where it normalises."""
    matrix = reduction.matrix().double() * (size if reduction.weight is None else reduction.weight)[:, None].double()
    return matrix / matrix.sum(-1, keepdim=True) if reduction.normalise else matrix


def with_prefix(matrix):
    """The same map with CLS in front, which maps to itself."""
    return torch.nn.functional.pad(matrix, (1, 0, 1, 0)) + torch.nn.functional.pad(
        matrix.new_ones(1, 1), (0, matrix.shape[-1], 0, matrix.shape[-2])
    )


class Said:
    """What every adapter said, for the tokens of its own time, and the matrices that tokens went through since."""

    def __init__(self):
        self.outputs, self.times, self.matrices = [], [], []

    def add(self, output):
        self.outputs.append(output)
        self.times.append(len(self.matrices))

    def __getitem__(self, source):
        """S(DA_source): one matrix for all reductions that lie in between, which says where every token went."""
        whole = torch.eye(self.outputs[source].shape[1], dtype=torch.float64)
        for matrix in self.matrices[self.times[source] :]:
            whole = matrix @ whole
        return whole @ self.outputs[source]


# How an adapter comes from its inputs: the stream and the sources.
FUSE = {
    "inner": lambda own, inputs: own.up[0](sum(d(t) for d, t in zip(own.down, inputs, strict=True)).relu()),
    "input": lambda own, inputs: own.up[0](own.down[0](sum(inputs)).relu()),
    "output": lambda own, inputs: sum(u(d(t).relu()) for d, u, t in zip(own.down, own.up, inputs, strict=True)),
}


def written_out(model, images):
    """A ViT with Dense Adapters as the paper writes it: every output stays D wide, is kept, and every matrix is formed.

    The reducer only decides; what its decisions do to tokens, sizes and adapter outputs is done here.
    """
    vit, reducer, (branch,), (config,) = model.backbone, model.reducer, model.branches, model.spec.adapters
    x, size, said = vit._pos_embed(vit.patch_embed(images)), images.new_ones(2, 37), Said()
    for n, (block, own) in enumerate(zip(vit.blocks, branch.blocks.values(), strict=True)):
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        proportional = reducer is not None and reducer.proportional
        bias = size.float().log().double()[:, None, None] if proportional else 0.0
        attention = (q @ k.mT / 12**0.5 + bias).softmax(-1)
        x = x + block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
        if reducer is not None:
            look = Look(q, k, k, size.float() if proportional else None, prefix=1, readers=1)
            reduction = reducer(n, look, Tokens(x=x, prefix=1, readers=1, grid=(6, 6)))
            if reduction is not None:
                said.matrices.append(with_prefix(mean_matrix(reduction, size[:, 1:])))
                x = said.matrices[-1] @ x
                size = (with_prefix(reduction.matrix().double()) @ size[..., None])[..., 0]
        earlier = [n - back for back in sorted(config.reads) if n >= back and (back == 1 or n >= config.start)]
        said.add(SCALE * FUSE[config.fuse](own, [x, *(said[source] for source in earlier)]))
        x = x + block.mlp(block.norm2(x)) + said.outputs[-1]
    pooled = (size[:, 1:, None] * x[:, 1:]).sum(1) / size[:, 1:].sum(1, keepdim=True)
    return vit.head(vit.fc_norm(pooled))


def assert_it_is_the_formula(depth, reducer, **settings):
    expected = outcome(written_out, build(depth, reducer, "output", **settings))
    for carry in ("activation", "output"):
        found = outcome(lambda model, images: model(images), build(depth, reducer, carry, **settings))
        assert_same(found, expected)


@pytest.mark.parametrize("depth", [2, 4, 7])
@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
def test_carrying_the_activation_or_the_output_is_the_formula_in_value_and_every_gradient(reducer, depth):
    assert_it_is_the_formula(depth, reducer)


@pytest.mark.parametrize("reducer", ["no reducer", "EViT, not normalised", "ToMe", "FPET, three times"])
@pytest.mark.parametrize(
    "settings",
    [
        {"fuse": "input"},
        {"fuse": "output"},
        {"reads": ()},
        {"reads": (1,)},
        {"reads": (3,)},
        {"reads": (4, 2)},
        {"reads": (1, 2, 3, 4, 5), "start": 4},
        {"reads": (5, 1, 2), "fuse": "input", "start": 3},
        {"reads": (5, 1, 2), "fuse": "output", "start": 3},
    ],
    ids=str,
)
def test_so_is_every_other_wiring(reducer, settings):
    assert_it_is_the_formula(6, REDUCERS[reducer], **settings)


@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("reducer", ["EViT, not normalised", "FPET"])
@pytest.mark.parametrize("name", ["gap", "deit_distilled", "dinov2_registers", "dinov3", "respost"])
def test_both_carry_the_same_on_other_backbones(name, reducer, fuse):
    images = images_of(name)
    runs = [build(4, REDUCERS[reducer], carry, name, fuse=fuse).run(images) for carry in ("activation", "output")]
    assert len(runs[0].tokens.trail) == len(runs[1].tokens.trail) > 0
    torch.testing.assert_close(runs[0].logits, runs[1].logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(runs[0].tokens.x, runs[1].tokens.x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "states", "width"),
    [
        ({}, [1, 2, 3, 3, 3, 2, 0], 6 + 1),
        ({"fuse": "input"}, [1, 2, 3, 3, 3, 2, 0], 6 + 1),
        ({"fuse": "output"}, [1, 2, 3, 3, 3, 2, 0], None),
        ({"reads": ()}, [0] * 7, None),
        ({"reads": (4,), "start": 5}, [0, 1, 2, 2, 2, 1, 0], 6 + 1),
    ],
    ids=str,
)
def test_only_what_a_later_block_reads_travels_and_it_is_narrow(settings, states, width):
    model, images = build(7, REDUCERS["EViT"], "activation", **settings), images_of()
    narrow = []

    def remember(module, args, result):
        narrow.append({name: state.shape[-1] for name, state in result.carried.items()})

    model.branches[0].register_forward_hook(remember)
    model(images)
    assert [len(states) for states in narrow] == states
    if width:
        assert {width for states in narrow for width in states.values()} == {width}


def test_two_dense_adapters_do_not_read_each_other():
    images = images_of()
    torch.manual_seed(0)
    both = [pt.DenseAdapter(width=6), pt.DenseAdapter(width=6)]
    model = pt.adapt(ANATOMIES["vit"].build(0), both, pt.EViT(0.7, (1, 3))).double().eval()
    awake(model.branches[0])
    first = model(images)
    with torch.no_grad():  # the second one speaks to itself only; its own outputs stay 0
        for down in (d for block in model.branches[1].blocks.values() for d in block.down):
            down.weight.normal_()
    assert torch.equal(model(images), first)
    one = pt.adapt(ANATOMIES["vit"].build(0), both[:1], pt.EViT(0.7, (1, 3))).double().eval()
    one.branches[0].load_state_dict(model.branches[0].state_dict())
    torch.testing.assert_close(one(images), first)


# ------------------------------------------------------------------------------------------------- wiring, parameters


def sources(depth, **settings):
    """The blocks that every block reads, on a backbone of `depth` blocks."""
    return [pt.DenseAdapter(**settings).sources(block, Shape(depth, 24, 12, (6, 6), 1)) for block in range(depth)]


def test_by_default_they_read_the_block_before_and_the_one_a_quarter_of_the_depth_before():
    assert sources(12) == [[], [0], [1], *([n - 1, n - 3] for n in range(3, 12))]
    assert sources(24) == [[], *([n - 1] for n in range(1, 6)), *([n - 1, n - 6] for n in range(6, 24))]
    assert sources(7) == sources(7, reads=(1,))
    assert sources(1) == [[]]


def test_the_start_holds_back_all_reads_but_those_of_the_block_before():
    assert sources(7, reads=(3, 1, 2), start=4) == [[], [0], [1], [2], [3, 2, 1], [4, 3, 2], [5, 4, 3]]
    assert sources(5, reads=(2,), start=3) == [[], [], [], [1], [2]]


VIT_B, VIT_L = Shape(12, 768, 64, (14, 14), 1), Shape(24, 1024, 64, (14, 14), 1)


@pytest.mark.parametrize(
    ("table", "shape", "settings", "projections", "millions"),
    [
        *[("X", VIT_B, {"width": h}, 44, m) for h, m in ((8, 0.29), (16, 0.56), (32, 1.10), (64, 2.18), (128, 4.35))],
        ("XI, start 3", VIT_B, {"reads": (1, 2)}, 45, 1.12),  # the paper prints 1.13
        ("XI, start 4", VIT_B, {"reads": (1, 3), "start": 3}, 44, 1.10),
        ("XI, start 5", VIT_B, {"reads": (1, 4)}, 43, 1.07),
        ("XI, start 5", VIT_B, {"reads": (1, 3), "start": 4}, 43, 1.07),
        ("XII, any interval of the reduction", VIT_B, {"reads": (1, 3)}, 44, 1.10),
        ("XIII", VIT_L, {}, 89, 2.95),  # the paper prints 2.93
        # Tables VI and VII print 0.69, 0.95, 0.95 and 1.68 for what counts to these
        ("VI, neither", VIT_B, {"reads": ()}, 24, 0.61),
        ("VI, previous", VIT_B, {"reads": (1,)}, 35, 0.88),
        ("VI, skip", VIT_B, {"reads": (3,)}, 33, 0.83),
        ("VI, both", VIT_B, {"reads": (1, 3)}, 44, 1.10),
        ("VII, input", VIT_B, {"fuse": "input"}, 24, 0.61),
        ("VII, inner", VIT_B, {"fuse": "inner"}, 44, 1.10),
        ("VII, output", VIT_B, {"fuse": "output"}, 64, 1.61),
    ],
    ids=str,
)
def test_the_papers_tables_count_these_projections_and_a_head(table, shape, settings, projections, millions):
    with torch.device("meta"):
        branch = DenseBranch(shape, pt.DenseAdapter(**settings), "dense")
    assert sum(isinstance(module, torch.nn.Linear) for module in branch.modules()) == projections
    count, head = sum(p.numel() for p in branch.parameters()), 10 * (shape.width + 1)
    assert round((count + head) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 1_091_584), ({"width": 8}, 279_808), ({"fuse": "output"}, 1_598_464), ({"fuse": "input"}, 599_424)],
    ids=str,
)
def test_the_parameters_on_vit_base(settings, count):
    with torch.device("meta"):
        branch = DenseBranch(VIT_B, pt.DenseAdapter(**settings), "dense")
    assert sum(p.numel() for p in branch.parameters()) == count


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 0}, "DenseAdapter width=0: must be at least 1"),
        ({"reads": (1, 1)}, r"DenseAdapter reads=\(1, 1\): must be different distances"),
        ({"reads": (0,)}, r"DenseAdapter reads=\(0,\): must be different distances of at least 1 block"),
        ({"start": 4}, "DenseAdapter start=4: the backbone has blocks 0 to 3"),
        ({"start": -1}, "DenseAdapter start=-1"),
        ({"dropout": 1.0}, r"DenseAdapter dropout=1.0: must be in \[0, 1\)"),
        ({"fuse": "late"}, "DenseAdapter fuse='late': must be 'inner', 'input' or 'output'"),
    ],
    ids=str,
)
def test_wiring_that_cannot_be_is_refused(settings, says):
    with pytest.raises(pt.UsageError, match=says):
        pt.adapt(ANATOMIES["vit"].build(0), [pt.DenseAdapter(**settings)])


def test_what_dropout_takes_from_a_bottleneck_does_not_travel_either():
    outputs = {}
    for carry in ("activation", "output"):
        model = build(4, lambda depth: pt.FPET(block=2), carry, dropout=0.5)
        (branch,) = model.branches
        for p in (0.0, 0.5):
            branch.dropout.p = p
            torch.manual_seed(4)  # the same masks, drawn block by block
            outputs[carry, p] = model.train()(images_of())
        torch.testing.assert_close(model.eval()(images_of()), outputs[carry, 0.0])
    torch.testing.assert_close(outputs["activation", 0.5], outputs["output", 0.5])
    assert not torch.allclose(outputs["output", 0.5], outputs["output", 0.0])
