"""What is asked for: a backbone, adapters, a reducer, a head - and how to train them. `adapt` puts it together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from paretune.adapters import AdaptFormer, DenseAdapter, Full, LoRA, RepAdapter
from paretune.backbone import Backbone, create, describe
from paretune.config import choice_problems, type_problems
from paretune.core import anatomy, guests
from paretune.core.body import Body
from paretune.core.leaf import Leafed
from paretune.core.method import Shape
from paretune.core.model import Adapted
from paretune.core.units import Units
from paretune.data.task import Task, known_task
from paretune.errors import UsageError, quoted, refuse, unknown
from paretune.formats import MOST_CLASSES
from paretune.reducers import FPET, DynamicViT, EViT, ToMe


@dataclass(frozen=True)
class Schedule:
    """How to train: AdamW on the trained tensors, linear warm-up, cosine."""

    epochs: int = 100
    """passes over the training images"""
    batch_size: int = 64
    """images per update"""
    lr: float = 1e-3
    """peak learning rate"""
    weight_decay: float = 1e-4
    """on every trained tensor"""
    warmup_epochs: float = 10
    """epochs of linear warm-up"""
    warmup_lr: float = 1e-6
    """learning rate at the start"""
    min_lr: float = 1e-5
    """learning rate at the end"""
    drop_path: float = 0.0
    """stochastic depth of the backbone, growing linearly to this rate at the last block"""
    label_smoothing: float = 0.0
    """label smoothing of the cross-entropy"""
    augment: Literal["none", "flip", "crop"] = "none"
    """training images: resized only, flipped too, or random crops flipped"""
    class_weights: Literal["none", "auto"] = "none"
    """auto weighs rare classes or labels up: a class by images / (classes * its images), the positives of a label by
    negatives / positives, from 0.01 to 100"""


@dataclass(frozen=True)
class Recipe:
    """A named setting: adapters x reducer x schedule."""

    name: str
    about: str
    adapters: tuple[Any, ...] = ()
    reducer: Any = None
    schedule: Schedule = field(default_factory=Schedule)

    def describe(self) -> str:
        """One line on what it is."""
        return self.about


# The papers' positions are shares of the depth, blocks 3, 6, 9 and 6 of 12, so the recipes fit ViT-L too.
# The papers' VTAB settings: AdamW 1e-3, weight decay 1e-4, 100 epochs of which 10 warm-up, batch 64, no augmentation.
# FPET's code trains with stochastic depth 0.1 and feeds images without mean and std; paretune keeps the backbone's own
# normalisation, which is what the weights were made for.
_DROP_PATH = Schedule(drop_path=0.1)
# Complete data sets (Sparse-Tuning on CIFAR-100, SVHN and Food-101). Its learning rate and batch are not published.
_FULL_DATA = Schedule(warmup_epochs=20, warmup_lr=0.0, min_lr=0.0, weight_decay=0.0, augment="crop")
_ALL = (
    Recipe(
        "sparse-tuning",
        "Dense Adapters of width 32 + EViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning)",
        (DenseAdapter(width=32),),
        EViT(keep=0.7),
    ),
    Recipe(
        "sparse-tuning-full-data",
        "the same with random crops and long warm-up, its setting for complete data sets",
        (DenseAdapter(width=32),),
        EViT(keep=0.7),
        _FULL_DATA,
    ),
    Recipe(
        "sparse-tuning-vtab",
        "the same at width 8, its setting for 1,000 images (VTAB-1K)",
        (DenseAdapter(width=8),),
        EViT(keep=0.7),
    ),
    Recipe(
        "sparse-tuning-tome",
        "Dense Adapters of width 8 + ToMe r=16, 10 of 196 patches are left",
        (DenseAdapter(width=8),),
        ToMe(r=16),
    ),
    Recipe(
        "sparse-tuning-dynamicvit",
        "Dense Adapters of width 32 + DynamicViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning, Table IV)",
        (DenseAdapter(width=32),),
        DynamicViT(keep=0.7),
    ),
    Recipe(
        "dynamicvit-adaptformer",
        "AdaptFormer of width 8 + DynamicViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning, Table IV)",
        (AdaptFormer(width=8, bias=True),),
        DynamicViT(keep=0.7),
    ),
    Recipe(
        "evit-adaptformer",
        "AdaptFormer of width 8 + EViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning, Table IV)",
        (AdaptFormer(width=8),),
        EViT(keep=0.7),
        _DROP_PATH,
    ),
    Recipe(
        "tome-lora",
        "LoRA rank 8 on q and v + ToMe, a twentieth of the patches in every block (FPET, Table 1: 8 of 196)",
        (LoRA(rank=8),),
        ToMe(r=0.05),
        _DROP_PATH,
    ),
    Recipe("fpet-lora", "LoRA rank 8 on q and v + FPET in block 6 of 12", (LoRA(rank=8),), FPET(), _DROP_PATH),
    Recipe(
        "fpet-adaptformer",
        "AdaptFormer of width 8 + FPET in block 6 of 12",
        (AdaptFormer(width=8),),
        FPET(),
        _DROP_PATH,
    ),
    Recipe("lora", "LoRA rank 8 on q and v, all tokens", (LoRA(rank=8),), None, _DROP_PATH),
    Recipe("adaptformer", "AdaptFormer of width 8, all tokens", (AdaptFormer(width=8),), None, _DROP_PATH),
    Recipe("fpet-repadapter", "RepAdapter of rank 8 + FPET in block 6 of 12", (RepAdapter(),), FPET(), _DROP_PATH),
    Recipe("repadapter", "RepAdapter of rank 8, all tokens", (RepAdapter(),), None, _DROP_PATH),
    Recipe(
        "fpet-bi-lora",
        "LoRA rank 32 on q and v, 1 bit a weight + FPET in block 6 of 12",
        (LoRA(rank=32, bits=1),),
        FPET(),
        _DROP_PATH,
    ),
    Recipe("bi-lora", "LoRA rank 32 on q and v, 1 bit a weight", (LoRA(rank=32, bits=1),), None, _DROP_PATH),
    Recipe(
        "fpet-bi-adaptformer",
        "AdaptFormer of width 32, 1 bit a weight + FPET in block 6 of 12",
        (AdaptFormer(width=32, bits=1),),
        FPET(),
        _DROP_PATH,
    ),
    Recipe(
        "bi-adaptformer", "AdaptFormer of width 32, 1 bit a weight", (AdaptFormer(width=32, bits=1),), None, _DROP_PATH
    ),
    Recipe("linear", "only the head trains"),
    Recipe("full", "everything trains", (Full(),), None, Schedule(lr=1e-4, drop_path=0.1)),
)
RECIPES = {one.name: one for one in _ALL}


def recipe(name: str) -> Recipe:
    """A recipe by name. Raises UsageError for an unknown one, with suggestions."""
    if name not in RECIPES:
        raise unknown("recipe", name, list(RECIPES))
    return RECIPES[name]


def recipes() -> list[str]:
    """The names of all recipes."""
    return list(RECIPES)


@dataclass(frozen=True)
class Spec:
    """What an adapted model is made of; with the trained tensors, enough to make it again."""

    backbone: Backbone
    adapters: tuple[Any, ...]
    reducer: Any


def adapt(
    backbone: str | nn.Module,
    adapters: Sequence[Any] = (),
    reducer: Any = None,
    classes: int | Sequence[str] | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    task: Task = "multiclass",
    **options: Any,
) -> Adapted:
    """A frozen backbone with adapters, a token reducer and a head.

    backbone: timm name, `hf-hub:` id, `paretune_tiny`, or a timm module; the module is taken over, not copied, and may
        hold HF PEFT modules, which then train
    adapters: settings such as `LoRA(rank=8)`, any number; reducer: settings such as `FPET(block=6)` or None
    classes: number or names of outputs for a new head, or None to keep the backbone's own head, frozen
    task: whether the outputs are classes of which one is right, labels of which any may be ("multilabel"), or target
        numbers ("regression")
    pretrained, checkpoint, options: as in `timm.create_model`, e.g. `img_size=384`; checkpoint is a local weights file

    Raises UsageError, all problems at once, if the parts do not fit.
    """
    if isinstance(backbone, str):
        module = create(backbone, pretrained, checkpoint, options)
        anatomy.check(module)
        source = "file" if checkpoint is not None else "pretrained" if pretrained else "random"
        origin = Backbone(backbone, source, options)
    else:
        if pretrained or checkpoint is not None or options:
            raise UsageError("the backbone is a module: load weights and set options where you create it")
        module = guests.unwrap(backbone)
        anatomy.check(module)
        origin = describe(module)
    if not isinstance(adapters, (list, tuple)):
        raise UsageError(f"adapters={adapters!r}: give a list, such as [LoRA(rank=8)] or []")
    return assemble(module, origin, tuple(adapters), reducer, classes, task)


def assemble(
    module: nn.Module,
    origin: Backbone,
    adapters: tuple[Any, ...],
    reducer: Any,
    classes: int | Sequence[str] | None,
    task: Task = "multiclass",
) -> Adapted:
    """Put adapters, reducer and head on a backbone that is ready."""
    names = class_names(classes, task)
    shape = anatomy.shape(module)
    check_methods(adapters, reducer, shape)
    if reducer is not None:
        anatomy.check_reducible(module)

    guest_tensors = guests.trainable(module)
    module.requires_grad_(False)
    for tensor in guest_tensors:
        tensor.requires_grad_(True)
    spec = Spec(origin, adapters, reducer)
    model = Adapted(module, None if reducer is None else reducer.build(shape), names, spec, task)
    body = Body(module, model.branches)
    for adapter in adapters:
        adapter.attach(body)
    if names is not None:
        module.reset_classifier(len(names))
        for head in anatomy.classifiers(module):
            head.requires_grad_(True)
        if task == "regression":
            anatomy.wrap_classifiers(module, lambda head: Leafed(head, Units(len(names))))
    return model.to(next(module.parameters()).device)


def check_methods(adapters: tuple[Any, ...], reducer: Any, shape: Shape) -> None:
    """Raise one UsageError that says all that is wrong with these settings on a backbone of this shape."""
    problems = [f"adapters: {one!r} is none, write e.g. LoRA(rank=8)" for one in adapters if not _is_a(one, "attach")]
    if reducer is not None and not _is_a(reducer, "build"):
        problems.append(f"reducer: {reducer!r} is none, write e.g. FPET(block=6)")
    refuse(problems, "these are no methods")
    methods = [*adapters, *([] if reducer is None else [reducer])]
    for method in methods:
        problems += choice_problems(method) + (type_problems(method) or method.problems(shape))
    refuse(problems, "these settings do not fit the backbone")


def _is_a(method: Any, what: str) -> bool:
    return is_dataclass(method) and not isinstance(method, type) and hasattr(method, what)


def class_names(classes: int | Sequence[str] | None, task: Task = "multiclass") -> list[str] | None:
    """Names of the outputs; a number n gives "0" ... "n-1".

    Raises UsageError for an unknown task, repeated names, and fewer than two classes, one label or one number.
    """
    if classes is None:
        if known_task(task) != "multiclass":
            raise UsageError(f"task='{task}' needs a new head: say by `classes` what its outputs are called")
        return None
    if not isinstance(classes, (int, list, tuple)):
        raise UsageError(f"classes={quoted(classes)}: give a number, a list of names, or None for the backbone's head")
    if (count := classes if isinstance(classes, int) else len(classes)) > MOST_CLASSES:
        raise UsageError(f"classes: {quoted(count)} of them, a head has at most {MOST_CLASSES:,} outputs")
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
    if (known_task(task) == "multiclass" and len(names) < 2) or len(set(names)) < len(names):
        raise UsageError(f"classes={quoted(classes)}: a head needs at least two different classes")
    if not names:
        raise UsageError(f"classes={quoted(classes)}: a head for the task '{task}' needs at least one output")
    return names
