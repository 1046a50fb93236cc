"""Masking: a token that was let go is as good as gone, and yet its mask can learn."""

import pytest
import torch
from anatomies import ANATOMIES, awake

import paretune as pt
from paretune.core.attention import attend, masked_attention
from paretune.core.method import Reducer
from paretune.core.reduction import Mask, Merge

ALIVE = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0, 1.0]])


class LetGo(Reducer):
    """Lets go of every third patch that is left before block 1, and in the middle of block 2; `masking` or for real."""

    def __init__(self, masking):
        super().__init__()
        self.masking, self.now = masking, None

    def choose(self, tokens):
        if self.masking:
            patches = torch.arange(tokens.grid[0] * tokens.grid[1])
            self.now = patches if not tokens.trail else self.now
            self.now = self.now[torch.arange(len(self.now)) % 3 != 1]
            alive = torch.zeros(len(tokens.x), len(patches))
            alive[:, self.now] = 1.0
            return Mask.of(alive)
        keep = torch.arange(tokens.patches)
        keep = keep[keep % 3 != 1][None]
        return Merge(n_in=tokens.patches, keep=keep, src=keep[:, :0], dst=keep[:, :0])

    def before(self, block, tokens):
        return self.choose(tokens) if block == 1 else None

    def forward(self, block, look, tokens):
        return self.choose(tokens) if block == 2 else None


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_mask_is_its_matrix_and_keeps_the_features():
    mask, t = Mask.of(ALIVE), random(2, 5, 3)
    assert torch.equal(mask.matrix(), torch.diag_embed(ALIVE))
    for value in (t, t[..., 0]):
        flat = value.reshape(2, 5, -1)
        assert torch.equal(mask.sum(value), (mask.matrix().double() @ flat).reshape(value.shape))
    assert mask.mean(t, torch.ones(2, 5)) is t
    assert torch.equal(mask.pick(t), t)
    assert mask.groups().tolist() == [[0, -1, 2, 3, -1], [-1, 1, 2, -1, 4]]
    assert torch.equal(mask.spread(t, fill=-7.0), t.masked_fill(ALIVE[..., None] == 0, -7.0))
    assert mask.n_out == 5


def test_attention_to_a_mask_is_attention_without_the_masked_and_they_attend_to_themselves_too():
    q, k, v = random(3, 2, 4, 5, 8)
    found = attend(q, k, v, ALIVE.double(), masked=True)
    for b in range(2):
        for i in range(5):
            seen = [j for j in range(5) if ALIVE[b, j] or j == i]
            expected = attend(q[b, :, [i]], k[b][:, seen], v[b][:, seen], None)
            torch.testing.assert_close(found[b, :, [i]], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, attend(q, k, v, None), atol=1e-2)


def test_the_mask_gets_the_gradient_of_the_papers_formula_also_where_it_is_zero():
    q, k = random(2, 1, 1, 5, 8)
    size = ALIVE[:1].double().requires_grad_()
    masked_attention(q, k, size)[..., 2, :].pow(2).sum().backward()
    e = (q[0, 0, 2] @ k[0, 0].T / 8**0.5).exp()
    e = e / e.max()
    m = ALIVE[0].double().requires_grad_()
    own = torch.where(torch.arange(5) == 2, torch.ones(5).double(), m)
    row = (e * own + 1e-6 / 5) / ((e * own).sum() + 1e-6)
    row.pow(2).sum().backward()
    torch.testing.assert_close(size.grad[0], m.grad)
    assert (size.grad[0, [1, 4]] != 0).all()


@pytest.mark.parametrize("name", list(ANATOMIES))
def test_letting_go_by_a_mask_gives_the_logits_of_letting_go_for_real(name):
    build, size = ANATOMIES[name]
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    runs = []
    for masking in (True, False):
        model = awake(pt.adapt(build(0), [pt.DenseAdapter(width=4)], pt.EViT(blocks=(1,)))).eval()
        model.reducer = LetGo(masking)
        runs.append(model.run(images))
    masked, gone = runs
    torch.testing.assert_close(masked.logits, gone.logits, rtol=1e-2, atol=1e-3)  # the formula's eps
    assert (model.run(images, reduced=False).logits - gone.logits).abs().max() > 1e-2
    assert masked.tokens.patches == masked.tokens.grid[0] * masked.tokens.grid[1] > gone.tokens.patches
    assert torch.equal(masked.tokens.groups() < 0, gone.tokens.groups() < 0)
    assert not masked.tokens.size[:, masked.tokens.prefix :][(masked.tokens.groups() < 0)].any()
    assert [(step.block, step.when) for step in masked.tokens.trail] == [(1, "before"), (2, "middle")]


@pytest.mark.parametrize("pool", ["token", "avg", "max", "avgmax", "map"])
def test_every_pooling_ignores_the_masked_and_passes_a_finite_gradient_to_the_mask(pool):
    import timm

    torch.manual_seed(0)
    backbone = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, depth=3, embed_dim=32, num_heads=2, num_classes=5, global_pool=pool,
        class_token=pool == "token", no_embed_class=pool != "token",
    )  # fmt: skip
    model = pt.adapt(backbone, [], pt.EViT(blocks=(1,)))
    alive = (torch.arange(9) % 3 != 1).float().expand(2, -1).clone().requires_grad_()

    class Given(Reducer):
        def forward(self, block, look, tokens):
            if block != 1:
                return None
            if alive.requires_grad:
                return Mask.of(alive)
            keep = alive[0].nonzero().T
            return Merge(n_in=9, keep=keep, src=keep[:, :0], dst=keep[:, :0])

    model.reducer = Given()
    images = torch.randn(2, 3, 48, 48)
    masked = model(images)
    masked.square().sum().backward()
    assert alive.grad.isfinite().all()
    assert alive.grad.abs().sum() > 0
    alive = alive.detach()
    torch.testing.assert_close(masked, model(images), rtol=1e-3, atol=1e-4)
