"""Pools that run jobs: one after another in this process, in several processes of this machine, or on a Ray cluster.

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
        """Accept a job. Returns the handle that `wait` uses for it."""
        ...

    def wait(self, handles: Collection[Any]) -> dict[Any, Any]:
        """Wait until a job ends. Returns the results of all ended jobs."""
        ...

    def close(self, now: bool = False) -> None:
        """Close the pool; now: without waiting for running jobs."""
        ...


class Here:
    """One job after another, in this process."""

    slots = 1

    def __init__(self, work: Callable[[Any], Any]):
        self.work, self.waiting = work, {}

    def start(self, job: Any) -> object:
        """Queue the job and return its handle. The job runs in `wait`."""
        handle = object()
        self.waiting[handle] = job
        return handle

    def wait(self, handles: Collection[object]) -> dict[object, Any]:
        """Run the first job."""
        first = next(iter(handles))
        job = self.waiting.pop(first)
        return {first: outcome(lambda: self.work(job))}

    def close(self, now: bool = False) -> None:
        """Does nothing."""


class Processes:
    """New processes of this machine, which share its cores. Each of them is prepared once."""

    def __init__(self, work: Callable[[Any], Any], slots: int, prepare: Callable[[int], None]):
        self.work, self.slots = work, slots
        threads = max(1, (os.cpu_count() or 1) // slots)
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in an unknown state
        self.pool = ProcessPoolExecutor(slots, context, prepare, (threads,))

    def start(self, job: Any) -> Future:
        """Give a job to the next free process."""
        return self.pool.submit(self.work, job)

    def wait(self, handles: Collection[Future]) -> dict[Future, Any]:
        """Wait until a job ends. Raises UsageError if a process was killed, because the pool is broken then."""
        results = {one: outcome(one.result) for one in wait_for(handles, return_when=FIRST_COMPLETED).done}
        if any(isinstance(result, BrokenProcessPool) for result in results.values()):
            raise UsageError(
                "a training process was killed, perhaps because of too little memory: continue with --resume and fewer "
                "--jobs"
            )
        return results

    def close(self, now: bool = False) -> None:
        """End the processes; now: without waiting for their jobs."""
        processes = list((self.pool._processes or {}).values())
        for process in processes if now else ():
            process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Ray:
    """Tasks on a Ray cluster, with one CPU or GPU each. All of its machines must share the folder of the results."""

    def __init__(self, work: Callable[[Any], Any], address: str, gpus: float = 0.0):
        try:
            import ray
        except ImportError as error:
            raise UsageError("running on a Ray cluster needs ray: pip install 'paretune[ray]'") from error
        self.ray = ray
        ray.init(address=None if address == "local" else address, log_to_driver=False)
        resource = "GPU" if gpus else "CPU"
        self.slots = max(1, int(ray.cluster_resources().get(resource, 1) / (gpus or 1)))
        self.work = ray.remote(num_gpus=gpus, num_cpus=1)(work)

    def start(self, job: Any) -> Any:
        """Give a job to the cluster."""
        return self.work.remote(job)

    def wait(self, handles: Collection[Any]) -> dict[Any, Any]:
        """Wait until a job ends."""
        done, _ = self.ray.wait(list(handles), num_returns=1)
        return {one: outcome(lambda one=one: self.ray.get(one)) for one in done}

    def close(self, now: bool = False) -> None:
        """Disconnect from the cluster, which ends all running jobs."""
        self.ray.shutdown()


def outcome(get: Callable[[], Any]) -> Any:
    """The result of `get`, or the exception that it raises."""
    try:
        return get()
    except Exception as error:
        return error
