"""Train one setting from several seeds and look at the test images once each: what comparisons are made of.

OUT/<name>/seed0/     a training run as `fit` leaves it, and trial.json, written last: a finished trial is not run again
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from paretune import formats
from paretune.checkpoint import load
from paretune.config import to_json
from paretune.core.model import Adapted
from paretune.data.opening import open_splits
from paretune.data.transforms import evaluation, framing, training
from paretune.errors import UsageError
from paretune.files import locked, write_json
from paretune.plan import Schedule, adapt
from paretune.schema import read
from paretune.train.evaluate import evaluate
from paretune.train.fit import fit
from paretune.train.runfolder import comparable, completed, differences
from paretune.train.tasks import task_of

TRIAL, LOCK = "trial.json", ".trial.lock"


@dataclass(frozen=True)
class Setting:
    """What is tried.

    name: one that a folder can have; model: a backbone's name
    preprocessing: what differs from the backbone's own, such as mean and std; look_every: as in `fit`
    checkpoint: a local file of the backbone's weights, instead of its pretrained ones
    """

    name: str
    model: str
    adapters: tuple[Any, ...]
    reducer: Any
    schedule: Schedule
    preprocessing: dict[str, Any] = field(default_factory=dict)
    look_every: int = 1
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Split:
    """Three data sets of the same classes, each with `through(transform)`."""

    train: Any
    validate: Any
    test: Any


@dataclass(frozen=True)
class Trial:
    """One seed: accuracies are shares, 0 to 1, None before the test images were looked at; `epoch` is the one
    that was kept."""

    seed: int
    accuracy: float | None
    val_accuracy: float
    epoch: int
    seconds: float


def read_three(data: str | Path, seed: int = 0) -> Split:
    """Data of any form with test images; where there are none for validation, a fifth of the rest is drawn with `seed`.

    Raises UsageError as the readers do, for data without test images, and for labels or numbers instead of classes.
    """
    found = open_splits(data, seed=seed)
    if found.test is None:
        raise UsageError(f"{data} has no split 'test': comparisons need images that played no part in training")
    if (task := task_of(found.train)) != "multiclass":
        raise UsageError(f"{data} is {task}: comparisons count right answers, which needs one class per image")
    return Split(found.train, found.val, found.test)


def trial(setting: Setting, data: Split, seed: int, out: str | Path, device: str = "auto", test: bool = True) -> Trial:
    """One training in OUT/<name>/seed<seed>, or what is still there of a finished one; an interrupted one goes on.

    The test images are looked at once, after training, and not at all
    with test=False: a later call does it then. Raises UsageError where the folder holds a trial of other settings or
    data.
    """
    out = Path(out) / setting.name / f"seed{seed}"
    wanted = _described(setting, data, seed)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):  # a second suite in the same folder waits, and then reads what the first one found
        return _once(setting, data, seed, out, device, test, wanted)


def _once(setting: Setting, data: Split, seed: int, out: Path, device: str, test: bool, wanted: dict) -> Trial:
    known = _finished(out, wanted) if (out / TRIAL).exists() else None
    found = known or _trained(setting, data, seed, out, device)
    if test and found.accuracy is None:
        model = load(out)
        found = replace(found, accuracy=evaluate(model, _seen(data.test, model), device=device).accuracy)
    if found != known:
        write_json(out / TRIAL, {"settings": wanted, "result": asdict(found)})
    return found


def _trained(setting: Setting, data: Split, seed: int, out: Path, device: str) -> Trial:
    model = _build(setting, list(data.train.classes), seed)
    learn = data.train.through(training(model.preprocessing, setting.schedule.augment))
    begun = (out / "state" / "settings.json").exists()
    result = fit(
        model, learn, _seen(data.validate, model), setting.schedule, out,
        seed=seed, device=device, resume=begun, overwrite=not begun, look_every=setting.look_every, quiet=True,
    )  # fmt: skip
    return Trial(seed, None, result.accuracy, result.best_epoch, result.seconds)


def _seen(images: Any, model: Adapted) -> Any:
    return images.through(evaluation(model.preprocessing))


def _build(setting: Setting, classes: list[str], seed: int) -> Adapted:
    options = {"drop_path_rate": setting.schedule.drop_path} if setting.schedule.drop_path else {}
    torch.manual_seed(seed)
    file = setting.checkpoint
    model = adapt(setting.model, setting.adapters, setting.reducer, classes, file is None, file, **options)
    model.preprocessing = framing(model.preprocessing, setting.schedule.augment) | setting.preprocessing
    return model


def _described(setting: Setting, data: Split, seed: int) -> dict:
    parts = {name: getattr(data, name).describe() for name in ("train", "validate", "test")}
    methods = {
        "adapters": [to_json(one) for one in setting.adapters],
        "reducer": None if setting.reducer is None else to_json(setting.reducer),
    }
    weights = None if setting.checkpoint is None else hashlib.sha256(setting.checkpoint.read_bytes()).hexdigest()
    plain = asdict(replace(setting, adapters=(), reducer=None))
    described = {**plain, **methods, "checkpoint": weights, "seed": seed, "data": parts}
    return json.loads(json.dumps(described))


def _finished(out: Path, wanted: dict) -> Trial:
    """What a finished trial found, if it was the same."""
    found = read(out / TRIAL, formats.TRIAL, "remove it, and the trial is run again")
    then = completed(found["settings"])
    if changes := list(differences(then, comparable(then, wanted))):
        raise UsageError(f"{out} holds another trial, these settings differ: {'; '.join(changes)}; use another folder")
    return Trial(**found["result"])
