"""Pools that run jobs: one after the other in this process, in several processes of this machine, or on a Ray cluster.

A pool has `slots`, `start(job) -> handle` and `wait(handles) -> {handle: result}`, which returns at least one finished
job. If the job raised an exception, the exception is its result.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from paretune.errors import UsageError


class Pool(Protocol):
    """See the module."""

    slots: int

    def start(self, job: Any) -> Any:
        """Take a job; the handle by which `wait` knows it."""
        ...

    def wait(self, handles: Collection[Any]) -> dict[Any, Any]:
        """What has ended, at least one of them."""
        ...

    def close(self, now: bool = False) -> None:
        """The end; `now`: in the middle of jobs."""
        ...


class Here:
    """One job after the other, in this process."""

    slots = 1

    def __init__(self, work: Callable[[Any], Any]):
        self.work, self.waiting = work, {}

    def start(self, job: Any) -> object:
        """Queue the job and return a handle; the job runs in `wait`."""
        handle = object()
        self.waiting[handle] = job
        return handle

    def wait(self, handles: Collection[object]) -> dict[object, Any]:
        """Run the first of them."""
        first = next(iter(handles))
        job = self.waiting.pop(first)
        return {first: outcome(lambda: self.work(job))}

    def close(self, now: bool = False) -> None:
        """Nothing to close."""


class Processes:
    """Fresh processes of this machine that share its cores; each one is prepared once."""

    def __init__(self, work: Callable[[Any], Any], slots: int, prepare: Callable[[int], None]):
        self.work, self.slots = work, slots
        threads = max(1, (os.cpu_count() or 1) // slots)
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
        self.pool = ProcessPoolExecutor(slots, context, prepare, (threads,))

    def start(self, job: Any) -> Future:
        """Hand a job to the next free process."""
        return self.pool.submit(self.work, job)

    def wait(self, handles: Collection[Future]) -> dict[Future, Any]:
        """Wait until one of them ends. Raises UsageError if a process was killed: the pool is of no use then."""
        results = {one: outcome(one.result) for one in wait_for(handles, return_when=FIRST_COMPLETED).done}
        if any(isinstance(result, BrokenProcessPool) for result in results.values()):
            raise UsageError(
                "a process that trained was killed, perhaps for want of memory: go on with --resume and fewer --jobs"
            )
        return results

    def close(self, now: bool = False) -> None:
        """End the processes; `now`: in the middle of their jobs."""
        processes = list((self.pool._processes or {}).values())
        for process in processes if now else ():
            process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Ray:
    """Tasks on a Ray cluster, one CPU or GPU each; a folder for results that all of its machines share is assumed."""

    def __init__(self, work: Callable[[Any], Any], address: str, gpus: float = 0.0):
        try:
            import ray
        except ImportError as error:
            raise UsageError("a Ray cluster needs ray: pip install 'paretune[ray]'") from error
        self.ray = ray
        ray.init(address=None if address == "local" else address, log_to_driver=False)
        resource = "GPU" if gpus else "CPU"
        self.slots = max(1, int(ray.cluster_resources().get(resource, 1) / (gpus or 1)))
        self.work = ray.remote(num_gpus=gpus, num_cpus=1)(work)

    def start(self, job: Any) -> Any:
        """Hand a job to the cluster."""
        return self.work.remote(job)

    def wait(self, handles: Collection[Any]) -> dict[Any, Any]:
        """Wait until one of them ends."""
        done, _ = self.ray.wait(list(handles), num_returns=1)
        return {one: outcome(lambda one=one: self.ray.get(one)) for one in done}

    def close(self, now: bool = False) -> None:
        """Leave the cluster, which ends what still runs."""
        self.ray.shutdown()


def outcome(get: Callable[[], Any]) -> Any:
    """What `get` gives, or the exception that it raises."""
    try:
        return get()
    except Exception as error:
        return error
