"""Dense Adapters: the narrow state that travels gives the values and gradients of the paper's formula, written out.

DA_n = s W_up relu(W_1 y_n + W_2 S(DA_{n-1}) + W_3 S(DA_{n-3}))        S = all reductions in between
"""

import pytest
import torch
from anatomies import ANATOMIES, anatomy, awake

import paretune as pt
from paretune.core.attention import Look
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
}


def build(depth, reducer, carry, name="mae"):
    """A model in float64 with adapters and refinement away from their zero start, the same for every `carry`."""
    if name == "mae":  # pools over patches, so that each of them counts up to the end
        options = {"embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 48, "num_classes": 5}
        backbone = anatomy("vit_base_patch16_224", depth=depth, global_pool="avg", **options).build(0)
    else:
        backbone = ANATOMIES[name].build(0)
    adapters = [pt.DenseAdapter(width=6, scale=SCALE, carry=carry)]
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


def written_out(model, images):
    """A ViT with Dense Adapters as the paper writes it: every output stays D wide, is kept, and every matrix is formed.

    The reducer only decides; what its decisions do to tokens, sizes and adapter outputs is done here.
    """
    vit, reducer, (branch,) = model.backbone, model.reducer, model.branches
    x, size, outputs = vit._pos_embed(vit.patch_embed(images)), images.new_ones(2, 37), []
    for n, (block, own) in enumerate(zip(vit.blocks, branch.blocks, strict=True)):
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        proportional = reducer is not None and reducer.proportional
        bias = size.float().log().double()[:, None, None] if proportional else 0.0
        attention = (q @ k.mT / 12**0.5 + bias).softmax(-1)
        x = x + block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
        if reducer is not None:
            look = Look(q, k, k, size.float() if proportional else None, prefix=1, readers=1)
            reduction = reducer(n, look, Tokens(x=x, prefix=1, readers=1, grid=(6, 6)))
            if reduction is not None:
                features = with_prefix(mean_matrix(reduction, size[:, 1:]))
                x, outputs = features @ x, [features @ output for output in outputs]
                size = (with_prefix(reduction.matrix().double()) @ size[..., None])[..., 0]
        u = own.down[0](x)
        for down, source in zip(own.down[1:], [outputs[-1:], outputs[-3:-2]], strict=False):
            u = u + down(source[0])
        outputs.append(SCALE * own.up(u.relu()))
        x = x + block.mlp(block.norm2(x)) + outputs[-1]
    pooled = (size[:, 1:, None] * x[:, 1:]).sum(1) / size[:, 1:].sum(1, keepdim=True)
    return vit.head(vit.fc_norm(pooled))


@pytest.mark.parametrize("depth", [2, 4, 7])
@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
def test_carrying_the_activation_or_the_output_is_the_formula_in_value_and_every_gradient(reducer, depth):
    expected = outcome(written_out, build(depth, reducer, "output"))
    for carry in ("activation", "output"):
        assert_same(outcome(lambda model, images: model(images), build(depth, reducer, carry)), expected)


@pytest.mark.parametrize("reducer", ["EViT, not normalised", "FPET"])
@pytest.mark.parametrize("name", ["gap", "deit_distilled", "dinov2_registers", "dinov3", "respost"])
def test_both_carry_the_same_on_other_backbones(name, reducer):
    runs = [build(4, REDUCERS[reducer], carry, name).run(images_of(name)) for carry in ("activation", "output")]
    assert len(runs[0].tokens.trail) == len(runs[1].tokens.trail) > 0
    torch.testing.assert_close(runs[0].logits, runs[1].logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(runs[0].tokens.x, runs[1].tokens.x, rtol=1e-6, atol=1e-6)


def test_at_most_three_states_travel_and_they_are_narrow():
    model, images = build(7, REDUCERS["EViT"], "activation"), images_of()
    narrow = []

    def remember(module, args, result):
        narrow.append({name: state.shape[-1] for name, state in result[1].carried.items()})

    model.branches[0].register_forward_hook(remember)
    model(images)
    assert [len(states) for states in narrow] == [1, 2, 3, 3, 3, 3, 2]
    assert {width for states in narrow for width in states.values()} == {6 + 1}


def test_two_dense_adapters_do_not_read_each_other():
    images = images_of()
    torch.manual_seed(0)
    both = [pt.DenseAdapter(width=6), pt.DenseAdapter(width=6)]
    model = pt.adapt(ANATOMIES["vit"].build(0), both, pt.EViT(0.7, (1, 3))).double().eval()
    awake(model.branches[0])
    first = model(images)
    with torch.no_grad():  # the second one speaks to itself only; its own outputs stay 0
        for down in (d for block in model.branches[1].blocks for d in block.down):
            down.weight.normal_()
    assert torch.equal(model(images), first)
    one = pt.adapt(ANATOMIES["vit"].build(0), both[:1], pt.EViT(0.7, (1, 3))).double().eval()
    one.branches[0].load_state_dict(model.branches[0].state_dict())
    torch.testing.assert_close(one(images), first)
