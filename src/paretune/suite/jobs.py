"""One training run of a suite, which any process can execute."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from paretune.catalogue import Recipe
from paretune.errors import Diverged
from paretune.suite.protocols import Protocol
from paretune.suite.suites import Suite
from paretune.training.trials import Setting, Split, Trial, trial, trial_folder


@dataclass(frozen=True)
class Job:
    """Train `recipe` on a task with learning rate `lr` and `seed`; with `test`, also evaluate the test images."""

    suite: Suite
    task: str
    recipe: Recipe
    protocol: Protocol
    model: str
    lr: float
    seed: int
    test: bool
    out: Path
    device: str
    checkpoint: Path | None = None
    image_size: int | None = None

    def __str__(self) -> str:
        return f"{self.task}, {self.recipe.name}, lr {self.lr:g}, seed {self.seed}"

    @property
    def competes(self) -> bool:
        """Whether it is a candidate, which trains on train800 and is compared on val200, and not a final training."""
        return not self.test

    @property
    def setting(self) -> Setting:
        """The trial's name and its methods."""
        name = f"{self.task}/{self.recipe.name}/lr{self.lr:g}"
        name += "-candidate" if self.competes and self.protocol.train != "train800" else ""
        schedule, own = self.protocol.schedule_at(self.lr), self.protocol.preprocessing
        looks = 1 if self.competes else self.protocol.look_every or schedule.epochs
        methods, choose = self.recipe.methods, self.protocol.choose
        return Setting(name, self.model, methods, schedule, own, looks, self.checkpoint, self.image_size, choose)

    @property
    def folder(self) -> Path:
        """The folder of its training."""
        return trial_folder(self.setting, self.seed, self.out)


def work(job: Job) -> Trial | None:
    """Run a job, or read its earlier result. None for a candidate whose loss became infinite: it is not chosen."""
    parts = job.suite.parts(job.task)
    train, validate = ("train800", "val200") if job.competes else (job.protocol.train, job.protocol.validate)
    data = Split(parts[train], parts[validate], parts["test"])
    try:
        return trial(job.setting, data, job.seed, job.out, job.device, job.test)
    except Diverged:
        if not job.competes:
            raise
        return None


def prepare(threads: int) -> None:
    """Prepare a new process that runs jobs beside others. Only the process that started it handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
