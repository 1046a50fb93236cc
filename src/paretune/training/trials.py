"""Train one setting with several seeds and evaluate each run once on the test images, for comparisons.

OUT/<name>/seed0/     a training run of `fit`, and trial.json, which is written last: a finished trial is not repeated
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from paretune import formats
from paretune.catalogue import Schedule
from paretune.checkpoint import load
from paretune.data.opening import open_splits
from paretune.data.samples import ImageSet
from paretune.errors import UsageError
from paretune.files import locked, write_json
from paretune.methods import Methods
from paretune.pretrained import weights_file
from paretune.schema import read
from paretune.training.evaluate import evaluate
from paretune.training.loop import Choice
from paretune.training.prepare import built, fit_on, seen, size_option
from paretune.training.runfolder import comparable, completed, differences
from paretune.training.tasks import task_of

TRIAL, LOCK = "trial.json", ".trial.lock"


@dataclass(frozen=True)
class Setting:
    """The setting of a trial.

    name: also the name of the folder; model: a backbone's name
    preprocessing: entries that replace the backbone's own, such as mean and std; look_every: as in `fit`
    checkpoint: a local file of the backbone's weights, instead of its pretrained ones
    image_size: side of the square input in pixels, instead of the backbone's own
    choose: as in `fit`
    """

    name: str
    model: str
    methods: Methods
    schedule: Schedule
    preprocessing: dict[str, Any] = field(default_factory=dict)
    look_every: int = 1
    checkpoint: Path | None = None
    image_size: int | None = None
    choose: Choice = "score"


@dataclass(frozen=True)
class Split:
    """Three data sets of the same classes, each with `through(transform)`."""

    train: ImageSet
    validate: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Trial:
    """The result of one seed: accuracies are shares, 0 to 1; the test accuracy is None before it was measured; `epoch`
    is the best epoch."""

    seed: int
    accuracy: float | None
    val_accuracy: float
    epoch: int
    seconds: float
    val_loss: float | None = None


def read_three(data: str | Path, seed: int = 0) -> Split:
    """Data of any form with test images. Without a validation split, a fifth of the training images is drawn by `seed`.

    Raises UsageError as the readers do, for data without test images, and for labels or numbers instead of classes.
    """
    found = open_splits(data, seed=seed)
    if found.test is None:
        raise UsageError(f"{data} has no split 'test': comparisons need images that played no part in training")
    if (task := task_of(found.train)) != "multiclass":
        raise UsageError(f"{data} is {task}: comparisons count right answers, which needs one class per image")
    return Split(found.train, found.val, found.test)


def trial(setting: Setting, data: Split, seed: int, out: str | Path, device: str = "auto", test: bool = True) -> Trial:
    """Run one training in OUT/<name>/seed<seed>, resume it, or read its result if it is finished.

    The test images are evaluated once, after training. With test=False they are not evaluated; a later call can do it.
    Raises UsageError if the folder has a trial with other settings or data.
    """
    out = trial_folder(setting, seed, out)
    wanted = _described(setting, data, seed)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):  # a second suite in the same folder waits and then reads the result of the first one
        return _once(setting, data, seed, out, device, test, wanted)


def trial_folder(setting: Setting, seed: int, out: str | Path) -> Path:
    """Where a trial lies."""
    return Path(out) / setting.name / f"seed{seed}"


def _once(setting: Setting, data: Split, seed: int, out: Path, device: str, test: bool, wanted: dict) -> Trial:
    known = _finished(out, wanted) if (out / TRIAL).exists() else None
    found = known or _trained(setting, data, seed, out, device)
    if test and found.accuracy is None:
        model = load(out)
        found = replace(found, accuracy=evaluate(model, seen(data.test, model), device=device).accuracy)
    if found != known:
        write_json(out / TRIAL, {"settings": wanted, "result": asdict(found)})
    return found


def _trained(setting: Setting, data: Split, seed: int, out: Path, device: str) -> Trial:
    file, classes = setting.checkpoint, list(data.train.classes)
    model = built(
        setting.model, setting.methods, setting.schedule, classes, seed=seed, pretrained=file is None, checkpoint=file,
        **size_option(setting.image_size),
    )  # fmt: skip
    begun = (out / "state" / "settings.json").exists()
    result = fit_on(
        model, data.train, data.validate, setting.schedule, out, setting.preprocessing,
        seed=seed, device=device, resume=begun, overwrite=not begun, look_every=setting.look_every,
        choose=setting.choose, calibrate=False, quiet=True,
    )  # fmt: skip
    return Trial(seed, None, result.accuracy, result.best_epoch, result.seconds, result.loss)


def _described(setting: Setting, data: Split, seed: int) -> dict:
    parts = {name: images.describe() for name, images in vars(data).items()}
    file = None if setting.checkpoint is None else weights_file(setting.checkpoint)
    weights = None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    plain = {key: value for key, value in vars(setting).items() if key != "methods"}
    known = {"schedule": asdict(setting.schedule), "checkpoint": weights, "seed": seed, "data": parts}
    described = {**plain, **setting.methods.to_json(), **known}
    return json.loads(json.dumps(described))


def _finished(out: Path, wanted: dict) -> Trial:
    """The result of a finished trial with the same settings."""
    found = read(out / TRIAL, formats.TRIAL, "remove it, and the trial is run again")
    then = {"choose": "score", **completed(found["settings"])}
    if changes := list(differences(then, comparable(then, wanted))):
        raise UsageError(f"{out} holds another trial, these settings differ: {'; '.join(changes)}; use another folder")
    return Trial(**found["result"])
