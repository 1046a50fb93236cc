"""The folder of one training run, and how a run survives an interruption.

    OUT/state/settings.json          what was asked for; written before the first epoch
    OUT/state/epoch.safetensors      the last finished epoch: tensors, and JSON in the header; replaced in one step
    OUT/logs/                        TensorBoard
    OUT/adapter_config.json ...      the best epoch, by `paretune.save`; written when the run is finished
    OUT/record.json                  everything that makes the result reproducible; written last, then state/ is removed

Every file is written beside its place and moved there, so none is ever half written. No pickle anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paretune.errors import UsageError

RECORD, STATE, LOGS = "record.json", "state", "logs"
MODEL_FILES = ("adapter_config.json", "adapter_model.safetensors", "backbone.safetensors")


@dataclass(frozen=True)
class EpochState:
    """All that the next epoch needs: `tensors` by name, and `facts` (history, best epoch) as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict


class RunFolder:
    """Reads and writes `out`; `settings` (JSON values) say what this run is."""

    def __init__(self, out: str | Path, settings: dict):
        self.out, self.settings = Path(out), json.loads(json.dumps(settings))
        self.state = self.out / STATE

    def check(self, resume: bool, overwrite: bool) -> None:
        """Raise UsageError where this run may not use the folder; changes nothing."""
        if resume and overwrite:
            raise UsageError("resume and overwrite exclude each other: the one keeps what the other removes")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file; the output must be a folder")
        if resume:
            self._check_resumable()
        elif not overwrite and (what := self._content()):
            raise UsageError(f"{self.out} already holds {what}: choose another folder, resume or overwrite it")

    def begin(self, resume: bool) -> None:
        """Make the folder ready: as it is to resume, else without the files of an earlier run."""
        if not resume:
            self._remove_run()
        self.state.mkdir(parents=True, exist_ok=True)
        write_json(self.state / "settings.json", self.settings)

    def save(self, state: EpochState) -> None:
        """Replace the last epoch's state by this one, in one step."""
        path = self.state / "epoch.safetensors"
        new = path.with_suffix(".new")
        save_file(state.tensors, new, metadata={"facts": json.dumps(state.facts)})
        os.replace(new, path)

    def load(self) -> EpochState | None:
        """The last finished epoch's state, on the CPU; None if there is none yet."""
        path = self.state / "epoch.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                return EpochState({k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["facts"]))  # noqa: SIM118
        except (SafetensorError, ValueError, KeyError, TypeError) as problem:
            raise UsageError(f"{path} is damaged ({problem}): overwrite the run instead of resuming it") from problem

    def finish(self, record: dict) -> None:
        """Write the record; the state for resuming has done its work."""
        write_json(self.out / RECORD, record)
        shutil.rmtree(self.state)

    def _content(self) -> str | None:
        if (self.out / RECORD).exists():
            return "a finished run"
        if self.state.exists():
            return "a run that was begun"
        return "a saved model" if any((self.out / name).exists() for name in MODEL_FILES) else None

    def _check_resumable(self) -> None:
        if (self.out / RECORD).exists():
            raise UsageError(f"the run in {self.out} is finished: there is nothing to resume")
        if not (self.state / "settings.json").exists():
            raise UsageError(f"there is no interrupted run in {self.out} to resume: start it without resume")
        then = completed(read_json(self.state / "settings.json"))
        if changes := list(differences(then, self.settings)):
            raise UsageError(f"cannot resume the run in {self.out}, these settings differ: {'; '.join(changes)}")

    def _remove_run(self) -> None:
        for name in (RECORD, *MODEL_FILES):
            (self.out / name).unlink(missing_ok=True)
        for name in (STATE, LOGS):
            shutil.rmtree(self.out / name, ignore_errors=True)


def completed(settings: dict) -> dict:
    """Recorded settings; what schedule and methods could not say yet when they were written has its default."""
    if "schedule" not in settings:
        return settings
    from paretune import methods  # here, because whoever only reads a record need not wait for timm
    from paretune.catalogue import Schedule

    settings = methods.completed(settings) if "adapters" in settings else settings
    return {**settings, "schedule": {**asdict(Schedule()), **settings["schedule"]}}


def differences(then: object, now: object, name: str = ""):
    """Sentences like "schedule.lr was 0.001, is 0.01" for every leaf in which two JSON values differ.

    The content of data is not compared with that of a record from before it was kept.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(k for k in now if k not in then and k != "content")]:
            yield from differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {json.dumps(then)}, is {json.dumps(now)}"


def write_json(path: Path, value: dict) -> None:
    """Write `value` to `path` in one step."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(new, path)


def read_json(path: Path) -> dict:
    """The JSON object in `path`; UsageError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UsageError(f"{path} is not readable as JSON: {problem}") from problem
