"""How long training waits for its pictures is told for every epoch."""

import re
import time

import pytest
from test_train import SHORT, small_model, small_sets

from paretune.training.fit import fit
from paretune.training.log import Log


class Slow:
    """Batches that take a while."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 4

    def __iter__(self):
        for i in range(4):
            time.sleep(self.seconds)
            yield i


@pytest.mark.parametrize(("reading", "working", "least", "most"), [(0.05, 0.0, 0.9, 1.0), (0.0, 0.05, 0.0, 0.2)])
def test_the_time_until_a_batch_is_there_is_waiting(tmp_path, reading, working, least, most):
    log = Log(tmp_path, 1, show=False, quiet=True)
    assert [time.sleep(working) or batch for batch in log.track(Slow(reading), 0, 8)] == [0, 1, 2, 3]
    assert least <= log.waited / log.trained <= most


def test_every_epoch_says_it(tmp_path, capsys):
    train, val = small_sets(small_model())
    fit(small_model(), train, val, SHORT, tmp_path, device="cpu")
    assert len(re.findall(r"epoch \d/3 .* waiting for data \d+%  ", capsys.readouterr().err)) == 3
