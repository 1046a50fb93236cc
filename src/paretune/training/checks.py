"""What `fit` refuses before it begins."""

from __future__ import annotations

from typing import get_args

from paretune.catalogue import Schedule
from paretune.config import choice_problems, type_problems
from paretune.core.model import Adapted
from paretune.data.samples import Samples
from paretune.errors import UsageError, quoted, refuse, unknown
from paretune.training import tasks
from paretune.training.loop import Choice

PRECISIONS = ("no", "bf16", "fp16", "auto")
MOST = 10**6  # epochs, images in a batch...
# Upper limits of the schedule's numbers; the lower limit is 0. A learning rate that is far too high ends the run when
# the loss diverges.
RANGES = {"lr": 1e37, "warmup_lr": 1e37, "min_lr": 1e37, "weight_decay": 1e6, "drop_path": 1, "label_smoothing": 1,
          "mixup": 1e3, "cutmix": 1e3}  # fmt: skip


def check(
    model: Adapted, train_set: Samples, val_set: Samples, schedule: Schedule, mixed_precision: str | None,
    accumulate: int, look_every: int, seed: int, workers: int,
) -> None:  # fmt: skip
    """Raise UsageError if these settings cannot train this model on these data; all problems are said at once."""
    if mixed_precision is not None and mixed_precision not in PRECISIONS:
        raise unknown("mixed precision", mixed_precision, list(PRECISIONS))
    refuse(type_problems(schedule) + choice_problems(schedule), "cannot train")
    counts = {"epochs": schedule.epochs, "batch_size": schedule.batch_size, "accumulate": accumulate,
              "look_every": look_every}  # fmt: skip
    problems = [f"{name}={quoted(count)} must be at least 1" for name, count in counts.items() if count < 1]
    problems += [f"{name}={quoted(n)} must be at most {MOST:,}" for name, n in counts.items() if n > MOST]
    problems += [f"{name}={getattr(schedule, name):g} must be from 0 to {most:g}" for name, most in RANGES.items()
                 if not 0 <= getattr(schedule, name) <= most]  # fmt: skip
    if not 0 <= seed < 2**63:
        problems.append(f"seed={quoted(seed)} must be from 0 to 2^63 - 1")
    if not 0 <= workers <= 1024:
        problems.append(f"workers={quoted(workers)} must be from 0 to 1,024")
    if schedule.epochs >= 1 and not 0 <= schedule.warmup_epochs < schedule.epochs:
        problems.append(f"warmup_epochs={schedule.warmup_epochs:g} must be from 0 to below epochs={schedule.epochs}")
    if not any(p.requires_grad for p in model.parameters()):
        problems.append("the model has no trained tensor: give it an adapter or classes")
    if len(train_set) == 0 or len(val_set) == 0:
        problems.append("both the training and the validation set need images")
    if list(train_set.classes) != list(val_set.classes):
        problems.append("the training and the validation set have different classes")
    if model.classes is not None and len(model.classes) != len(train_set.classes):
        problems.append(f"the model has {len(model.classes)} classes, the data have {len(train_set.classes)}")
    if tasks.task_of(train_set) != tasks.task_of(val_set):
        problems.append("the training and the validation set have different tasks")
    wrong = tasks.mismatch(model, train_set)
    problems += [wrong] if wrong else tasks.problems(schedule, train_set)
    refuse(problems, "cannot train")


def check_choice(choose: str, patience: int | None) -> None:
    """Raise UsageError for an unknown way to choose the epoch, and for a patience below one epoch."""
    if patience is not None and patience < 1:
        raise UsageError(f"patience={quoted(patience)} must be at least 1 epoch")
    if choose not in get_args(Choice):
        raise unknown("way to choose the epoch", choose, list(get_args(Choice)))
