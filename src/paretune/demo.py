"""The demo: compares the methods on real handwritten digits in drawn clutter, in a few minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from paretune.backbone import EMBEDDED
from paretune.catalogue import RECIPES, Schedule
from paretune.core.model import Adapted
from paretune.data.arrays import ImageArrays
from paretune.data.samples import ImageSet
from paretune.drawn.digit_sets import TEST, TRAIN, VALIDATE, digit_sets
from paretune.drawn.digits import pixel_baseline
from paretune.files import written
from paretune.machine import environment
from paretune.measure.cost import cost
from paretune.show.merged import merged
from paretune.show.sheet import sheet
from paretune.train.evaluate import evaluate
from paretune.train.prepare import built, fit_on, seen

EPOCHS, BATCH = 10, 32


@dataclass(frozen=True)
class Method:
    """A line of the table: a recipe, with or without its token reducer."""

    name: str
    recipe: str
    reduced: bool
    lr: float


# The learning rates come from scripts/demo_learning_rates.py: of 1e-3, 3e-3, 1e-2 and 3e-2 the one that is best on the
# 200 validation images, found for the un-reduced method and used for its reduced form too: only the tokens differ.
METHODS = (
    Method("linear", "linear", False, 3e-3),
    Method("LoRA", "fpet-lora", False, 3e-3),
    Method("FPET-LoRA", "fpet-lora", True, 3e-3),
    Method("AdaptFormer", "fpet-adaptformer", False, 3e-3),
    Method("FPET-AdaptFormer", "fpet-adaptformer", True, 3e-3),
    Method("Dense Adapters", "sparse-tuning", False, 1e-3),
    Method("Sparse-Tuning", "sparse-tuning", True, 1e-3),
)

COLUMNS = {
    "method": "what is trained beside the new head; linear: nothing",
    "tokens": "patch tokens at the input and after the last reduction",
    "accuracy": f"right answers on {TEST} test images that played no part in training",
    "trained": "trained parameters, the head included",
    "file kB": "size of adapter_model.safetensors, all that has to be kept per task",
    "MMACs": "million multiply-accumulates per image",
    "train s": "seconds of training, with a look at the validation images after every epoch",
    "images/s": "images per second in evaluation, batches of 64, best of three passes",
}


def demo(
    out: str | Path,
    seed: int = 0,
    epochs: int = EPOCHS,
    methods: Sequence[Method] = METHODS,
    tell: Callable[[str], None] = lambda line: None,
) -> dict:
    """Train every method on the demo's data, one folder each in `out`, and draw merged.png; return the table's content.

    800 images train, 200 choose the best epoch, 797 test. `tell` gets a line of progress now and then.
    """
    start, out = perf_counter(), Path(out)
    tell(f"drawing {TRAIN + VALIDATE + TEST:,} digits into clutter; logistic regression on their pixels")
    train_set, val_set, test_set = digit_sets(seed)
    pixels = pixel_baseline(TRAIN + VALIDATE, TEST, seed)
    rows, models = [], {}
    for i, method in enumerate(methods):
        tell(f"training {method.name} ({i + 1} of {len(methods)})")
        schedule = schedule_of(method, epochs)
        model = build(method, schedule, seed, test_set.classes)
        folder = out / method.name.lower().replace(" ", "-")
        result = fit_on(model, train_set, val_set, schedule, folder, seed=seed, overwrite=True, quiet=True)
        rows.append(row(method, model, result, folder, seen(test_set, model)))
        models[method.name] = model
    with written(out / "merged.png") as new:
        picture(models, test_set).save(new, format="PNG")
    return {
        "pixels": pixels,
        "columns": COLUMNS,
        "rows": rows,
        "seed": seed,
        "epochs": epochs,
        "images": {"train": TRAIN, "validate": VALIDATE, "test": TEST},
        "environment": environment(next(models[methods[-1].name].parameters()).device),
        "seconds": perf_counter() - start,
    }


def schedule_of(method: Method, epochs: int = EPOCHS) -> Schedule:
    """How a method is trained."""
    return Schedule(epochs=epochs, batch_size=BATCH, lr=method.lr, warmup_epochs=epochs / 10)


def build(method: Method, schedule: Schedule, seed: int, classes: Sequence[str]) -> Adapted:
    """The embedded backbone with the adapters and reducer of this method."""
    methods = RECIPES[method.recipe].methods
    return built(EMBEDDED, methods if method.reduced else replace(methods, reducer=None), schedule, classes, seed=seed)


def row(method: Method, model: Adapted, result, folder: Path, test_set: ImageSet) -> dict:
    """One line of the table, from a model that holds its best epoch."""
    costs = cost(model)
    images = torch.stack([test_set[i][0] for i in range(min(256, len(test_set)))]).to(next(model.parameters()).device)
    with torch.inference_mode():
        left = model.run(images[:1]).tokens.patches
    return {
        "method": method.name,
        "reduced": method.reduced,
        "lr": method.lr,
        "tokens": [images.shape[-2] // 4 * images.shape[-1] // 4, left],
        "accuracy": evaluate(model, test_set).accuracy,
        "val_accuracy": result.accuracy,
        "trained": costs.trained,
        "trained_without_head": costs.trained_without_head,
        "file_bytes": (folder / "adapter_model.safetensors").stat().st_size,
        "macs": costs.macs,
        "train_seconds": result.seconds,
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
def picture(models: dict[str, Adapted], test_set: ImageArrays, count: int = 6) -> Image.Image:
    """Some test images and, for every method that reduces, which patches ended in one token."""
    reduced = {name: model for name, model in models.items() if model.reducer is not None}
    pictures = test_set.images[:count]
    whole = np.arange(64)
    columns = [[merged(image, whole, (8, 8)) for image in pictures]]
    for model in reduced.values():
        shown = seen(test_set, model)
        images = torch.stack([shown[i][0] for i in range(count)]).to(next(model.parameters()).device)
        groups = model.run(images).tokens.groups().cpu().numpy()
        columns.append([merged(image, group, (8, 8)) for image, group in zip(pictures, groups, strict=True)])
    return sheet(["patches", *reduced], list(zip(*columns, strict=True)))
