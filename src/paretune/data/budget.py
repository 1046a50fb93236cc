"""How much may be in memory at once, whatever number of threads reads pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Budget:
    """So many bytes or pixels for all threads together; who asks for more than is left waits for the others."""

    def __init__(self, total: int):
        self.total, self.taken, self._changed = total, 0, Condition()

    @contextmanager
    def of(self, amount: int) -> Iterator[None]:
        """Hold `amount` for a while. More than the total is held alone."""
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
