"""The resident memory of one forward or one training step, on a CPU.

A process has one peak value, which never falls, so contestants in the same process would share it. Therefore a helper
process imports everything once, builds one model after the other, and forks itself for every number:

        bench ── request ──> helper ── fork ──> runs a batch of one: the libraries' own pages come in
                                                notes the level of the resident set
                                                runs the batch
              <── a line ───        <───────── the mark above that level

The weights are part of the level before; images, activations, gradients, AdamW's moments and workspace are counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import torch

from paretune.catalogue import Schedule
from paretune.errors import UsageError
from paretune.methods import Methods
from paretune.timing.contestants import Contestant
from paretune.timing.models import Step, Terms, backbone, batch_of, build, forward

SUPPORTED = sys.platform == "linux"


def peaks(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield {"recipe", "batch", "bytes", "error"} for every contestant and batch size of `request`.

    request: {"terms": of Terms, "train", "threads", "batches", "contestants": [{"recipe", "settings", "schedule",
    "rival"}]}
    """
    command = [sys.executable, "-W", "ignore", "-m", "paretune.timing.resident"]
    with TemporaryFile("w+") as complaints, _helper(command, complaints) as helper:
        asked, told = helper.stdin, helper.stdout
        assert asked is not None, "a pipe"
        assert told is not None, "a pipe"
        asked.write(json.dumps(request))
        asked.close()
        yield from map(json.loads, told)
        if helper.wait() != 0:
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:]
            raise RuntimeError(f"the helper that measures memory ended with {helper.returncode}: {''.join(last)}")


@contextmanager
def _helper(command: list[str], complaints: IO[str]) -> Iterator[subprocess.Popen]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": complaints}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as helper:  # its parent handles Ctrl-C
        try:
            yield helper
        finally:
            helper.kill()


def main() -> None:
    """The helper: a request on stdin, a line of JSON on stdout for each number."""
    request = json.load(sys.stdin)
    torch.set_num_threads(1)  # a fork inherits no threads: none may have been started yet
    terms = Terms(**request["terms"])
    base = backbone(terms, torch.float32 if request["train"] else terms.number)
    for one in request["contestants"]:
        for batch in request["batches"]:
            print(json.dumps(_peak(base, one, batch, terms, request["train"], request["threads"])), flush=True)


def _peak(base: torch.nn.Module, one: dict, batch: int, terms: Terms, train: bool, threads: int) -> dict:
    methods = None if one["settings"] is None else Methods.from_json(one["settings"])
    who = Contestant(methods, Schedule(**one["schedule"]), one["rival"])
    model = build(base, who)
    size = tuple(model.preprocessing["input_size"][1:])

    def run(count: int) -> None:
        images, labels = batch_of(count, terms, size, next(base.parameters()).dtype)
        if train:
            Step(model, who.own, who.schedule, terms)(images, labels)
        elif served is not None:
            served(images)

    served = None if train else forward(model, who.own, terms)
    found = {"recipe": one["recipe"], "batch": batch, "bytes": None, "error": None}
    try:
        return found | {"bytes": int(in_a_fork(lambda: growth(run, batch, threads)))}
    except (RuntimeError, UsageError) as error:
        return found | {"error": str(error)}


def growth(run: Callable[[int], Any], batch: int, threads: int) -> int:
    """The peak growth of the resident set in bytes while `run(batch)` runs, in a process that ran nothing else."""
    import resource  # of Unix alone

    torch.set_num_threads(threads)
    run(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    level = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run(batch)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - level


def in_a_fork(work: Callable[[], Any]) -> str:
    """Run `work` in a fork of this process and return its text. Raises RuntimeError if the fork ends otherwise."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, f"ok {work()}".encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}"[:500].encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if not said.startswith("ok "):
        raise RuntimeError(said or f"a process that measured memory was ended by signal {status & 127}")
    return said.removeprefix("ok ")


if __name__ == "__main__":
    main()
