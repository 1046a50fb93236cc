"""Settings to and from JSON, their help texts, and what is refused."""

import dataclasses
import json
import types
import typing

import pytest
from anatomies import ANATOMIES

import paretune as pt
from paretune.adapters import ADAPTERS
from paretune.config import field_help, from_json, to_json
from paretune.core import anatomy
from paretune.core.method import Shape
from paretune.errors import UsageError
from paretune.reducers import REDUCERS

METHODS = (*ADAPTERS, *REDUCERS)
every_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)


def other_values(kind):
    """For every field a value that is not its default, and every kind of value that its type allows."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for allowed in typing.get_args(hints[field.name]) if is_union(hints[field.name]) else [hints[field.name]]:
            if allowed is types.NoneType and field.default is None:
                continue
            yield field.name, other(allowed, field.default)


def is_union(hint):
    return isinstance(hint, types.UnionType)


def other(hint, default):
    if typing.get_origin(hint) is typing.Literal:
        return next(value for value in typing.get_args(hint) if value != default)
    if typing.get_origin(hint) is tuple:
        return (5, 1)
    by_type = {bool: lambda: not default, int: lambda: (default or 0) + 1, float: lambda: default / 3 or 0.1}
    return (by_type | {str: lambda: "k fc2", types.NoneType: lambda: None})[hint]()


@every_method
def test_settings_survive_json_with_every_field_at_another_value(kind):
    plain = kind()
    assert from_json(json.loads(json.dumps(to_json(plain))), METHODS) == plain
    for name, value in other_values(kind):
        changed = dataclasses.replace(plain, **{name: value})
        assert changed != plain
        back = from_json(json.loads(json.dumps(to_json(changed))), METHODS)
        assert back == changed
        assert hash(back) == hash(changed)


@every_method
def test_json_names_the_kind_and_every_field(kind):
    described = to_json(kind())
    assert described == {"kind": kind.__name__, **{f.name: getattr(kind(), f.name) for f in dataclasses.fields(kind)}}


@every_method
def test_missing_fields_take_their_defaults(kind):
    assert from_json({"kind": kind.__name__}, METHODS) == kind()


@pytest.mark.parametrize("kind", [*METHODS, pt.Schedule], ids=lambda kind: kind.__name__)
def test_every_field_has_a_help_text(kind):
    texts = field_help(kind)
    assert list(texts) == [field.name for field in dataclasses.fields(kind)]
    assert all(text and "\n" not in text for text in texts.values())


def test_defaults_are_the_settings_of_the_papers():
    assert pt.LoRA() == pt.LoRA(rank=8, scale=1.0, dropout=0.1, at="q v")
    assert pt.AdaptFormer() == pt.AdaptFormer(width=8, scale=1.0, bias=False, dropout=0.1)
    assert pt.DenseAdapter() == pt.DenseAdapter(width=32, scale=1.0, fuse="inner", carry="activation")
    assert pt.EViT() == pt.EViT(keep=0.7, rest="merge", normalise=True)
    assert pt.ToMe() == pt.ToMe(r=8, proportional=True)
    assert pt.FPET() == pt.FPET(
        split="checkerboard", refine_width=32, refine_bits=1, stop_gradient=True, proportional=True
    )


def test_defaults_reduce_where_the_papers_do():
    shape = Shape(depth=12, width=768, head_width=64, grid=(14, 14), prefix=1)
    assert pt.EViT().build(shape).blocks == {3, 6, 9}
    assert pt.FPET().build(shape).blocks == (6,)
    assert pt.DenseAdapter().sources(11, shape) == [10, 8]


@every_method
def test_settings_are_frozen_and_hashable(kind):
    settings = kind()
    assert hash(settings) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.anything = 1


@pytest.mark.parametrize(("asked", "near"), [("LoRa", "LoRA"), ("FPTE", "FPET"), ("DenseAdaptr", "DenseAdapter")])
def test_an_unknown_kind_is_refused_with_a_suggestion(asked, near):
    with pytest.raises(pt.UsageError, match=f"unknown method '{asked}': did you mean .*{near}"):
        from_json({"kind": asked}, METHODS)


def test_a_kind_unlike_any_other_is_refused_with_all_that_are_known():
    with pytest.raises(pt.UsageError) as refusal:
        from_json({"kind": "xyz"}, METHODS)
    assert all(kind.__name__ in str(refusal.value) for kind in METHODS)
    with pytest.raises(pt.UsageError, match="unknown method ''"):
        from_json({"rank": 8}, METHODS)


def test_an_unknown_field_is_refused_with_a_suggestion():
    with pytest.raises(pt.UsageError, match="unknown setting of LoRA 'rnak': did you mean rank"):
        from_json({"kind": "LoRA", "rnak": 8}, METHODS)
    with pytest.raises(pt.UsageError, match="unknown setting of FPET 'refine_witdh': did you mean refine_width"):
        from_json({"kind": "FPET", "refine_witdh": 8}, METHODS)


# ------------------------------------------------------------------------------------------------------------ refusals

WRONG = [  # on a backbone of 4 blocks, width 24, 6x6 patches: settings, and what the message must say
    (pt.LoRA(rank=0), "LoRA rank=0: must be 1 to 24"),
    (pt.LoRA(rank=25), "LoRA rank=25: must be 1 to 24"),
    (pt.LoRA(dropout=1.0), r"LoRA dropout=1.0: must be in \[0, 1\)"),
    (pt.LoRA(dropout=-0.1), "LoRA dropout=-0.1"),
    (pt.LoRA(at=" "), "LoRA at=''"),
    (pt.LoRA(at="q vv"), "'vv': did you mean v"),
    (pt.AdaptFormer(width=0), "AdaptFormer width=0: must be at least 1"),
    (pt.AdaptFormer(dropout=1.5), "AdaptFormer dropout=1.5"),
    (pt.DenseAdapter(width=-1), "DenseAdapter width=-1: must be at least 1"),
    (pt.DenseAdapter(carry="all"), "DenseAdapter carry='all': must be 'activation' or 'output'"),
    (pt.EViT(keep=0.0, blocks=(1,)), "EViT keep=0.0: must be above 0 and at most 1"),
    (pt.EViT(keep=1.01, blocks=(1,)), "EViT keep=1.01"),
    (pt.EViT(keep=float("nan"), blocks=(1,)), "EViT keep=nan"),
    (pt.EViT(blocks=(1, 4)), r"EViT blocks=\(1, 4\): the backbone has blocks 0 to 3"),
    (pt.EViT(blocks=(-1,)), "EViT blocks="),
    (pt.EViT(blocks=(1,), rest="keep"), "EViT rest='keep': must be 'merge', 'argmax' or 'drop'"),
    (pt.ToMe(r=19), "ToMe r=19: 36 patches form 0 to 18 pairs"),
    (pt.ToMe(r=-1), "ToMe r=-1"),
    (pt.ToMe(r=(0, 18, 10)), "ToMe r=10 at block 2: the 18 patches left form 0 to 9 pairs"),
    (pt.ToMe(r=(1, -2)), "ToMe r=-2 at block 1"),
    (pt.ToMe(r=(1,) * 5), "ToMe r has 5 entries, the backbone has 4 blocks"),
    (pt.FPET(block=4), "FPET block=4: the backbone has blocks 0 to 3"),
    (pt.FPET(block=-1), "FPET block=-1"),
    (pt.FPET(block=1, split="rows"), "FPET split='rows': must be 'checkerboard' or 'alternate'"),
    (pt.FPET(block=1, refine_width=-1), "FPET refine_width=-1: must be at least 0"),
    (pt.FPET(block=1, refine_bits=3), r"FPET refine_bits=3: must be one of \(1, 2, 4, 8\)"),
]


def adapt(method):
    backbone = ANATOMIES["vit"].build(0)
    return pt.adapt(backbone, [], method) if isinstance(method, REDUCERS) else pt.adapt(backbone, [method])


@pytest.mark.parametrize(("method", "says"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_values_are_refused_by_name(method, says):
    with pytest.raises(pt.UsageError, match=says):
        adapt(method)


@pytest.mark.parametrize(
    "method",
    [pt.LoRA(rank=24), pt.LoRA(at="q k v proj fc1 fc2"), pt.EViT(keep=1.0, blocks=(0, 3)), pt.EViT(1e-6, (3,)),
     pt.ToMe(r=18), pt.ToMe(r=0), pt.ToMe(r=(18, 9, 4, 2)), pt.FPET(block=0), pt.FPET(block=3)],
    ids=str,
)  # fmt: skip
def test_the_last_values_that_make_sense_are_taken(method):
    assert method.problems(anatomy.shape(ANATOMIES["vit"].build(0))) == []
    adapt(method)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (pt.ToMe(r=(1, "two")), r"ToMe r=\(1, 'two'\): must be of type"),
        (pt.EViT(blocks=(1, True)), r"EViT blocks=\(1, True\): must be of type"),
        (pt.LoRA(blocks=(0, float("nan"))), r"LoRA blocks=\(0, nan\): must be of type"),
        (pt.LoRA(blocks=(0, 10**7)), r"LoRA blocks=\(0, 10000000\): must be from -1,000,000 to 1,000,000"),
        (pt.ToMe(r=(1, -(10**30))), r"ToMe r=.*: must be from -1,000,000 to 1,000,000"),
    ],
)
def test_the_entries_of_tuples_are_checked_like_single_values(method, says):
    with pytest.raises(pt.UsageError, match=says):
        adapt(method)


def test_all_problems_are_reported_at_once():
    adapters = [pt.LoRA(rank=0, dropout=2.0), pt.AdaptFormer(width=0), pt.DenseAdapter(width=0, carry="x")]
    with pytest.raises(pt.UsageError) as refusal:
        pt.adapt(ANATOMIES["vit"].build(0), adapters, pt.EViT(keep=0, blocks=(9,), rest="x"))
    for problem in ("LoRA rank=0", "LoRA dropout=2.0", "AdaptFormer width=0", "DenseAdapter width=0", "carry='x'",
                    "EViT keep=0", "EViT blocks=(9,)", "EViT rest='x'"):  # fmt: skip
        assert problem in str(refusal.value)


def test_a_refusal_leaves_the_backbone_as_it_was():
    backbone = ANATOMIES["vit"].build(0)
    names = [name for name, _ in backbone.named_modules()]
    for adapters, reducer in (([pt.LoRA(rank=0)], None), ([pt.LoRA()], pt.ToMe(r=99)), ([], pt.FPET(block=9))):
        with pytest.raises(pt.UsageError):
            pt.adapt(backbone, adapters, reducer)
    assert [name for name, _ in backbone.named_modules()] == names
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("classes", [0, 1, ["cat"], ["cat", "cat"]], ids=str)
def test_fewer_than_two_different_classes_are_refused(classes):
    with pytest.raises(pt.UsageError, match="at least two different classes"):
        pt.adapt(ANATOMIES["vit"].build(0), classes=classes)


def test_an_unknown_recipe_is_refused_with_a_suggestion():
    with pytest.raises(pt.UsageError, match="unknown recipe 'sparse-tunning': did you mean sparse-tuning"):
        pt.recipe("sparse-tunning")
    assert all(pt.recipe(name).name == name for name in pt.recipes())


def test_a_public_name_means_the_same_every_time_it_is_used():
    for name in pt.__all__:
        first = getattr(pt, name)
        assert not isinstance(first, types.ModuleType), f"paretune.{name} is a module"
        assert getattr(pt, name) is first


def test_a_recipe_in_some_blocks_is_told_by_its_name():
    late = pt.recipe("sparse-tuning-vtab@8-11")
    assert (late.name, late.adapters[0].blocks) == ("sparse-tuning-vtab@8-11", (8, 9, 10, 11))
    assert late.reducer == pt.recipe("sparse-tuning-vtab").reducer
    for name, sentence in (
        ("lroa@8-11", "did you mean lora"),
        ("lora@11-8", "as in lora@8-11"),
        ("lora@", "as in lora@8-11"),
        ("linear@8-11", "no adapter that can be put in some blocks"),
    ):
        with pytest.raises(UsageError, match=sentence):
            pt.recipe(name)
