"""Measure time and memory of methods: all contestants on one machine, in one process, taking turns.

        forward     warm-up of all, then rounds in which each contestant runs every batch size once (timing/rounds.py)
        step        the same with training steps, and the bytes that autograd saves (measure/memory.py)
        resident    peak memory on a CPU, each number from its own process (timing/resident.py)

timm's own forward with fused attention is always measured too, so the baseline of every comparison is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from paretune.catalogue import RECIPES, Recipe, recipe
from paretune.core.memory import known
from paretune.errors import UsageError, quoted, refuse, unknown
from paretune.timing import resident
from paretune.timing.contestants import LIKE, Contestant, contestant
from paretune.timing.contestants import rival as against
from paretune.timing.models import DTYPES, TIMM, Terms
from paretune.timing.result import Bench
from paretune.timing.session import Session
from paretune.training.device import pick_device

MOST = 10**6  # images in a batch, rounds


def bench(
    model: str,
    recipes: Sequence[str | Recipe],
    batches: Sequence[int] = (1, 8, 32),
    *,
    image_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    compile: bool = False,
    train: bool = False,
    merge: bool = False,
    baseline: str = TIMM,
    rounds: int = 15,
    warmup: int = 2,
    threads: int | None = None,
    rss: bool | None = None,
    memory: str = "full",
    rival: str | None = None,
    watch: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Bench:
    """Measure recipes beside the plain backbone on this machine. Weights are random: time does not depend on them.

    Args:
        model: timm name, hf-hub id or paretune_tiny.
        recipes: names, or Recipe objects with names of their own.
        batches: batch sizes.
        image_size: side of the square input; the backbone's own if not given.
        dtype: float32, bfloat16 or float16; of weights and images in the forward, of autocast in the training step.
        compile: use torch.compile for all contestants; the compile time is reported separately.
        train: time training steps too, and count what they save for the backward pass.
        merge: fold leaves (LoRA...) into the backbone before the forward, as for deployment.
        baseline: reference of the ratios: timm, or a recipe that keeps all tokens; it is added if it is not in recipes.
        rounds, warmup: timed and untimed runs of every contestant.
        threads: threads of torch on a CPU; unchanged if not given.
        rss: also measure the peak resident memory (Linux, CPU); by default only with train=True.
        memory: what training steps of the recipes keep for the backward pass: full, exact or low, as in `fit`.
        rival: hf-peft: HF PEFT's LoRA in plain timm takes part too, at the job of the first of the recipes that is a
            LoRA and nothing else, or of lora, which is then added.
        watch: called with (what is being measured, number done, total) before every measurement.

    Ctrl-C ends the measurement; the result then has `complete` False and contains what was measured.
    Raises UsageError for impossible settings, before anything is measured.
    """
    asked = _asked(recipes, baseline, rival)
    kept = known(memory)
    if kept != "full" and not train:
        raise UsageError(f"memory {memory} is of training steps: measure them with train=True, --train")
    where = pick_device(device)
    _check(batches, rounds, warmup, threads, dtype, where)
    can = where.type == "cpu" and resident.SUPPORTED
    if rss and not can:
        raise UsageError("the peak of the resident memory can be measured on Linux and for a CPU only: leave rss out")
    terms = Terms(model, image_size, where, dtype, merge, compile, kept)
    with _threads(threads):
        session = Session(terms, asked, tuple(dict.fromkeys(batches)), rounds, warmup, watch)
        complete = session.run(train, can and train if rss is None else rss)
        return session.result(train, baseline, complete)


def _asked(recipes: Sequence[str | Recipe], baseline: str, rival: str | None) -> dict[str, Contestant]:
    """The contestants by name."""
    found = [recipe(one) if isinstance(one, str) else one for one in recipes]
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1 or name in (TIMM, rival)})
    refuse([f"'{name}' is there already" for name in twice], "contestants need names of their own")
    field = {TIMM: None, **{one.name: one for one in found}}
    if baseline not in (*field, rival):
        if baseline not in RECIPES:
            raise unknown("baseline", baseline, [TIMM, *(name for name in RECIPES if not _reduces(RECIPES[name]))])
        field[baseline] = RECIPES[baseline]
    if _reduces(field.get(baseline)):
        raise UsageError(
            f"baseline '{baseline}' reduces tokens: a ratio refers to a method that keeps all of them, such as {TIMM}"
        )
    if rival is None:
        return {name: contestant(one) for name, one in field.items()}
    model = next((one for one in field.values() if one is not None and _alone(one)), None)
    model = model or field.setdefault(LIKE, RECIPES[LIKE])
    assert model is not None, "timm has another name"
    return {name: contestant(one) for name, one in field.items()} | {rival: against(rival, model)}


def _alone(one: Recipe) -> bool:
    """Whether a rival can do its job: one adapter that it has too, and no reducer."""
    return one.reducer is None and len(one.adapters) == 1 and hasattr(one.adapters[0], "in_peft")


def _reduces(one: Recipe | None) -> bool:
    return one is not None and one.reducer is not None


def _check(batches, rounds: int, warmup: int, threads: int | None, dtype: str, where: torch.device) -> None:
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, list(DTYPES))
    counts = {"rounds": rounds, "warmup": warmup, "threads": 1 if threads is None else threads}
    named = [*counts.items(), *(("batch", batch) for batch in batches)]
    problems = [f"{name}={quoted(count)} must be at least 1" for name, count in named if count < 1]
    problems += [f"{name}={quoted(count)} must be at most {MOST:,}" for name, count in named if count > MOST]
    if threads is not None and threads > 1024:
        problems.append(f"threads={quoted(threads)} must be at most 1,024")
    if not batches:
        problems.append("there is no batch size")
    if dtype == "float16" and where.type == "cpu":
        problems.append("float16 needs a GPU: use bfloat16 or float32 on a CPU")
    refuse(problems, "cannot measure")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
