"""The folder of one training run, which also allows an interrupted run to be resumed.

    OUT/state/settings.json          the settings of the run; written before the first epoch
    OUT/state/epoch.safetensors      the last finished epoch: tensors, and JSON in the header; replaced in one step
    OUT/state/lock                   held while a training writes here
    OUT/logs/                        TensorBoard
    OUT/adapter_config.json ...      the best epoch so far, by `paretune.save`
    OUT/record.json                  everything that makes the result reproducible; written last, then state/ is removed

Every file is written under a temporary name and then moved, so no file is ever incomplete. Pickle is not used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from paretune import formats
from paretune.errors import UsageError
from paretune.files import locked, remove_folder, sweep, write_json, written
from paretune.schema import parse, read, verify
from paretune.tensorfile import heads, opened, write_tensors

RECORD, STATE, LOGS = "record.json", "state", "logs"
SETTINGS, EPOCH, LOCK = "settings.json", "epoch.safetensors", "lock"
MODEL_FILES = ("adapter_config.json", "adapter_model.safetensors", "backbone.safetensors")
UNSAID = {"choose": "score", "patience": None, "memory": "full"}  # what settings mean that do not say it
OVERWRITE = "overwrite the run instead of resuming it"


@dataclass(frozen=True)
class EpochState:
    """Everything that the next epoch needs: `tensors` by name, and `facts` (history, best epoch) as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict


class RunFolder:
    """Reads and writes the folder `out`; `settings` (JSON values) describe the run."""

    def __init__(self, out: str | Path, settings: dict):
        self.out, self.settings = Path(out), json.loads(json.dumps(settings))
        self.state = self.out / STATE

    def check(self, resume: bool, overwrite: bool) -> None:
        """Raise UsageError if this run may not use the folder. Only leftovers of a killed run are changed."""
        if resume and overwrite:
            raise UsageError("resume and overwrite exclude each other: the one keeps what the other removes")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file; the output must be a folder")
        if resume:
            self._check_resumable()
        elif not overwrite and (what := self._content()):
            raise UsageError(f"{self.out} already holds {what}: choose another folder, resume or overwrite it")

    @contextmanager
    def begun(self, resume: bool, overwrite: bool) -> Iterator[None]:
        """Lock the folder for this training. Without resume, the files of an earlier run are removed.

        Raises UsageError if another training uses the folder, or has used it since `check`.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        taken = f"another training is writing to {self.out} now: wait until it ends, or choose another folder"
        with locked(self.state / LOCK, taken):
            self.check(resume, overwrite)
            sweep(self.out)
            sweep(self.state)
            if not resume:
                self._remove_run()
            write_json(self.state / SETTINGS, self.settings)
            yield

    def asked(self) -> dict:
        """The settings of the run that was begun here. Raises UsageError where none is left to resume."""
        if (self.out / RECORD).exists():
            shutil.rmtree(self.state, ignore_errors=True)  # a run that was killed between record and state left it
            raise UsageError(f"the run in {self.out} is finished: there is nothing to resume")
        if not (self.state / SETTINGS).exists():
            raise UsageError(f"there is no interrupted run in {self.out} to resume: start it without resume")
        return read(self.state / SETTINGS, formats.SETTINGS, OVERWRITE)

    def save(self, state: EpochState) -> None:
        """Replace the state of the previous epoch by this one, in one step."""
        with written(self.state / EPOCH) as new:
            write_tensors(state.tensors, new, {"facts": json.dumps(state.facts)})

    def load(self, wanted: dict[str, Tensor], epochs: int) -> EpochState | None:
        """The last finished epoch's state, on the CPU; None if there is none yet.

        wanted: tensors with all names and shapes that a state can contain. Raises UsageError for a state that is
        damaged, or that no training of this many epochs has written.
        """
        path = self.state / EPOCH
        if not path.exists():
            return None
        for name, tensor in heads(path, OVERWRITE).items():
            like = wanted.get(name)
            if like is None or (tensor.shape, tensor.is_floating_point()) != (like.shape, like.is_floating_point()):
                raise UsageError(f"{path} is damaged: its tensor {name[:200]} belongs to no state; {OVERWRITE}")
        with opened(path, OVERWRITE) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = (file.metadata() or {}).get("facts", "")
        facts = parse(facts, f"the header of {path}", OVERWRITE)
        verify(facts, formats.FACTS, f"the header of {path}", OVERWRITE)
        history = [row["epoch"] for row in facts["history"]]
        if history != list(range(1, len(history) + 1)) or len(history) > epochs:
            raise UsageError(f"{path} is damaged: it is of {len(history)} epochs, of {epochs}; {OVERWRITE}")
        if facts["best_row"] and facts["best_row"] not in facts["history"]:
            raise UsageError(f"{path} is damaged: its best epoch is none of its epochs; {OVERWRITE}")
        return EpochState(tensors, facts)

    def finish(self, record: dict) -> None:
        """Write the record and remove the state for resuming."""
        write_json(self.out / RECORD, record)
        remove_folder(self.state)

    def _content(self) -> str | None:
        if (self.out / RECORD).exists():
            return "a finished run"
        if (self.state / SETTINGS).exists():
            return "a run that was begun"
        return "a saved model" if any((self.out / name).exists() for name in MODEL_FILES) else None

    def _check_resumable(self) -> None:
        then, now = ({**UNSAID, **completed(one)} for one in (self.asked(), self.settings))
        command = {"command": then.get("command")}  # says how the run was asked for, which may change
        if changes := list(differences(then | command, comparable(then, now) | command)):
            raise UsageError(f"cannot resume the run in {self.out}, these settings differ: {'; '.join(changes)}")

    def _remove_run(self) -> None:
        for name in (RECORD, *MODEL_FILES):
            (self.out / name).unlink(missing_ok=True)
        shutil.rmtree(self.out / LOGS, ignore_errors=True)
        for path in (self.state / SETTINGS, self.state / EPOCH):
            path.unlink(missing_ok=True)


def completed(settings: dict) -> dict:
    """Recorded settings, with defaults for settings of the schedule and the methods that did not exist at that time."""
    if "schedule" not in settings:
        return settings
    from paretune import methods  # here, because whoever only reads a record need not wait for timm
    from paretune.catalogue import Schedule

    settings = methods.completed(settings) if "adapters" in settings else settings
    return {**settings, "schedule": {**asdict(Schedule()), **settings["schedule"]}}


def comparable(then: dict, now: dict) -> dict:
    """`now` without entries of its data descriptions that the older descriptions in `then` did not have."""
    if not isinstance(then.get("data"), dict):
        return now
    said = then["data"]
    data = {
        part: {key: value for key, value in about.items() if key in said[part]}
        if isinstance(about, dict) and isinstance(said.get(part), dict)
        else about
        for part, about in now["data"].items()
    }
    return {**now, "data": data}


def differences(then: object, now: object, name: str = ""):
    """A sentence like "schedule.lr was 0.001, is 0.01" for every leaf in which two JSON values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(k for k in now if k not in then)]:
            yield from differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {json.dumps(then)}, is {json.dumps(now)}"
