"""The progress of a suite, and the time that is left."""

from __future__ import annotations

from statistics import fmean
from time import monotonic

from paretune.suite.jobs import Job
from paretune.training.trials import Trial


class Progress:
    """Counts jobs. `total` is the largest possible number of jobs. The time left is estimated from the finished jobs,
    without those that only read an earlier result."""

    INSTANT = 1.0  # seconds: a job that ended sooner only read an earlier result

    def __init__(self, total: int):
        self.total, self.finished = total, 0
        self.before, self.took = monotonic(), []

    def done(self, job: Job, trial: Trial | None) -> str:
        """One line about a job that has just ended."""
        now = monotonic()
        if now - self.before > self.INSTANT:
            self.took.append(now - self.before)
        self.before, self.finished = now, self.finished + 1
        score = "diverged" if trial is None else f"val {trial.val_accuracy:.1%}"
        score += f", test {trial.accuracy:.1%}" if trial is not None and job.test else ""
        return f"{self.finished} of {self.total}  {job}: {score}  {self.left()}"

    def left(self) -> str:
        """The time left, such as "about 1:07 h left"; "" before the first training."""
        if not self.took or self.finished == self.total:
            return ""
        minutes = round(fmean(self.took[-30:]) * (self.total - self.finished) / 60)
        return f"about {minutes // 60}:{minutes % 60:02} h left"
