"""Train one setting from several seeds and look at the test images once each: what comparisons are made of.

OUT/<name>/seed0/     a training run as `fit` leaves it, and trial.json, written last: a finished trial is not run again
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from paretune.config import to_json
from paretune.core.model import Adapted
from paretune.data.folder import read_folder, read_split
from paretune.data.transforms import evaluation, framing, training
from paretune.errors import UsageError
from paretune.plan import Schedule, adapt
from paretune.train.evaluate import evaluate
from paretune.train.fit import fit
from paretune.train.runfolder import differences, read_json, write_json

TRIAL = "trial.json"


@dataclass(frozen=True)
class Setting:
    """What is tried: a name that a folder can have, a backbone's name, adapters, reducer and schedule."""

    name: str
    model: str
    adapters: tuple[Any, ...]
    reducer: Any
    schedule: Schedule


@dataclass(frozen=True)
class Split:
    """Three data sets of the same classes, each with `through(transform)`."""

    train: Any
    validate: Any
    test: Any


@dataclass(frozen=True)
class Trial:
    """One seed: accuracies are shares, 0 to 1; `epoch` is the best one on the validation images."""

    seed: int
    accuracy: float
    val_accuracy: float
    epoch: int
    seconds: float


def read_three(root: str | Path, seed: int = 0) -> Split:
    """A folder of images with its own test split; where it has no val/, a fifth of train/ is drawn with `seed`.

    Raises UsageError as the readers do, and for a folder without test images.
    """
    train, validate = read_folder(root, seed=seed)
    return Split(train, validate, read_split(root, "test", tuple(train.classes)))


def trial(setting: Setting, data: Split, seed: int, out: str | Path, device: str = "auto") -> Trial:
    """One training in OUT/<name>/seed<seed>, or what is still there of a finished one; an interrupted one goes on.

    The epoch is chosen on the validation images; the test images are looked at once, after training. Raises UsageError
    where the folder holds a trial of other settings or data.
    """
    out = Path(out) / setting.name / f"seed{seed}"
    wanted = _described(setting, data, seed)
    if (out / TRIAL).exists():
        return _finished(out, wanted)
    model = _build(setting, list(data.train.classes), seed)
    learn, look = training(model.preprocessing, setting.schedule.augment), evaluation(model.preprocessing)
    begun = (out / "state" / "settings.json").exists()
    result = fit(
        model, data.train.through(learn), data.validate.through(look), setting.schedule, out,
        seed=seed, device=device, resume=begun, overwrite=not begun, quiet=True,
    )  # fmt: skip
    accuracy = evaluate(model, data.test.through(look), device=device).accuracy
    done = Trial(seed, accuracy, result.accuracy, result.best_epoch, result.seconds)
    write_json(out / TRIAL, {"settings": wanted, "result": asdict(done)})
    return done


def _build(setting: Setting, classes: list[str], seed: int) -> Adapted:
    options = {"drop_path_rate": setting.schedule.drop_path} if setting.schedule.drop_path else {}
    torch.manual_seed(seed)
    model = adapt(setting.model, setting.adapters, setting.reducer, classes, pretrained=True, **options)
    model.preprocessing = framing(model.preprocessing, setting.schedule.augment)
    return model


def _described(setting: Setting, data: Split, seed: int) -> dict:
    parts = {name: getattr(data, name).describe() for name in ("train", "validate", "test")}
    methods = {
        "adapters": [to_json(one) for one in setting.adapters],
        "reducer": None if setting.reducer is None else to_json(setting.reducer),
    }
    described = {**asdict(replace(setting, adapters=(), reducer=None)), **methods, "seed": seed, "data": parts}
    return json.loads(json.dumps(described))


def _finished(out: Path, wanted: dict) -> Trial:
    """What a finished trial found, if it was the same."""
    found = read_json(out / TRIAL)
    if changes := list(differences(found["settings"], wanted)):
        raise UsageError(f"{out} holds another trial, these settings differ: {'; '.join(changes)}; use another folder")
    return Trial(**found["result"])
