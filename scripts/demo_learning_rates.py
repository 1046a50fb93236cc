"""Find the demo's learning rates: accuracy on its 200 validation images, seed 0, for every un-reduced method.

    python scripts/demo_learning_rates.py            about 7 minutes on two cores

The best rate of a method (of equals the one of lower loss) stands in paretune.demo.METHODS, for its reduced form too.
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory

from paretune.backbone import EMBEDDED
from paretune.demo import METHODS, PROTOCOL
from paretune.drawn.digit_sets import digit_sets
from paretune.training.prepare import built, fit_on

RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def main() -> None:
    """Print one line per method and rate."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rates", type=float, nargs="+", default=RATES)
    rates = arguments.parse_args().rates
    train, val, _ = digit_sets(seed=0)
    for method in (method for method in METHODS if method.reducer is None):
        for lr in rates:
            schedule = PROTOCOL.schedule_at(lr)
            model = built(EMBEDDED, method.methods, schedule, val.classes)
            with TemporaryDirectory() as out:
                result = fit_on(model, train, val, schedule, out, overwrite=True, quiet=True)
            print(f"{method.name:<20} lr {lr:<6g} accuracy {result.accuracy:.3f}  loss {result.loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
