"""DynamicViT: predictors as published, masks in training, fewer tokens in evaluation, and losses that do their work."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from anatomies import ANATOMIES, awake
from torch import nn

import paretune as pt
from paretune.core import anatomy
from paretune.core.method import Shape
from paretune.core.reduction import Mask, Merge
from paretune.reducers import dynamicvit
from paretune.reducers.dynamicvit import Predictor, alive_after, drawn, kept, ratio_loss, tokens_loss
from paretune.training.objective import Objective
from paretune.training.tasks import categorical

SHAPE = Shape(depth=12, width=24, head_width=12, grid=(6, 6), prefix=1)


def build(reducer, name="vit", adapters=(), classes=5, seed=0):
    torch.manual_seed(seed)
    return awake(pt.adapt(ANATOMIES[name].build(seed), list(adapters), reducer, classes))


def pictures(name="vit", count=3, seed=2):
    return torch.randn(count, 3, *ANATOMIES[name].image_size, generator=torch.Generator().manual_seed(seed))


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def objective(model, images):
    """The losses of a training step whose labels are 0, 1, 2..."""
    return Objective(model.train(), nn.CrossEntropyLoss())(images, torch.arange(len(images)))


# ---------------------------------------------------------------------------------------------------------- predictors


def test_a_predictor_has_the_published_parameters_and_costs():
    assert sum(p.numel() for p in Predictor(768).parameters()) == 961_730
    with torch.device("meta"):
        backbone = pt.adapt("vit_base_patch16_224", [], pt.DynamicViT(0.7, (3,)))
        plain = pt.adapt("vit_base_patch16_224", [], None)
    without, counted = pt.cost(plain), pt.cost(backbone)
    assert counted.tokens == ((197, 197),) * 3 + ((138, 138),) * 9
    left = without.macs - 9 * (12 * 59 * 768**2 + 2 * (197**2 - 138**2) * 768)
    assert counted.macs == left + 196 * 958_848


def test_a_predictor_is_the_published_formula():
    predictor, x = awake(Predictor(24).double()), random(2, 7, 24)
    alive = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    norm, into, *_ = predictor.into
    a, b, c = (predictor.score[i] for i in (0, 2, 4))
    mean, spread = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    u = F.gelu(((x - mean) / (spread + 1e-5).sqrt() * norm.weight + norm.bias) @ into.weight.T + into.bias)
    rows = []
    for image in range(2):
        whole = sum(alive[image, i] * u[image, i, 12:] for i in range(7)) / (alive[image].sum() + 1e-6)
        for i in range(7):
            w = torch.cat([u[image, i, :12], whole])
            logits = c(F.gelu(b(F.gelu(a(w)))))
            rows.append(logits - logits.exp().sum().log())
    torch.testing.assert_close(predictor(x, alive), torch.stack(rows).view(2, 7, 2))


def test_a_predictor_does_not_see_who_was_let_go_but_in_their_own_row():
    predictor, x = awake(Predictor(24).double()), random(1, 5, 24)
    alive = torch.tensor([[1.0, 0, 1, 1, 0]])
    other = torch.where(alive[..., None] == 0, random(1, 5, 24, seed=1), x)
    one, two = predictor(x, alive), predictor(other, alive)
    assert torch.equal(one[alive == 1], two[alive == 1])
    assert (one[alive == 0] - two[alive == 0]).abs().min() > 1e-4
    assert predictor(x, torch.zeros(1, 5)).isfinite().all()


@pytest.mark.parametrize("width", [25, 26, 27])
def test_widths_that_four_does_not_divide_are_rounded_down(width):
    predictor = Predictor(width)
    assert [layer.out_features for layer in predictor.score if isinstance(layer, nn.Linear)] == [width // 2, 6, 2]
    assert predictor(torch.randn(2, 5, width), torch.ones(2, 5)).exp().sum(-1).allclose(torch.ones(2, 5))


def test_scores_are_those_of_float32_also_under_autocast():
    predictor, x, alive = awake(Predictor(24)), torch.randn(2, 5, 24), torch.ones(2, 5)
    scores = predictor(x, alive)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(predictor(x, alive), scores)


@pytest.mark.parametrize(("dtype", "found"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_models_made_in_other_types_score_too(dtype, found):
    scores = awake(Predictor(24)).to(dtype)(torch.randn(2, 5, 24, dtype=dtype), torch.ones(2, 5))
    assert scores.dtype == found


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    ("keep", "patches", "left"),
    [
        (0.9, 196, (176, 158, 142)),
        (0.8, 196, (156, 125, 100)),
        (0.7, 196, (137, 96, 67)),
        (0.5, 196, (98, 49, 24)),
        (0.7, 90, (63, 44, 30)),  # floor(0.7 * 90) is 63, its binary fraction lies below
        (0.1, 16, (1, 1, 1)),
        (1.0, 49, (49, 49, 49)),
    ],
)
def test_the_documented_patches_are_left(keep, patches, left):
    assert tuple(kept(keep, stage, patches) for stage in (1, 2, 3)) == left


@pytest.mark.parametrize(("depth", "blocks"), [(12, (3, 6, 9)), (24, (6, 12, 18)), (4, (1, 2, 3)), (1, (0,))])
def test_by_default_the_predictors_stand_at_a_quarter_half_and_three_quarters_of_the_depth(depth, blocks):
    assert pt.DynamicViT().build(replace(SHAPE, depth=depth)).blocks == blocks
    assert pt.DynamicViT(blocks=(2, 0, 2)).build(replace(SHAPE, depth=3)).blocks == (0, 2)


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "dinov2_registers", "siglip", "not_square", "rope_mixed"])
def test_evaluation_keeps_the_best_patches_in_raster_order_and_drops_the_others(name):
    model = build(pt.DynamicViT(keep=0.6, blocks=(0, 2)), name).eval()
    run = model.run(pictures(name))
    grid = run.tokens.grid[0] * run.tokens.grid[1]
    (first, one, place), (second, two, _) = run.tokens.trail
    assert (first, second, place) == (0, 2, "before")
    assert (one.n_out, two.n_out) == (int(0.6 * grid), int(0.36 * grid))
    assert isinstance(one, Merge)
    assert not one.src.shape[1]
    groups = run.tokens.groups()
    assert torch.equal((groups >= 0).sum(1), torch.full((3,), two.n_out))
    assert (groups[groups >= 0].view(3, -1).diff(dim=1) == 1).all()

    patches = anatomy.embed(model.backbone, pictures(name)).x[:, run.tokens.prefix :]
    scores = model.reducer.predictors[0](patches, torch.ones(3, grid))[..., 0]
    assert torch.equal(one.keep, scores.topk(one.n_out).indices.sort().values)


def test_keeping_all_leaves_the_model_as_it_is_but_trains_its_predictors():
    model = build(pt.DynamicViT(keep=1.0)).eval()
    run = model.run(pictures())
    assert run.tokens.trail == ()
    assert torch.equal(run.logits, model.run(pictures(), reduced=False).logits)
    assert len(model.train().run(pictures()).tokens.trail) == 3


@pytest.mark.parametrize("name", list(ANATOMIES))
def test_masked_in_training_is_gone_in_evaluation_where_the_decisions_are_the_same(name, monkeypatch):
    model = build(pt.DynamicViT(keep=0.6, blocks=(1, 3)), name, [pt.DenseAdapter(width=4)]).eval()
    gone = model.run(pictures(name))
    partial = replace(gone.tokens, trail=gone.tokens.trail[:1])
    decisions = iter([(partial.groups() >= 0).float(), (gone.tokens.groups() >= 0).float()])
    monkeypatch.setattr(dynamicvit, "drawn", lambda scores, alive: next(decisions))
    seen = []
    for predictor in model.reducer.predictors:
        predictor.register_forward_hook(lambda module, args, scores: seen.append(scores))
    model.run(pictures(name))
    model.reducer.train()
    masked = model.run(pictures(name))
    torch.testing.assert_close(masked.logits, gone.logits, rtol=1e-3, atol=1e-4)
    alive = partial.groups() >= 0  # who is left scores the same at the second predictor
    torch.testing.assert_close(seen[3][alive].view(3, -1, 2), seen[1], rtol=1e-3, atol=1e-4)
    assert masked.tokens.patches > gone.tokens.patches


# -------------------------------------------------------------------------------------------------------------- masks


def test_patches_are_drawn_as_often_as_the_predictor_says_and_the_decision_is_hard():
    scores = torch.tensor([[0.1, 2.0], [1.0, 0.0], [3.0, -1.0], [0.0, 0.0]]).log_softmax(-1).expand(20_000, -1, -1)
    alive = drawn(scores, torch.ones(20_000, 4))
    assert set(alive.unique().tolist()) == {0.0, 1.0}
    # nobody is the last one here: the fourth of a thousand images where all would go does not show
    torch.testing.assert_close(alive.mean(0), scores[0, :, 0].exp(), atol=0.02, rtol=0)


def test_the_gradient_of_a_draw_is_that_of_the_soft_decision():
    scores = random(2, 6, 2).log_softmax(-1).requires_grad_()
    torch.manual_seed(5)
    (drawn(scores, torch.ones(2, 6)) * torch.arange(1, 13).view(2, 6)).sum().backward()
    hard, scores.grad = scores.grad, None
    torch.manual_seed(5)
    noise = -torch.empty_like(scores).exponential_().log()
    (((scores + noise).softmax(-1)[..., 0]) * torch.arange(1, 13).view(2, 6)).sum().backward()
    torch.testing.assert_close(hard, scores.grad)
    assert hard.abs().min() > 0


def test_the_last_patches_alive_are_never_all_let_go():
    scores = torch.tensor([-30.0, 0.0]).expand(50, 9, 2)
    alive = torch.zeros(50, 9)
    alive[:, 4:6] = 1.0
    left = drawn(scores, alive) * alive
    assert torch.equal(left.sum(1), torch.ones(50))
    assert (left[:, 4:6].sum(0) > 5).all()
    unsure = drawn(torch.tensor([-1.0, 0.0]).expand(500, 2, 2), torch.ones(500, 2))
    assert set(unsure.unique().tolist()) == {0.0, 1.0}  # exactly: sizes that are nearly 1 would pile up
    assert (unsure.sum(1) >= 1).all()


def test_every_decision_counts_once_in_the_size_of_a_patch(monkeypatch):
    first, second = (torch.randint(2, (3, 36)).float().requires_grad_() for _ in range(2))
    decisions = iter([first, second])
    monkeypatch.setattr(dynamicvit, "drawn", lambda scores, alive: next(decisions))
    tokens = build(pt.DynamicViT(blocks=(1, 2))).train().run(pictures()).tokens
    assert torch.equal(tokens.size[:, 1:], first * second)
    tokens.size.sum().backward()
    assert torch.equal(first.grad, second)
    assert torch.equal(second.grad, first)


def test_who_was_let_go_stays_let_go_and_the_prefix_never_is():
    model = build(pt.DynamicViT(keep=0.5, blocks=(0, 1, 3)), "dinov2_registers").train()
    tokens = model.run(pictures("dinov2_registers", 8)).tokens
    stages = alive_after(tokens)
    assert stages.shape == (3, 8, 25)
    assert all(isinstance(step.reduction, Mask) and step.when == "before" for step in tokens.trail)
    assert (stages[1:] <= stages[:-1]).all()
    assert stages[0].sum() > stages[1].sum() > stages[2].sum() > 0
    assert torch.equal(tokens.size[:, tokens.prefix :], stages[-1])
    assert torch.equal(tokens.size[:, : tokens.prefix], torch.ones(8, 5))
    assert torch.equal(tokens.groups() >= 0, stages[-1] > 0)
    again = alive_after(model.run(pictures("dinov2_registers", 8)).tokens)
    assert not torch.equal(stages, again)


# ------------------------------------------------------------------------------------------------------------- losses


def test_the_ratio_loss_is_counting_by_hand():
    alive = torch.tensor([[[1.0, 1, 1, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [1, 0, 0, 0]]])
    found = ratio_loss(alive, keep=0.5)
    assert found.item() == pytest.approx(((0.75 - 0.5) ** 2 + (0.25 - 0.5) ** 2 + 2 * (0.25 - 0.25) ** 2) / 4)


def test_the_distillation_losses_are_counting_by_hand():
    student, teacher = random(3, 4), random(3, 4, seed=1)
    p, q = student.softmax(-1), teacher.softmax(-1)
    by_hand = sum((q[b, c] * math.log(q[b, c] / p[b, c])).item() for b in range(3) for c in range(4)) / 3
    assert categorical(student, teacher).item() == pytest.approx(by_hand)
    assert categorical(teacher, teacher).item() == pytest.approx(0, abs=1e-12)

    x, y, alive = random(2, 3, 5), random(2, 3, 5, seed=1), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    squares = [(x[b, i, c] - y[b, i, c]).item() ** 2 for b, i in ((0, 0), (0, 2), (1, 1)) for c in range(5)]
    x, alive = x.requires_grad_(), alive.requires_grad_()
    loss = tokens_loss(x, y, alive)
    assert loss.item() == pytest.approx(sum(squares) / 15)
    loss.backward()
    assert x.grad.any()
    assert alive.grad is None


def test_the_losses_of_a_step_are_the_weighted_formulas_over_its_two_forwards():
    config = pt.DynamicViT(keep=0.6, blocks=(1, 2), ratio=3.0, distill_logits=0.25, distill_tokens=0.125)
    model, images = build(config, adapters=[pt.LoRA(rank=2)]), pictures()
    torch.manual_seed(7)
    losses = objective(model, images)
    assert model.training
    assert model.backbone.training
    torch.manual_seed(7)
    run, teacher = model.run(images), model.eval().run(images, reduced=False)
    alive = alive_after(run.tokens)
    expected = {
        "loss": F.cross_entropy(run.logits, torch.arange(3)),
        "ratio": 3.0 * ratio_loss(alive, 0.6),
        "distill_logits": 0.25 * categorical(run.logits, teacher.logits),
        "distill_tokens": 0.125 * tokens_loss(run.features[:, 1:], teacher.features[:, 1:], alive[-1]),
    }
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=name)
        assert losses[name] > 0


def test_the_teacher_is_the_model_with_all_its_tokens_in_evaluation_and_without_a_gradient():
    model, seen = build(pt.DynamicViT(), adapters=[pt.LoRA(rank=2, dropout=0.5)]), []
    model.reducer.losses = lambda run, teacher, divergence: seen.append(teacher) or {}
    objective(model, pictures())
    (teacher,) = seen
    assert not teacher.logits.requires_grad
    assert not teacher.features.requires_grad
    assert teacher.tokens.trail == ()
    assert all(module.training for module in model.modules())
    assert torch.equal(teacher.logits, model.eval().run(pictures(), reduced=False).logits)


@pytest.mark.parametrize(
    ("weights", "names", "forwards"),
    [
        ({}, ["loss", "ratio", "distill_logits", "distill_tokens"], ["with gradient", "without"]),
        ({"distill_tokens": 0.0}, ["loss", "ratio", "distill_logits"], ["with gradient", "without"]),
        ({"distill_logits": 0.0, "distill_tokens": 0.0}, ["loss", "ratio"], ["with gradient"]),
        ({"ratio": 0.0, "distill_logits": 0.0, "distill_tokens": 0.0}, ["loss"], ["with gradient"]),
    ],
)
def test_a_loss_without_weight_is_not_computed_and_no_teacher_runs_for_nobody(weights, names, forwards):
    model, seen = build(pt.DynamicViT(**weights)), []
    model.backbone.norm.register_forward_hook(
        lambda *_: seen.append("with gradient" if torch.is_grad_enabled() else "without")
    )
    assert list(objective(model, pictures())) == names
    assert seen == forwards  # in this order: see the objective


@pytest.mark.parametrize("name", list(ANATOMIES))
def test_every_trained_tensor_gets_a_finite_gradient_from_every_loss_that_it_can_reach(name):
    model = build(pt.DynamicViT(keep=0.6, blocks=(1, 2)), name, [pt.AdaptFormer(width=16)])
    for loss, value in objective(model, pictures(name)).items():
        model.zero_grad()
        value.backward(retain_graph=True)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        without = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained.values()), loss
        if loss == "ratio":  # the counts know nothing of what comes after the last predictor
            assert [name for name in without if name.startswith("reducer")] == []
            assert [name for name in trained if name.startswith("branches") and name not in without]
        else:
            heads = {"distill_tokens": ("head", "attn_pool", "fc_norm")}.get(loss, ())
            assert [name for name in without if not any(part in name for part in heads)] == [], loss


def test_the_ratio_loss_alone_drives_the_share_of_patches_to_its_targets():
    model = build(pt.DynamicViT(keep=0.6, blocks=(1, 2, 3), distill_logits=0.0, distill_tokens=0.0))
    optimizer = torch.optim.Adam(model.reducer.parameters(), lr=3e-3)
    shares, images = [], pictures(count=8)
    for _ in range(120):
        run = model.train().run(images)
        sum(model.reducer.losses(run, None, categorical).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(alive_after(run.tokens).detach().mean((1, 2)))
    before, after = torch.stack(shares[:5]).mean(0), torch.stack(shares[-30:]).mean(0)
    wanted = torch.tensor([0.6, 0.36, 0.216])
    assert (after - wanted).abs().max() < 0.03
    assert (before - wanted).abs().max() > 0.08


@pytest.mark.parametrize("setting", ["checkpointing", "bf16"])
def test_checkpointing_and_autocast_train_like_the_plain_model(setting):
    gradients = []
    for special in (False, True):
        model = build(pt.DynamicViT(keep=0.6, blocks=(1, 2)), adapters=[pt.LoRA(rank=2), pt.DenseAdapter(width=8)])
        model.backbone.set_grad_checkpointing(special and setting == "checkpointing")
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=special and setting == "bf16"):
            losses = objective(model, pictures(count=4))
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        sum(losses.values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, found = gradients
    for name, gradient in plain.items():
        assert gradient.any(), name
        if setting == "checkpointing":
            torch.testing.assert_close(found[name], gradient, msg=name)
        else:
            assert F.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.5, name


# ---------------------------------------------------------------------------------------------- settings, cost, recipes


@pytest.mark.parametrize(
    ("reducer", "message"),
    [
        (pt.DynamicViT(keep=0.0), "DynamicViT keep=0.0: must be above 0 and at most 1"),
        (pt.DynamicViT(keep=float("nan")), "DynamicViT keep=nan"),
        (pt.DynamicViT(blocks=(1, 4)), r"DynamicViT blocks=\(1, 4\): the backbone has blocks 0 to 3"),
        (pt.DynamicViT(blocks=()), r"DynamicViT blocks=\(\): needs at least one block"),
        (pt.DynamicViT(ratio=-1.0), "DynamicViT ratio=-1.0: must be a number from 0 up"),
        (pt.DynamicViT(distill_tokens=float("nan")), "DynamicViT distill_tokens=nan"),
        (pt.DynamicViT(distill_logits=float("inf")), "DynamicViT distill_logits=inf"),
    ],
)
def test_settings_that_cannot_be_are_refused(reducer, message):
    with pytest.raises(pt.UsageError, match=message):
        pt.adapt(ANATOMIES["vit"].build(0), [], reducer)


def test_deit_base_at_keep_0_7_costs_11_475_gmacs_with_its_predictors():
    with torch.device("meta"):
        model = pt.adapt("deit_base_patch16_224", [], pt.DynamicViT(0.7, (3, 6, 9)), num_classes=0)
    counted = pt.cost(model)
    assert round(counted.macs / 1e9, 3) == 11.475
    assert [counted.tokens[block] for block in (2, 3, 6, 9)] == [(197, 197), (138, 138), (97, 97), (68, 68)]
    assert counted.trained == 3 * 961_730


@pytest.mark.parametrize(
    ("recipe", "trained"),
    [("sparse-tuning-dynamicvit", 1_091_584 + 2_885_190), ("dynamicvit-adaptformer", 156_768 + 2_885_190)],
)
def test_the_recipes_train_their_adapters_and_three_predictors(recipe, trained):
    """AdaptFormer + DynamicViT is "3.1 M" in Sparse-Tuning's Table IV; its own row there leaves the predictors out."""
    one = pt.recipe(recipe)
    with torch.device("meta"):
        counted = pt.cost(pt.adapt("vit_base_patch16_224", one.adapters, one.reducer, classes=10))
    assert counted.trained_without_head == trained
    assert counted.tokens[-1] == (68, 68)
