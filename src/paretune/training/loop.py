"""The loop: AdamW on the trained tensors, warm-up and cosine, one epoch after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import perf_counter
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from paretune.catalogue import Schedule
from paretune.checkpoint import fingerprint
from paretune.core.model import Adapted
from paretune.data.samples import Samples, for_torch
from paretune.errors import Diverged, UsageError
from paretune.tensorfile import check_finite
from paretune.training import tasks
from paretune.training.calibration import Logits
from paretune.training.evaluate import score
from paretune.training.log import Log
from paretune.training.memory import process_bytes, readable
from paretune.training.metrics import interval
from paretune.training.mixing import mixing
from paretune.training.objective import Objective
from paretune.training.order import SeededEpochs, mixed
from paretune.training.prefix import Follow, Passes, Prefixed, remembered
from paretune.training.runfolder import OVERWRITE, EpochState

Choice = Literal["score", "careful", "loss"]
SMALLER = "use a smaller learning rate; the epochs before it are kept"


class Training:
    """The objects of one run. Everything that changes between epochs is in `state`.

    `plain` is the model as it was given, `losses` the model with its losses, `objective` the same, wrapped by
    accelerate, `named` its trained tensors, `chooser` the entry of a history row that chooses the best epoch.
    """

    def __init__(
        self,
        model: Adapted,
        train_set: Samples,
        val_set: Samples,
        schedule: Schedule,
        accelerator: Accelerator,
        seed: int,
        workers: int,
        look_every: int,
        cache: bool,
        follow: Follow,
        choose: Choice = "score",
    ):
        self.schedule, self.accelerator, self.seed, self.look_every = schedule, accelerator, seed, look_every
        self.choose, self.validated = choose, len(val_set)
        self.classes, self.sample = val_set.classes, train_set[0]
        self.plain = model.to(accelerator.device)
        self.chooser = f"val_{tasks.kind_of(model).main}"
        tasks.standardise(model, train_set)
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.mixing = mixing(schedule, len(val_set.classes))
        self.learner, self.kept = self.plain, ""
        if cache:
            passes = Passes(accelerator.autocast, schedule.batch_size, workers, follow, mixed=self.mixing is not None)
            self.learner, train_set, val_set, self.kept = remembered(self.plain, train_set, val_set, passes)
        self.order = SeededEpochs(train_set, seed)
        optimizer = torch.optim.AdamW(self.named.values(), lr=schedule.lr, weight_decay=schedule.weight_decay)
        generator, batch = torch.Generator(), schedule.batch_size
        train_loader = DataLoader(self.order, batch, sampler=self.order, num_workers=workers, generator=generator)
        val_loader = DataLoader(for_torch(val_set), batch, num_workers=workers, generator=generator)
        self.losses = objective = Objective(self.learner, tasks.criterion(self.plain, schedule, train_set))
        self.objective, self.optimizer, self.train_loader, self.val_loader = accelerator.prepare(
            objective, optimizer, train_loader, val_loader
        )
        self.updates_per_epoch = math.ceil(len(self.train_loader) / accelerator.gradient_accumulation_steps)
        self.scheduler = scheduler_for(optimizer, schedule, self.updates_per_epoch)
        self.history: list[dict] = []
        self.best: dict[str, Tensor] = {}
        self.best_row: dict = {}

    def announce(self, train_set: Samples, val_set: Samples) -> str:
        """What is about to be trained, and the memory that it will need."""
        self._tell_methods(len(self.history))
        trained, total = (sum(p.numel() for p in group) for group in (self.named.values(), self.plain.parameters()))
        most, device = min(self.schedule.batch_size, len(self.order)), self.accelerator.device
        need = process_bytes(self.losses, self._batch, most, device)
        return (
            f"{len(train_set):,} images to train on, {len(val_set):,} to validate, {self._outputs()}\n"
            f"{trained:,} trained of {total:,} parameters ({trained / total:.2%}); memory: about {readable(need)} "
            f"for the process, with batches of {self.schedule.batch_size}, on {device}"
            + (f"\n{self.kept}" if self.kept else "")
        )

    def _batch(self, count: int) -> tuple[Any, Tensor]:
        """A batch of the first training image, so many times."""
        images, targets = (one.to(self.accelerator.device) for one in default_collate([self.sample] * count))
        with self.accelerator.autocast():
            return self.learner.entering(images) if isinstance(self.learner, Prefixed) else images, targets

    def _outputs(self) -> str:
        """Such as "10 classes"."""
        one, several = tasks.kind_of(self.plain).outputs
        return f"{len(self.classes)} {one if len(self.classes) == 1 else several}"

    def epoch(self, epoch: int, log: Log) -> dict:
        """Train for one epoch, validate if it is due, keep the best epoch; returns the new row of the history."""
        start = perf_counter()
        set_seed(mixed(self.seed, epoch, self.accelerator.process_index))
        self.order.epoch = epoch
        self._tell_methods(epoch)
        lr = self.optimizer.param_groups[0]["lr"]
        losses = self._train(log.track(self.train_loader, epoch, self.schedule.batch_size), epoch)
        if not math.isfinite(total := sum(losses.values())):
            raise Diverged(f"the training loss became {total} in epoch {epoch + 1}: {SMALLER}")
        if not all(torch.isfinite(p).all() for p in self.named.values()):
            raise Diverged(f"trained tensors became infinite in epoch {epoch + 1}: {SMALLER}")
        row = {"epoch": epoch + 1, "lr": lr, **losses}
        looked = row["epoch"] % self.look_every == 0 or row["epoch"] == self.schedule.epochs
        if looked:
            gather, precision = self.accelerator.gather_for_metrics, self.accelerator.autocast
            try:
                metrics = score(self.learner, self.val_loader, self.classes, gather, precision)
            except Diverged as error:
                raise Diverged(f"the validation loss became infinite in epoch {epoch + 1}: {SMALLER}") from error
            row |= {"val_loss": metrics.loss, f"val_{metrics.main}": metrics.scores[metrics.main]}
        self.history.append(row := row | {"seconds": perf_counter() - start})
        if looked and (not self.best_row or self._better(row, self.best_row)):
            self.best_row, self.best = row, {name: p.detach().clone() for name, p in self.named.items()}
        return row

    def _better(self, row: dict, best: dict) -> bool:
        """Whether an epoch that was just validated is better than the best one before it."""
        if self.choose == "loss":
            return row["val_loss"] < best["val_loss"]
        if self.choose == "careful" and self.chooser == "val_accuracy":
            most = max(seen[self.chooser] for seen in self.history if self.chooser in seen)
            least = interval(most, self.validated, deviations=1)[0]
            good = row[self.chooser] >= least, best[self.chooser] >= least
            if good != (False, False):
                return good[0] and (not good[1] or row["val_loss"] < best["val_loss"])
        return self._rank(row) > self._rank(best)

    def _rank(self, row: dict) -> tuple[float, float]:
        value = row[self.chooser]
        return -math.inf if value is None else value, -row["val_loss"]

    def waited(self) -> int:
        """How many epochs there were since the best one."""
        return len(self.history) - self.best_row["epoch"] if self.best_row else 0

    def lasts(self) -> float:
        """Seconds that the next epoch will probably take; no time at all before the first one was seen."""
        return max((row["seconds"] for row in self.history[-2:]), default=-math.inf)

    def best_facts(self) -> dict:
        """The number of the best epoch, its score and its loss."""
        return {f"best_{key}": self.best_row[key] for key in ("epoch", self.chooser, "val_loss")}

    def _tell_methods(self, epoch: int) -> None:
        for method in self.plain.methods():
            method.at_epoch(epoch)

    def _train(self, batches: Iterator, epoch: int) -> dict[str, float]:
        """One pass over the training set; returns the mean of every loss over all images and processes."""
        self.objective.train()
        update, seen, losses = epoch * self.updates_per_epoch, 0, {}
        for images, targets in batches:
            mixture = self.mixing(images, targets) if self.mixing else (images, targets)
            with self.accelerator.accumulate(self.objective):
                losses = self.objective(*mixture)
                self.accelerator.backward(sum(losses.values()))
                losses = {name: loss.detach() for name, loss in losses.items()}  # frees the graph before the next one
                self.optimizer.step()
                self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                update += 1
                self.scheduler.step_update(update)
            one = torch.ones((), device=self.accelerator.device)
            seen += torch.stack([*losses.values(), one]) * len(targets)
        *totals, images = self.accelerator.reduce(seen, "sum").tolist()
        return {f"train_{name}": total / images for name, total in zip(losses, totals, strict=True)}

    def answers(self) -> Logits:
        """What the model says of the validation images now."""
        found = Logits(self.validated, len(self.classes))
        gather, precision = self.accelerator.gather_for_metrics, self.accelerator.autocast
        score(self.learner, self.val_loader, self.classes, gather, precision, found.add)
        return found

    def state(self) -> EpochState:
        """Everything that the next epoch builds upon."""
        tensors = {f"trained.{name}": p.detach() for name, p in self.named.items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        tensors |= {f"buffer.{name}": t for name, t in self.plain.named_buffers()}
        for i, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in entry.items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        tensors = {name: t.contiguous().clone() for name, t in tensors.items()}
        facts = {"history": self.history, "best_row": self.best_row, "scaler": scaler}
        return EpochState(tensors, {**facts, "tensors": fingerprint(tensors)})

    def possible(self) -> dict[str, Tensor]:
        """Tensors of all names and shapes that a state of this training can hold, without numbers."""
        named = {name: p.detach().to("meta") for name, p in self.named.items()}
        buffers = {name: buffer.to("meta") for name, buffer in self.plain.named_buffers()}
        found = {f"{part}.{name}": t for part in ("trained", "best") for name, t in named.items()}
        found |= {f"buffer.{name}": t for name, t in buffers.items()}
        for i, tensor in enumerate(named.values()):
            found |= {f"optimizer.{i}.{moment}": tensor for moment in ("exp_avg", "exp_avg_sq")}
            found[f"optimizer.{i}.step"] = torch.zeros((), device="meta")
        return found

    def restore(self, state: EpochState, where: str) -> None:
        """Restore the training from `state`, at the end of its epoch. Raises UsageError, which names the file `where`,
        if the state is incomplete or damaged."""
        self._check_state(state, where)
        self.history, self.best_row = state.facts["history"], state.facts["best_row"]
        self.best = {k: v.to(self.accelerator.device) for k, v in _group(state, "best").items()}
        with torch.no_grad():
            for target, group in ((self.named, "trained"), (dict(self.plain.named_buffers()), "buffer")):
                for name, tensor in _group(state, group).items():
                    target[name].copy_(tensor)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _group(state, "optimizer").items():
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        self.scheduler.step_update(len(self.history) * self.updates_per_epoch)

    def _check_state(self, state: EpochState, where: str) -> None:
        always = {name for name in self.possible() if name.startswith(("trained.", "buffer."))}
        always |= {f"best.{name}" for name in self.named} if state.facts["best_row"] else set()
        if missing := sorted(always - state.tensors.keys()):
            raise UsageError(f"{where} is damaged: it lacks {missing[0]} (and {len(missing) - 1} more); {OVERWRITE}")
        for name, tensor in state.tensors.items():
            check_finite(name, tensor, f"{where} is damaged", OVERWRITE)
        written = state.facts.get("tensors")  # states of before do not say
        if written is not None and written != fingerprint(state.tensors):
            raise UsageError(f"{where} is damaged: its tensors are not those that were written; {OVERWRITE}")

    def best_model(self) -> Adapted:
        """The model as the caller gave it, in evaluation mode, with the tensors of the best epoch."""
        with torch.no_grad():
            for name, tensor in self.best.items():
                self.named[name].copy_(tensor)
        return self.plain.eval()


def scheduler_for(optimizer: torch.optim.Optimizer, schedule: Schedule, updates_per_epoch: int) -> CosineLRScheduler:
    """The learning rate per update: linear from warmup_lr to lr, then a cosine, counted from update 0, to min_lr."""
    return CosineLRScheduler(
        optimizer,
        t_initial=schedule.epochs * updates_per_epoch,
        lr_min=schedule.min_lr,
        warmup_t=round(schedule.warmup_epochs * updates_per_epoch),
        warmup_lr_init=schedule.warmup_lr,
        t_in_epochs=False,
    )


def _group(state: EpochState, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "."): v for k, v in state.tensors.items() if k.startswith(prefix + ".")}
