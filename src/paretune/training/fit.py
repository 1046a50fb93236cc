"""A run from start to finish: check, train or resume, keep the best epoch, write the record."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from accelerate import Accelerator

from paretune.catalogue import Schedule
from paretune.checkpoint import described, fingerprint, save, split
from paretune.core.memory import known
from paretune.core.model import Adapted
from paretune.data.samples import Samples
from paretune.machine import environment
from paretune.training.calibration import LEAST
from paretune.training.calibration import told as told_temperature
from paretune.training.checks import check, check_choice
from paretune.training.log import Log, duration
from paretune.training.loop import Choice, Training
from paretune.training.memory import keeping
from paretune.training.precision import accelerator_for, faster, resumed
from paretune.training.record import describe
from paretune.training.runfolder import EPOCH, LOGS, RunFolder
from paretune.training.speed import AUTO, told


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
    seconds: float | None = None,
    memory: str = "full",
    embed_backbone: bool = False,
    calibrate: bool = True,
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
        mixed_precision: "no", "bf16", "fp16"; None is the setting of `accelerate launch`, otherwise "no". "auto"
            measures a few steps in float32 and in bfloat16 and takes the faster; a resumed run keeps what it had.
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
        seconds: stop before an epoch that would end later than this, epochs before an interruption included. The first
            epoch is never left out. Where it stops depends on the machine, so it is not compared when resuming.
        memory: what a batch keeps for the backward pass. "exact" computes norm2, fc1 and GELU again there: about 6 in
            place of 10 times the width per block and token, with the same gradients. "low" keeps the derivative of
            the GELU in 8 bits, about 7 times the width, and computes nothing again.
        embed_backbone: the folder holds the backbone too, see `checkpoint.save`.
        calibrate: for one class of several, fit a temperature on the validation images once the best epoch is known;
            `predict` and `eval` then give calibrated probabilities. Not with fewer than 100 images.
        notes: further JSON values that describe this run; kept in the record, and compared when resuming.
        command: the words of a command line that began this run; kept, and not compared when resuming.
        quiet: no progress on stderr.

    Raises:
        UsageError: impossible settings; an `out` that is in use; no run, or a different run, to resume; a loss that is
            not finite.
    """
    start = perf_counter()
    check(model, train_set, val_set, schedule, mixed_precision, accumulate, look_every, seed, workers)
    check_choice(choose, patience)
    known(memory)
    measured = None
    if mixed_precision == AUTO:
        begun = resumed(out, resume, overwrite)
        mixed_precision, measured = begun or faster(model, train_set, cache, device, known(memory))
    accelerator = accelerator_for(device, mixed_precision, accumulate)
    settings = _settings(model, train_set, val_set, schedule, seed, look_every, accelerator, notes)
    settings |= {"choose": choose, "patience": patience, "memory": memory} | ({"command": command} if command else {})
    settings |= {"measured_precision": measured} if measured else {}
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
        before = sum(row["seconds"] for row in training.history)
        log.start(len(training.history) + 1)
        try:
            if measured and not resume:
                log.line(told(measured))
            if not log.quiet:
                log.line(training.announce(train_set, val_set))
            written = False
            for epoch in range(len(training.history), schedule.epochs):
                if patience and training.waited() >= patience:
                    log.line(f"stopped: no better epoch in the last {patience}")
                    break
                if seconds and training.best_row and training.lasts() + before + perf_counter() - start > seconds:
                    log.line(f"stopped: another epoch would end after {duration(seconds)}")
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
        return _finish(training, folder, written, embed_backbone, log if calibrate else None)


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


def _finish(training: Training, folder: RunFolder, written: bool, embed: bool, calibrate: Log | None) -> Result:
    """Save the best epoch and the record of the run. calibrate: where a line on it goes; None: no calibration"""
    best, model = training.best_facts(), training.best_model()
    found = calibrated(training, calibrate) if calibrate else {}
    seconds = sum(row["seconds"] for row in training.history)
    record = {
        **best,
        **found,
        "seconds": seconds,
        **folder.settings,
        "environment": environment(training.accelerator.device),
        "history": training.history,
    }
    if training.accelerator.is_main_process:
        facts = {**folder.settings, **best, **found}
        save(model, folder.out, facts, only_trained=written, embed_backbone=embed)
        folder.finish(record)
    training.accelerator.wait_for_everyone()
    metric = training.chooser.removeprefix("val_")
    return Result(
        folder.out, metric, best["best_epoch"], best[f"best_{training.chooser}"], best["best_val_loss"], seconds,
        training.history, record,
    )  # fmt: skip


def calibrated(training: Training, log: Log) -> dict:
    """Give the best model its temperature; what the record says of it, {} where there is none."""
    model, images = training.plain, training.validated
    if model.task != "multiclass":
        return {}
    if images < LEAST:
        log.line(f"not calibrated: {images} validation images are too few, it takes {LEAST}")
        return {}
    answers = training.answers()
    model.temperature = answers.temperature()
    errors = answers.errors(model.temperature)
    log.line(told_temperature(model.temperature, errors))
    return {"temperature": model.temperature, "calibration_error": dict(zip(("before", "after"), errors, strict=True))}
