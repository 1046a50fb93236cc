"""The demo: compares the methods on real handwritten digits in drawn clutter, in a few minutes on a CPU.

It is a suite of one task. Its results are rows of a ledger, beside which it measures what depends on the machine.
`real` is the same with DINOv2-S on photographs, both made by scripts/real_material.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from paretune.backbone import EMBEDDED
from paretune.catalogue import RECIPES, Recipe, Schedule
from paretune.catalogue import recipe as find
from paretune.checkpoint import TENSORS, load
from paretune.core import anatomy
from paretune.core.model import Adapted
from paretune.data.samples import ImageSet
from paretune.drawn.digit_sets import TEST, TRAIN, VALIDATE, digit_parts
from paretune.drawn.digits import pixel_baseline
from paretune.errors import UsageError
from paretune.files import written
from paretune.ledger.results import Ledger
from paretune.methods import Methods
from paretune.show.merged import merged
from paretune.show.panels import as_pixels
from paretune.show.sheet import sheet
from paretune.suite.planning import Plan
from paretune.suite.protocols import Protocol
from paretune.suite.run import LEDGER, run_here
from paretune.suite.suites import Source, Suite, read_task
from paretune.training.device import pick_device
from paretune.training.log import duration
from paretune.training.prepare import seen

TASK = "digits"
SHOWN, SIDE = 256, 160  # images that are timed; screen pixels that a picture has at least
PROTOCOL = Protocol(
    "demo",
    "10 epochs on 800 images at the recipe's learning rate; the epoch chosen on 200 others; the test looked at once",
    Schedule(epochs=10, batch_size=32, warmup_epochs=1),
)


def _method(name: str, recipe: str, lr: float) -> Recipe:
    """A recipe of the catalogue as the demo calls and trains it."""
    return replace(find(recipe), name=name, schedule=Schedule(lr=lr))


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

REAL_TASK, REAL_MODEL, REAL_WEIGHTS, REAL_SIDE = "textile", "vit_small_patch14_dinov2", "dinov2_vits14.safetensors", 112
LATE = 4  # blocks that are adapted there; those before them are computed once per picture
REAL_PROTOCOL = Protocol(
    "demo-real",
    "5 epochs on 800 images at a learning rate that is not tuned; the epoch chosen carefully on 200 others; the test "
    "looked at once",
    Schedule(epochs=5, batch_size=32, warmup_epochs=0.5),
    choose="careful",
)
REAL_METHODS = (
    _method("linear", "linear", 1e-2),
    _method("LoRA", "lora@8-11", 1e-3),
    _method("Sparse-Tuning", "sparse-tuning-vtab@8-11", 3e-3),
    _method("FPET-LoRA", "fpet-lora@8-11", 1e-3),
)

COLUMNS = {
    "method": "what is trained beside the new head; linear: nothing",
    "tokens": "patch tokens at the input and after the last reduction",
    "accuracy": "right answers on test images that played no part in training",
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


def real(root: Path, out: Path, seed: int = 0, epochs: int | None = None) -> Plan:
    """The demo on photographs. `root`: the folder that scripts/real_material.py made.

    Raises UsageError, which says how to make it, if it lacks the weights or the task.
    """
    weights, task = root / REAL_WEIGHTS, root / REAL_TASK
    if missing := [str(path) for path in (weights, task / "train", task / "test") if not path.exists()]:
        raise UsageError(
            f"{root} lacks {' and '.join(missing)}: `python scripts/real_material.py --out {root}`, or `make real`, "
            "makes them; without --real the demo needs nothing"
        )
    known = REAL_PROTOCOL
    protocol = known if epochs is None or epochs == known.schedule.epochs else known.lasting(epochs)
    suite = Suite("demo-real", {REAL_TASK: "industry"}, Source(read_task, (root,)))
    return Plan(suite, REAL_METHODS, protocol, (seed,), REAL_MODEL, out, checkpoint=weights, image_size=REAL_SIDE)


@torch.inference_mode()
def forecast(plan: Plan, images: int = 8) -> float:
    """About how many seconds a demo on photographs will take here: a few forward passes are timed.

    A training step of the last blocks takes about three of their forward passes.
    """
    model = plan.without_weights(plan.recipes[0], ["a", "b"]).to(pick_device(plan.device)).eval()
    batch = torch.zeros(images, *model.preprocessing["input_size"], device=next(model.parameters()).device)
    one = 1 / throughput(model, batch, batch=images)
    sizes = {part: len(found) for part, found in plan.suite.parts(REAL_TASK).items()}
    late = LATE / len(model.backbone.blocks)
    learned = plan.protocol.schedule.epochs * (3 * sizes["train800"] + sizes["val200"]) * late
    once = sizes["train800"] + sizes["val200"] + sizes["test"] + SHOWN * 4
    return one * (len(plan.recipes) * once + (len(plan.recipes) - 1) * learned)


def demo(plan: Plan, tell: Callable[[str], None] = lambda line: None) -> dict:
    """Train every method that the ledger in the plan's folder lacks, and draw merged.png there.

    plan: of `planned` or `real`, with one seed
    Returns {ledger, pixels, rows, seconds}: the ledger's place, the accuracy of logistic regression (None for
    photographs), the rows of the ledger, each with what was `measured` now, and the seconds of it all. `tell` gets a
    line of progress now and then.
    """
    start, ledger, (seed,) = perf_counter(), Ledger(plan.out / LEDGER), plan.seeds
    (task,), pixels = plan.suite.groups, None
    if task == TASK:
        tell(f"drawing {TRAIN + VALIDATE + TEST:,} digits into clutter; logistic regression on their pixels")
        pixels = pixel_baseline(TRAIN + VALIDATE, TEST, seed)
    else:
        tell(
            f"{len(plan.recipes)} methods on photographs: about {duration(forecast(plan))} on this machine as it is now"
        )
    found = run_here(plan, ledger, tell)
    test_set, rows, models = plan.suite.parts(task)["test"], [], {}
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
    images = torch.stack([shown[i][0] for i in range(SHOWN)]).to(next(model.parameters()).device)
    return {
        "tokens": [math.prod(anatomy.shape(model.backbone).grid), model.run(images[:1]).tokens.patches],
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
    columns = []
    for model in reduced.values():
        shown = seen(test_set, model)
        images = torch.stack([shown[i][0] for i in range(count)]).to(next(model.parameters()).device)
        pictures, grid = as_pixels(images, model.preprocessing), anatomy.shape(model.backbone).grid
        scale = -(-SIDE // images.shape[-1])
        if not columns:
            columns.append([merged(image, np.arange(math.prod(grid)), grid, scale) for image in pictures])
        groups = model.run(images).tokens.groups().cpu().numpy()
        columns.append([merged(image, group, grid, scale) for image, group in zip(pictures, groups, strict=True)])
    return sheet(["patches", *reduced], list(zip(*columns, strict=True)))
