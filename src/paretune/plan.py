"""`adapt` builds a model from a backbone, adapters, a reducer and a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from paretune.backbone import Backbone, describe
from paretune.config import choice_problems, type_problems
from paretune.core import anatomy, peft_modules
from paretune.core.body import AdapterSettings, Body
from paretune.core.leaf import Leafed
from paretune.core.method import Foreign, ReducerSettings, Shape
from paretune.core.model import Adapted
from paretune.core.target_units import Units
from paretune.data.task import Task, known_task
from paretune.errors import UsageError, quoted, refuse
from paretune.formats import MOST_CLASSES
from paretune.named_backbone import obtain


@dataclass(frozen=True)
class Spec:
    """The settings that an adapted model was made from. Together with the trained tensors they restore the model."""

    backbone: Backbone
    adapters: tuple[AdapterSettings, ...]
    reducer: ReducerSettings | None


def adapt(
    backbone: str | nn.Module,
    adapters: Sequence[AdapterSettings] = (),
    reducer: ReducerSettings | None = None,
    classes: int | Sequence[str] | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    task: Task = "multiclass",
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Adapted:
    """Build a model: a frozen backbone with adapters, a token reducer and a head.

    backbone: timm name, a name that leads to one such as `facebook/dinov2-small`, `hf-hub:` id, `paretune_tiny`, a
        folder of weights in the layout of Hugging Face, or a timm module. A module is changed in place, not copied; it
        may contain HF PEFT modules, which are then trained
    adapters: a list of settings such as `LoRA(rank=8)`; reducer: settings such as `FPET(block=6)`, or None
    classes: number or names of outputs for a new head, or None to keep the backbone's own head, frozen
    task: "multiclass" (one class per image), "multilabel" (any number of labels per image) or "regression" (numbers)
    image_size: side of the square input in pixels, or (height, width); the backbone's own by default
    pretrained, checkpoint, options: as in `timm.create_model`, e.g. `drop_path_rate=0.1`; checkpoint is a local file or
        folder of weights

    Raises UsageError, which lists all problems at once, if the parts do not fit.
    """
    if image_size is not None:
        if "img_size" in options:
            raise UsageError("image_size and img_size are the same: give one of them")
        options["img_size"] = image_size
    if isinstance(backbone, str):
        module, origin = obtain(backbone, pretrained, checkpoint, options)
        anatomy.check(module)
    else:
        if pretrained or checkpoint is not None or options:
            raise UsageError("the backbone is a module: load weights and set options where you create it")
        module = peft_modules.unwrap(backbone)
        anatomy.check(module)
        origin = describe(module)
    if not isinstance(adapters, (list, tuple)):
        raise UsageError(f"adapters={adapters!r}: give a list, such as [LoRA(rank=8)] or []")
    return assemble(module, origin, tuple(adapters), reducer, classes, task)


def assemble(
    module: Foreign,
    origin: Backbone,
    adapters: tuple[AdapterSettings, ...],
    reducer: ReducerSettings | None,
    classes: int | Sequence[str] | None,
    task: Task = "multiclass",
) -> Adapted:
    """Put adapters, reducer and head on an existing backbone."""
    names = class_names(classes, task)
    shape = anatomy.shape(module)
    check_methods(adapters, reducer, shape)
    if reducer is not None:
        anatomy.check_reducible(module)

    peft_tensors = peft_modules.trainable(module)
    module.requires_grad_(False)
    for tensor in peft_tensors:
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


def check_methods(adapters: tuple[AdapterSettings, ...], reducer: ReducerSettings | None, shape: Shape) -> None:
    """Raise one UsageError that lists everything that is wrong with these settings on a backbone of this shape."""
    problems = [f"adapters: {one!r} is none, write e.g. LoRA(rank=8)" for one in adapters if not _is_a(one, "attach")]
    if reducer is not None and not _is_a(reducer, "build"):
        problems.append(f"reducer: {reducer!r} is none, write e.g. FPET(block=6)")
    refuse(problems, "these are no methods")
    methods = [*adapters, *([] if reducer is None else [reducer])]
    for method in methods:
        problems += choice_problems(method) + (type_problems(method) or method.problems(shape))
    refuse(problems, "these settings do not fit the backbone")


def _is_a(method: object, what: str) -> bool:
    return is_dataclass(method) and not isinstance(method, type) and hasattr(method, what)


def class_names(classes: int | Sequence[str] | None, task: Task = "multiclass") -> list[str] | None:
    """Names of the outputs; a number n gives "0" ... "n-1".

    Raises UsageError for an unknown task, for repeated names, and for too few outputs: less than two classes, or less
    than one label or number.
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
