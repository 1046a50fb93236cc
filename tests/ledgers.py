"""Ledgers of made-up results, for tests."""

import json

TASKS = {"digits": "natural", "shapes": "natural", "tissue": "specialised"}


def row(recipe="lora", task="digits", seed=0, test=0.9, **changes):
    """A whole line; changes are named by their path, protocol__epoch="last"."""
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    made = {
        "kind": "result",
        "version": 1,
        "suite": "offline",
        "task": task,
        "group": TASKS[task],
        "recipe": recipe,
        "settings": {"adapters": [{"method": "LoRA", "rank": 8}], "reducer": None, "schedule": {"lr": 0.003}},
        "seed": seed,
        "metric": "accuracy",
        "test": test,
        "val": 0.5,
        "chosen": {"lr": 0.003},
        "candidates": [{"lr": 0.001, "seed": 0, "val": 0.4}, {"lr": 0.003, "seed": 0, "val": 0.5}],
        "backbone": {"name": "tiny", "source": "pretrained", "fingerprint": "f1", "normalisation": half},
        "protocol": {
            "name": "offline",
            "train": "train800",
            "selection": "val200",
            "grid": {"lr": [0.001, 0.003]},
            "epoch": "best on val200",
            "test_used": "once",
            "schedule": {"epochs": 10, "batch_size": 32},
            "preprocessing": {"input_size": [3, 32, 32], **half},
        },
        "data": {name: f"{name} of {task}, a hash" for name in ("train", "val", "test")}
        | {"images": {"train": 800, "val": 200, "test": 1000}, "lossy": "lossless"},
        "cost": {"trained": 37834, "trained_without_head": 36864, "macs": 98_700_000, "tokens_last": 65},
        "seconds": 36.0,
        "environment": {"name": "CPU X", "device": "cpu", "torch": "2.9", "python": "3.12"},
        "date": "2026-11-21",
    }
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = made
        for name in outer:
            place = place[name]
        place[last] = value
    return made


def rows(recipe, scores, **changes):
    """Lines for {task: [score of seed 0, of seed 1, ...]}; None: no result."""
    return [
        row(recipe, task, seed, score, **changes)
        for task, of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
        if score is not None
    ]


def write(path, *lines):
    """A ledger with these lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
