"""The demo: compares the methods on real handwritten digits in drawn clutter, in a few minutes on a CPU.

It is a suite of one task. Its results are rows of a ledger, beside which it measures what depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from paretune.backbone import EMBEDDED
from paretune.catalogue import RECIPES, Recipe, Schedule
from paretune.checkpoint import TENSORS, load
from paretune.core.model import Adapted
from paretune.data.samples import ImageSet
from paretune.drawn.digit_sets import TEST, TRAIN, VALIDATE, digit_parts
from paretune.drawn.digits import pixel_baseline
from paretune.files import written
from paretune.ledger.results import Ledger
from paretune.methods import Methods
from paretune.show.merged import merged
from paretune.show.sheet import sheet
from paretune.suite.planning import Plan
from paretune.suite.protocols import Protocol
from paretune.suite.run import LEDGER, run_here
from paretune.suite.suites import Source, Suite
from paretune.train.device import pick_device
from paretune.train.prepare import seen

TASK = "digits"
PROTOCOL = Protocol(
    "demo",
    "10 epochs on 800 images at the recipe's learning rate; the epoch chosen on 200 others; the test looked at once",
    Schedule(epochs=10, batch_size=32, warmup_epochs=1),
)


def _method(name: str, recipe: str, lr: float) -> Recipe:
    """A recipe of the catalogue as the demo calls and trains it."""
    return replace(RECIPES[recipe], name=name, schedule=Schedule(lr=lr))


# The learning rates come from scripts/demo_learning_rates.py: of 1e-3, 3e-3, 1e-2 and 3e-2 the one that is best on the
# 200 validation images, found for the un-reduced method and used for its reduced form too: only the tokens differ.
METHODS = (
    _method("linear", "linear", 3e-3),
    _method("LoRA", "lora", 3e-3),
    _method("FPET-LoRA", "fpet-lora", 3e-3),
    _method("AdaptFormer", "adaptformer", 3e-3),
    _method("FPET-AdaptFormer", "fpet-adaptformer", 3e-3),
    Recipe(
        "Dense Adapters",
        str(Methods(RECIPES["sparse-tuning"].adapters)),
        RECIPES["sparse-tuning"].adapters,
        schedule=Schedule(lr=1e-3),
    ),
    _method("Sparse-Tuning", "sparse-tuning", 1e-3),
)

COLUMNS = {
    "method": "what is trained beside the new head; linear: nothing",
    "tokens": "patch tokens at the input and after the last reduction",
    "accuracy": f"right answers on {TEST} test images that played no part in training",
    "trained": "trained parameters, the head included",
    "file kB": f"size of {TENSORS}, all that has to be kept per task",
    "MMACs": "million multiply-accumulates per image",
    "train s": "seconds of training, with a look at the validation images after every epoch",
    "images/s": "images per second in evaluation, batches of 64, best of three passes",
}


def planned(out: Path, seed: int = 0, epochs: int | None = None, recipes: Sequence[Recipe] = METHODS) -> Plan:
    """The demo as a suite; epochs: others than the protocol's, which makes it another one."""
    suite = Suite("demo", {TASK: "natural"}, Source(digit_parts, (seed,)))
    protocol = PROTOCOL if epochs is None or epochs == PROTOCOL.schedule.epochs else PROTOCOL.lasting(epochs)
    return Plan(suite, tuple(recipes), protocol, (seed,), EMBEDDED, out)


def demo(plan: Plan, tell: Callable[[str], None] = lambda line: None) -> dict:
    """Train every method that the ledger in the plan's folder lacks, and draw merged.png there.

    plan: of `planned`, with one seed
    Returns {ledger, pixels, rows, seconds}: the ledger's place, the accuracy of logistic regression, the rows of the
    ledger, each with what was `measured` now, and the seconds of it all. `tell` gets a line of progress now and then.
    """
    start, ledger, (seed,) = perf_counter(), Ledger(plan.out / LEDGER), plan.seeds
    tell(f"drawing {TRAIN + VALIDATE + TEST:,} digits into clutter; logistic regression on their pixels")
    pixels = pixel_baseline(TRAIN + VALIDATE, TEST, seed)
    found = run_here(plan, ledger, tell)
    test_set, rows, models = plan.suite.parts(TASK)["test"], [], {}
    for pair in plan.pairs():
        row = found[pair.task, pair.recipe.name, seed]
        folder = pair.folder(row)
        model = load(folder).to(pick_device(plan.device))
        rows.append({**vars(row), "measured": measured(model, folder, test_set)})
        models[pair.recipe.name] = model
    with written(plan.out / "merged.png") as new:
        picture(models, test_set).save(new, format="PNG")
    return {"ledger": str(ledger.path), "pixels": pixels, "rows": rows, "seconds": perf_counter() - start}


@torch.inference_mode()
def measured(model: Adapted, folder: Path, test_set: ImageSet) -> dict:
    """What no ledger holds of a trained model: tokens before and after, bytes of its file, images per second."""
    shown = seen(test_set, model)
    images = torch.stack([shown[i][0] for i in range(256)]).to(next(model.parameters()).device)
    return {
        "tokens": [images.shape[-2] // 4 * images.shape[-1] // 4, model.run(images[:1]).tokens.patches],
        "file_bytes": (folder / TENSORS).stat().st_size,
        "images_per_second": throughput(model, images),
    }


@torch.inference_mode()
def throughput(model: Adapted, images: torch.Tensor, batch: int = 64, passes: int = 3) -> float:
    """Images (B, 3, H, W) per second: the best of some passes after one to warm up; nothing but the model is timed."""

    def one_pass() -> float:
        start = perf_counter()
        for some in images.split(batch):
            model(some).cpu()
        return perf_counter() - start

    one_pass()
    return len(images) / min(one_pass() for _ in range(passes))


@torch.inference_mode()
def picture(models: dict[str, Adapted], test_set: ImageSet, count: int = 6) -> Image.Image:
    """Some test images and, for every method that reduces, which patches ended in one token."""
    reduced = {name: model for name, model in models.items() if model.reducer is not None}
    pictures = [np.asarray(test_set.through(None)[i][0]) for i in range(count)]
    whole = np.arange(64)
    columns = [[merged(image, whole, (8, 8)) for image in pictures]]
    for model in reduced.values():
        shown = seen(test_set, model)
        images = torch.stack([shown[i][0] for i in range(count)]).to(next(model.parameters()).device)
        groups = model.run(images).tokens.groups().cpu().numpy()
        columns.append([merged(image, group, (8, 8)) for image, group in zip(pictures, groups, strict=True)])
    return sheet(["patches", *reduced], list(zip(*columns, strict=True)))
