"""Loaded models of one backbone hold its frozen tensors once, and none of them can change another."""

import gc

import pytest
import timm
import torch
from anatomies import awake
from torch import nn

import paretune as pt
from paretune.frozen import fingerprint, split
from paretune.measure.cost import cost

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
RUNS = 10


def memory(models) -> int:
    """The bytes of all parameters and stored buffers, each place in memory counted once."""
    places = {}
    for model in models:
        for tensor in model.state_dict(keep_vars=True).values():
            places[torch._C._data_address(tensor)] = tensor.nbytes
    return sum(places.values())


def frozen_bytes(model) -> int:
    return sum(tensor.nbytes for tensor in split(model)[1].values())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ten runs on one backbone, with different adapters and heads."""
    torch.manual_seed(0)
    backbone = awake(timm.create_model("vit_tiny_patch16_224", **TINY)).state_dict()
    found = []
    for i in range(RUNS):
        module = timm.create_model("vit_tiny_patch16_224", **TINY)
        module.load_state_dict(backbone)
        adapters = [pt.LoRA(rank=1 + i % 3)] if i % 2 else [pt.AdaptFormer(width=4)]
        model = pt.adapt(module, adapters, classes=3)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(torch.randn_like(tensor), alpha=0.1) if tensor.requires_grad else None
        found.append(tmp_path_factory.mktemp("run"))
        pt.save(model, found[-1])
    return found


@pytest.fixture
def images():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_ten_models_hold_one_backbone(folders):
    models = [pt.load(folder) for folder in folders]
    trained = sum(sum(tensor.nbytes for tensor in split(model)[0].values()) for model in models)
    assert memory(models) == frozen_bytes(models[0]) + trained
    assert memory(models) < 2 * frozen_bytes(models[0])
    assert len({fingerprint(split(model)[1]) for model in models}) == 1
    assert memory(models) == frozen_bytes(models[0]) + trained, "the fingerprint reads, and ends no sharing"


def test_backbones_that_are_fetched_by_name_are_shared_too(tmp_path):
    for i in range(3):
        pt.save(pt.adapt("paretune_tiny", [pt.LoRA(rank=2)], classes=3, pretrained=True), tmp_path / str(i))
    models = [pt.load(tmp_path / str(i)) for i in range(3)]
    assert memory(models) < 1.2 * frozen_bytes(models[0])


def test_other_weights_are_not_shared(folders, tmp_path):
    one = pt.load(folders[0])
    pt.save(pt.adapt("vit_tiny_patch16_224", classes=3, **TINY), tmp_path)
    other = pt.load(tmp_path)
    assert memory([one, other]) == memory([one]) + memory([other])


def test_using_models_ends_no_sharing(folders, images):
    models = [pt.load(folder) for folder in folders[:4]]
    shared = memory(models)
    for model in models:
        with torch.inference_mode():
            model(images)
        with torch.autocast("cpu", torch.bfloat16):
            model.train()(images).sum().backward()
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        cost(model.eval())
    assert memory(models) == shared


def unfreeze(model):
    """Full fine-tuning of a model that was loaded frozen."""
    model.requires_grad_(True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        model(torch.randn(2, 3, 48, 48)).square().sum().backward()
        optimizer.step()


def overwrite(model):
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})


@torch.no_grad()
def write(model):
    model.backbone.cls_token.add_(1)
    model.backbone.norm.weight[0] = 5
    nn.init.zeros_(model.backbone.patch_embed.proj.weight)


def through_numpy(model):
    model.backbone.pos_embed.numpy()[:] = 7


CHANGES = {
    "merged": pt.merge, "halved": lambda m: m.half(), "moved": lambda m: m.to("meta"),
    "cast": lambda m: m.to(torch.bfloat16), "trained": unfreeze, "filled": overwrite, "written to": write,
    "written to by numpy": through_numpy, "emptied": lambda m: m.to_empty(device="cpu"),
    "in shared memory": lambda m: m.share_memory(),
}  # fmt: skip


@pytest.mark.parametrize("which", [0, 1, 2], ids=["first", "second", "last"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_one_model_leaves_its_siblings_as_they_were(folders, images, change, which):
    models = [pt.load(folder) for folder in folders[:3]]
    siblings = [model for i, model in enumerate(models) if i != which]
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in siblings]
    outputs = [model(images) for model in siblings]
    CHANGES[change](models[which])
    for sibling, tensors, logits in zip(siblings, before, outputs, strict=True):
        now = sibling.state_dict()
        assert all(torch.equal(now[name], tensor) for name, tensor in tensors.items())
        assert torch.equal(sibling(images), logits)


def test_a_merged_model_computes_the_same_and_frees_with_its_origin(folders, images):
    one, two = pt.load(folders[1]), pt.load(folders[3])
    merged = pt.merge(one)
    assert torch.allclose(merged(images), one(images), atol=1e-5)
    assert memory([one, two, merged]) == memory([one, two]) + memory([merged])
    expected = two(images)
    del one
    gc.collect()
    assert torch.equal(two(images), expected)


def test_a_changed_model_gives_its_memory_to_nobody(folders, images):
    one = pt.load(folders[0])
    expected = pt.load(folders[1])(images)
    unfreeze(one)
    two = pt.load(folders[1])
    write(one)
    assert torch.equal(two(images), expected)
    assert memory([one, two]) == memory([one]) + memory([two])


def test_models_that_are_gone_are_not_held(folders):
    import paretune.frozen as frozen

    gc.collect()
    before = len(frozen._LOADED)
    models = [pt.load(folder) for folder in folders[:3]]
    assert len(frozen._LOADED) == before + 3
    del models
    gc.collect()
    assert len(frozen._LOADED) == before
