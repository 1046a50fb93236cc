"""A run from start to finish: check, train or resume, keep the best epoch, write the record."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from paretune.catalogue import Schedule
from paretune.checkpoint import described, fingerprint, save, split
from paretune.config import choice_problems, type_problems
from paretune.core.memory import known
from paretune.core.model import Adapted
from paretune.data.samples import Samples
from paretune.errors import UsageError, quoted, refuse, unknown
from paretune.machine import environment
from paretune.train import tasks
from paretune.train.device import pick_device
from paretune.train.log import Log
from paretune.train.memory import keeping
from paretune.train.record import describe
from paretune.train.runfolder import EPOCH, LOGS, RunFolder
from paretune.train.training import Choice, Training

PRECISIONS = ("no", "bf16", "fp16")
MOST = 10**6  # epochs, images in a batch...
# Upper limits of the schedule's numbers; the lower limit is 0. A learning rate that is far too high ends the run when
# the loss diverges.
RANGES = {"lr": 1e37, "warmup_lr": 1e37, "min_lr": 1e37, "weight_decay": 1e6, "drop_path": 1, "label_smoothing": 1}


@dataclass(frozen=True)
class Result:
    """A finished run. `record` is the content of record.json; `history` has one row per epoch.

    `score` and `loss` belong to the best epoch, on the validation images; `metric` is the name of the score.
    """

    out: Path
    metric: str
    best_epoch: int
    score: float | None
    loss: float
    seconds: float
    history: list[dict]
    record: dict

    @property
    def accuracy(self) -> float:
        """The score of a task whose score is the accuracy; AttributeError for others."""
        if self.metric != "accuracy":
            raise AttributeError(f"this training was scored by {self.metric}, not by accuracy: read `score`")
        assert self.score is not None, "every answer is right or wrong"
        return self.score

    def to_dict(self) -> dict:
        """JSON values: what `paretune train --json` prints."""
        return {
            "out": str(self.out),
            "best_epoch": self.best_epoch,
            f"val_{self.metric}": self.score,
            "val_loss": self.loss,
            "seconds": self.seconds,
            "history": self.history,
        }


def fit(
    model: Adapted,
    train_set: Samples,
    val_set: Samples,
    schedule: Schedule,
    out: str | Path,
    *,
    seed: int = 0,
    workers: int = 0,
    mixed_precision: str | None = None,
    accumulate: int = 1,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    look_every: int = 1,
    cache: bool = True,
    choose: Choice = "score",
    patience: int | None = None,
    memory: str = "full",
    embed_backbone: bool = False,
    notes: dict | None = None,
    command: list[str] | None = None,
    quiet: bool = False,
) -> Result:
    """Train the tensors of `model` that require a gradient; leave the best epoch in `model` and in the folder `out`.

    The best epoch has the highest score on `val_set`: accuracy, mean average precision or R2, depending on the task.
    Ties are decided by the lowest loss, then by the earliest epoch. After every epoch that is the best so far the
    folder holds a model that loads and predicts, so an interrupted run can be used. Data sets give (image (3, H, W),
    target) and have `classes`; without an attribute `task` they are multiclass. Other tasks, and class weights, need
    the attribute `targets`. Random order, transforms and dropout depend only on (seed, epoch). So an interrupted and
    resumed run gives the same result as an uninterrupted one, bit for bit on a CPU. The global generators of torch,
    numpy and Python are seeded. Under `accelerate launch` every process takes `schedule.batch_size` images.

    Args:
        workers: processes that load images; 0 loads in this process. The result does not depend on it.
        mixed_precision: "no", "bf16", "fp16"; None is the setting of `accelerate launch`, otherwise "no".
        accumulate: batches per update of the weights.
        resume: continue after the last finished epoch of an interrupted run with the same settings and data.
        overwrite: remove an earlier run in `out`.
        look_every: validate after every `look_every` epochs and after the last, and keep the best of these epochs. If
            it equals the number of epochs, the last one is kept and `val_set` chooses nothing.
        cache: compute only once what is the same in every epoch, if memory allows: decoded images, and the tokens
            after the leading blocks that are neither trained nor random.
        choose: "score" keeps the epoch of the highest score, "loss" that of the lowest validation loss. "careful" keeps
            the lowest loss among the epochs whose accuracy is within one standard error of the highest, because few
            validation images cannot tell these apart; for tasks without an accuracy it is "score".
        patience: stop after so many epochs without a better one; None trains all epochs.
        memory: what a batch keeps for the backward pass. "exact" computes norm2, fc1 and GELU again there: about 6 in
            place of 10 times the width per block and token, with the same gradients. "low" keeps the derivative of
            the GELU in 8 bits, about 7 times the width, and computes nothing again.
        embed_backbone: the folder holds the backbone too, see `checkpoint.save`.
        notes: further JSON values that describe this run; kept in the record, and compared when resuming.
        command: the words of a command line that began this run; kept, and not compared when resuming.
        quiet: no progress on stderr.

    Raises:
        UsageError: impossible settings; an `out` that is in use; no run, or a different run, to resume; a loss that is
            not finite.
    """
    _check(model, train_set, val_set, schedule, mixed_precision, accumulate, look_every, seed, workers)
    if patience is not None and patience < 1:
        raise UsageError(f"patience={quoted(patience)} must be at least 1 epoch")
    if choose not in get_args(Choice):
        raise unknown("way to choose the epoch", choose, list(get_args(Choice)))
    known(memory)
    accelerator = _accelerator(device, mixed_precision, accumulate)
    settings = _settings(model, train_set, val_set, schedule, seed, look_every, accelerator, notes)
    settings |= {"choose": choose, "patience": patience, "memory": memory} | ({"command": command} if command else {})
    folder = RunFolder(out, settings)
    folder.check(resume, overwrite)
    accelerator.wait_for_everyone()  # every process has looked before the first one writes
    lock = folder.begun(resume, overwrite) if accelerator.is_main_process else nullcontext()
    with lock, keeping(model, known(memory)):
        log = Log(folder.out / LOGS, schedule.epochs, accelerator.is_main_process, quiet)
        training = Training(
            model, train_set, val_set, schedule, accelerator, seed, workers, look_every, cache, log.follow, choose
        )
        state = folder.load(training.possible(), schedule.epochs) if resume else None
        if state is not None:
            training.restore(state, str(folder.state / EPOCH))
        log.start(len(training.history) + 1)
        try:
            if not log.quiet:
                log.line(training.announce(train_set, val_set))
            written = False
            for epoch in range(len(training.history), schedule.epochs):
                if patience and training.waited() >= patience:
                    log.line(f"stopped: no better epoch in the last {patience}")
                    break
                log.epoch(row := training.epoch(epoch, log))
                if accelerator.is_main_process:
                    folder.save(training.state())
                    if training.best_row is row:  # a run that is interrupted can be used as it is
                        facts = {**folder.settings, **training.best_facts()}
                        save(model, folder.out, facts, only_trained=written, embed_backbone=embed_backbone)
                        written = True
                accelerator.wait_for_everyone()
        finally:
            log.close()
        return _finish(training, folder, written, embed_backbone)


def _check(
    model: Adapted, train_set: Samples, val_set: Samples, schedule: Schedule, mixed_precision: str | None,
    accumulate: int, look_every: int, seed: int, workers: int,
) -> None:  # fmt: skip
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


def _accelerator(device: str, mixed_precision: str | None, accumulate: int) -> Accelerator:
    where = pick_device(device)
    if mixed_precision == "fp16" and where.type == "cpu":
        raise UsageError("mixed precision 'fp16' needs a GPU: use bf16 or no on a CPU")
    # accelerate keeps the first run's device and precision for the whole process unless it is reset
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # as a plugin, because the environment of `accelerate launch` would override a plain number
    plugin = GradientAccumulationPlugin(num_steps=accumulate)
    return Accelerator(cpu=where.type == "cpu", mixed_precision=mixed_precision, gradient_accumulation_plugin=plugin)


def _settings(
    model: Adapted, train_set: Samples, val_set: Samples, schedule: Schedule, seed: int, look_every: int,
    accelerator: Accelerator, notes: dict | None,
) -> dict:  # fmt: skip
    return {
        **(notes or {}),
        "model": {
            **{key: described(model)[key] for key in ("backbone", "adapters", "reducer")},
            "frozen_fingerprint": fingerprint(split(model)[1]),
        },
        "schedule": asdict(schedule),
        "seed": seed,
        "look_every": look_every,
        "data": {"train": describe(train_set), "val": describe(val_set), "classes": list(train_set.classes)},
        "preprocessing": model.preprocessing,
        "mixed_precision": accelerator.mixed_precision,
        "accumulate": accelerator.gradient_accumulation_steps,
        "processes": accelerator.num_processes,
    }


def _finish(training: Training, folder: RunFolder, written: bool, embed: bool) -> Result:
    """Save the best epoch and the record of the run."""
    best = training.best_facts()
    seconds = sum(row["seconds"] for row in training.history)
    record = {
        **best,
        "seconds": seconds,
        **folder.settings,
        "environment": environment(training.accelerator.device),
        "history": training.history,
    }
    model = training.best_model()
    if training.accelerator.is_main_process:
        save(model, folder.out, {**folder.settings, **best}, only_trained=written, embed_backbone=embed)
        folder.finish(record)
    training.accelerator.wait_for_everyone()
    metric = training.chooser.removeprefix("val_")
    return Result(
        folder.out, metric, best["best_epoch"], best[f"best_{training.chooser}"], best["best_val_loss"], seconds,
        training.history, record,
    )  # fmt: skip
