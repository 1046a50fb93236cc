"""Limit the total memory of all threads that read images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Budget:
    """A number of bytes or pixels for all threads together. A thread that needs more than is left waits."""

    def __init__(self, total: int):
        self.total, self.taken, self._changed = total, 0, Condition()

    @contextmanager
    def of(self, amount: int) -> Iterator[None]:
        """Reserve `amount` inside the `with`. An amount above the total waits until nothing else is reserved."""
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self.taken + amount <= self.total)
            self.taken += amount
        try:
            yield
        finally:
            with self._changed:
                self.taken -= amount
                self._changed.notify_all()
