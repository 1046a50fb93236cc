"""A running benchmark: the contestants, their order, and the results so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

import psutil
import torch

from paretune.backbone import reason
from paretune.errors import UsageError
from paretune.machine import environment
from paretune.measure.memory import cuda_peak, saved_bytes, tensor_bytes
from paretune.timing import resident
from paretune.timing.contestants import Contestant
from paretune.timing.models import TIMM, Step, Terms, backbone, batch_of, build, forward, moments, price, unshare
from paretune.timing.result import Bench
from paretune.timing.rounds import Times, interleaved, seconds, times
from paretune.timing.row import Memory, Row

Key = tuple[str, int]  # contestant, batch size


class Session:
    """A run of `bench`: the contestants of `field`, and their measurements so far."""

    def __init__(self, terms: Terms, field: dict[str, Contestant], batches, rounds: int, warmup: int, watch):
        self.terms, self.field, self.batches, self.rounds, self.warmup = terms, field, batches, rounds, warmup
        self.keys: list[Key] = [(name, batch) for batch in batches for name in field]
        self.watch, self.done, self.total = watch, 0, 0
        self.date = datetime.now().astimezone().isoformat(timespec="seconds")
        self.seconds: dict[str, dict[Key, list[float]]] = {"forward": {}, "step": {}}
        self.memory: dict[str, dict[Key, int]] = {name: {} for name in ("saved", "rss", "forward", "step")}
        self.compiling: dict[Key, float] = {}
        self.errors: dict[Key, str] = {}
        base = backbone(terms)
        models = {name: build(base, one) for name, one in field.items()}
        self.costs = {name: price(model, terms.merged) for name, model in models.items()}
        self.image_size = self.costs[TIMM].image_size

    def run(self, train: bool, rss: bool) -> bool:
        """Measure everything; False if Ctrl-C ended it."""
        timed = len(self.keys) * (self.warmup + self.rounds)
        self.total = timed * (1 + train) + len(self.keys) * rss
        try:
            with _never_eager(self.terms.compiled):
                self._forward()
                if train:
                    self._step()
            if rss:
                self._resident(train)
        except KeyboardInterrupt:
            return False
        return True

    def _forward(self) -> None:
        base = backbone(self.terms, self.terms.number)
        models = {name: build(base, one) for name, one in self.field.items()}
        runs = {name: forward(model, self.field[name].own, self.terms) for name, model in models.items()}
        data = {batch: self._data(batch, self.terms.number)[0] for batch in self.batches}
        held = {name: tensor_bytes(model) for name, model in models.items()}
        self._time("forward", {(n, b): partial(runs[n], data[b]) for n, b in self.keys}, held)

    def _step(self) -> None:
        base = backbone(self.terms)
        steps, held = {}, {}
        for name, one in self.field.items():
            model = build(base, one)
            unshare(model)
            steps[name] = Step(model, one.own, one.schedule, self.terms)
            held[name] = tensor_bytes(model) + 2 * sum(p.nbytes for p in steps[name].trained)  # AdamW's moments
        lent = moments(list(steps.values()))
        for step in steps.values():
            step.lend(lent)
        data = {batch: self._data(batch, torch.float32) for batch in self.batches}
        for name, batch in self.keys:
            self._save((name, batch), steps[name], data[batch])
        self._time("step", {(n, b): partial(steps[n], *data[b]) for n, b in self.keys}, held)

    def _data(self, batch: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        needed = batch * 3 * math.prod(self.image_size) * dtype.itemsize
        if needed > psutil.virtual_memory().available:
            raise UsageError(
                f"a batch of {batch:,} images takes {needed:,} bytes, more than are free: take a smaller one"
            )
        return batch_of(batch, self.terms, self.image_size, dtype)

    def _save(self, key: Key, step: Step, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        try:
            with step.precision():
                self.memory["saved"][key] = saved_bytes(step.objective, *batch)
        except Exception as error:
            self._failed(key, "step", error)

    def _time(self, what: str, runs: dict[Key, Callable[[], Any]], held: dict[str, int]) -> None:
        """Warm up every contestant, then run the rounds; `held`: bytes that a contestant occupies before it runs."""
        ready = [{key: run for key, run in runs.items() if key[1] == batch} for batch in self.batches]
        ready = [{k: run for k, run in group.items() if self._warm(what, k, run, held[k[0]])} for group in ready]
        found = self.seconds[what]
        for key, result in interleaved(ready, self.rounds, self.terms.device):
            self._tell(what, key)
            if isinstance(result, Exception):
                self._failed(key, what, result)
            else:
                found.setdefault(key, []).append(result)

    def _warm(self, what: str, key: Key, run: Callable[[], Any], held: int) -> bool:
        try:
            for i in range(self.warmup):
                self._tell(f"warming up, {what}", key)
                took = seconds(run, self.terms.device)
                if i == 0 and self.terms.compiled:
                    self.compiling[key] = self.compiling.get(key, 0) + took
            if (peak := cuda_peak(run, self.terms.device)) is not None:
                self.memory[what][key] = held + peak
        except Exception as error:
            self._failed(key, what, error)
            return False
        return True

    def _resident(self, train: bool) -> None:
        try:
            for found in resident.peaks(self._request(train)):
                self._resident_one((found["recipe"], found["batch"]), found)
        except (RuntimeError, ValueError) as error:
            for key in self.keys:
                if key not in self.memory["rss"]:
                    self._failed(key, "resident memory", error)

    def _resident_one(self, key: Key, found: dict) -> None:
        self._tell("resident memory", key)
        if found["error"]:
            self._failed(key, "resident memory", found["error"])
        else:
            self.memory["rss"][key] = found["bytes"]

    def _request(self, train: bool) -> dict[str, Any]:
        return {
            "terms": {k: v for k, v in asdict(self.terms).items() if k not in ("device", "compiled")},
            "train": train,
            "threads": torch.get_num_threads(),
            "batches": self.batches,
            "contestants": [
                {
                    "recipe": name,
                    "settings": one.methods and one.methods.to_json(),
                    "schedule": asdict(one.schedule),
                    "rival": one.rival,
                }
                for name, one in self.field.items()
            ],
        }

    def _tell(self, what: str, key: Key) -> None:
        self.watch(f"{what}: {key[0]}, batch {key[1]}", self.done, self.total)
        self.done += 1

    def _failed(self, key: Key, what: str, error: Exception | str) -> None:
        self.errors.setdefault(key, f"{what}: {reason(error)}")

    def result(self, train: bool, baseline: str, complete: bool) -> Bench:
        """The measurements, with ratios to the baseline."""
        return Bench(
            date=self.date, machine=environment(self.terms.device), model=self.terms.model,
            image_size=self.image_size, dtype=self.terms.dtype, compile=self.terms.compiled, train=train,
            merged=self.terms.merged, memory=self.terms.memory, rounds=self.rounds, warmup=self.warmup,
            baseline=baseline, complete=complete,
            rows=tuple(self._row(name, batch, baseline) for name, batch in self.keys),
        )  # fmt: skip

    def _row(self, name: str, batch: int, baseline: str) -> Row:
        key, base = (name, batch), (baseline, batch)
        timed = base in self.seconds["forward"]
        macs_ratio = self.costs[name].macs / self.costs[baseline].macs if timed else None
        forward = self._times("forward", key, base)
        wall_ratio = None if forward is None else forward.ratio
        return Row(
            recipe=name, batch=batch, settings=self.field[name].settings, cost=self.costs[name],
            macs_ratio=macs_ratio, forward=forward,
            wall_per_macs=wall_ratio / macs_ratio if wall_ratio is not None and macs_ratio is not None else None,
            step=self._times("step", key, base), memory=self._memory(key, base),
            compile_seconds=self.compiling.get(key), error=self.errors.get(key),
        )  # fmt: skip

    def _times(self, what: str, key: Key, base: Key) -> Times | None:
        found = self.seconds[what]
        return times(found[key], key[1], found.get(base, ())) if key in found else None

    def _memory(self, key: Key, base: Key) -> Memory:
        saved = self.memory["saved"]
        return Memory(
            saved_bytes=saved.get(key),
            saved_ratio=saved[key] / saved[base] if key in saved and base in saved else None,
            peak_rss=self.memory["rss"].get(key),
            cuda_peak_forward=self.memory["forward"].get(key),
            cuda_peak_step=self.memory["step"].get(key),
        )


def _never_eager(compiled: bool) -> AbstractContextManager:
    """Raise torch.compile's limit of eight graphs, so that every contestant and batch size is compiled.

    Beyond the limit torch would silently run eagerly, and that time would be reported as the compiled model's.
    """
    if not compiled:
        return nullcontext()
    import torch._dynamo

    many = 1 << 20
    limits = {"recompile_limit": many, "accumulated_recompile_limit": many, "fail_on_recompile_limit_hit": True}
    return torch._dynamo.config.patch(**limits)
