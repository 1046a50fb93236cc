"""Runs that were damaged, killed at odd moments, or started twice."""

import json
import threading
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_train import LORA, SHORT, run, same, small_model, small_sets, tensors, timeless

import paretune as pt
from paretune.errors import Diverged, UsageError
from paretune.training.fit import fit
from paretune.training.predict import predict
from paretune.training.runfolder import comparable


@pytest.fixture
def begun(tmp_path):
    """A run of three epochs that was interrupted in the second."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt=30)
    return tmp_path


def change(folder, spoil):
    """Rewrite the state of a run: `spoil` takes tensors and facts, and answers with facts."""
    path = folder / "state" / "epoch.safetensors"
    with safe_open(path, "pt") as file:
        held, facts = {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118
    facts = spoil(held, facts)
    save_file(held, path, metadata={"facts": facts if isinstance(facts, str) else json.dumps(facts)})


def first(held, prefix):
    return next(name for name in held if name.startswith(prefix))


def flipped(held, facts):
    name = first(held, "trained.")
    held[name] = held[name] + 1e-3
    return facts


def not_finite(held, facts):
    held[first(held, "best.")].fill_(torch.nan)
    return facts


def renamed(held, facts):
    held["optimizer.x"] = held.pop(first(held, "optimizer."))
    return facts


def larger(held, facts):
    name = first(held, "trained.")
    held[name] = torch.cat([held[name], held[name]])
    return facts


def many(facts):
    return [{**facts["history"][0], "epoch": i + 1} for i in range(18)]


SPOILED = {
    "a flipped tensor": flipped,
    "a tensor that is not finite": not_finite,
    "a tensor of another name": renamed,
    "a tensor of another shape": larger,
    "no tensors": lambda held, facts: held.clear() or facts,
    "no trained tensor": lambda held, facts: held.pop(first(held, "trained.")) is None or facts,
    "facts that are a list": lambda held, facts: [],
    "facts that are a word": lambda held, facts: '"x"',
    "facts that are no JSON": lambda held, facts: "{",
    "facts that are deep": lambda held, facts: "[" * 100_000,
    "no history": lambda held, facts: {**facts, "history": []},
    "a history of words": lambda held, facts: {**facts, "history": ["a"]},
    "more epochs than asked for": lambda held, facts: {**facts, "history": many(facts)},
    "a best epoch from elsewhere": lambda held, facts: {**facts, "best_row": {**facts["best_row"], "epoch": 7}},
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_a_damaged_state_is_refused_in_a_sentence(begun, what):
    change(begun, SPOILED[what])
    with pytest.raises(UsageError, match="overwrite the run instead of resuming it"):
        run(begun, resume=True)


def test_a_folder_in_the_place_of_the_state_is_refused(begun):
    (begun / "state" / "epoch.safetensors").unlink()
    (begun / "state" / "epoch.safetensors").mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        run(begun, resume=True)


def test_a_state_of_before_there_was_a_digest_resumes_to_the_same_bits(begun, tmp_path):
    change(begun, lambda held, facts: {key: value for key, value in facts.items() if key != "tensors"})
    resumed, whole = run(begun, resume=True), run(tmp_path / "whole")
    assert timeless(resumed.history) == timeless(whole.history)
    assert same(tensors(begun), tensors(tmp_path / "whole"))


def test_a_run_that_was_killed_before_it_said_what_it_is_can_be_started_again(tmp_path):
    (tmp_path / "state").mkdir()
    with pytest.raises(UsageError, match="no interrupted run"):
        run(tmp_path, resume=True)
    run(tmp_path)
    assert (tmp_path / "record.json").exists()
    assert not (tmp_path / "state").exists()


def test_a_state_that_a_kill_left_beside_the_record_goes_away(tmp_path):
    run(tmp_path)
    (tmp_path / "state").mkdir()
    with pytest.raises(UsageError, match="nothing to resume"):
        run(tmp_path, resume=True)
    assert not (tmp_path / "state").exists()


def test_two_trainings_never_write_to_one_folder(tmp_path):
    model = small_model()
    train, val = small_sets(model)
    waiting, going_on = threading.Event(), threading.Event()

    class Slow:
        classes, describe = train.classes, train.describe

        def __len__(self):
            return len(train)

        def __getitem__(self, index):
            waiting.set()
            going_on.wait(60)
            return train[index]

    quiet = {"device": "cpu", "quiet": True}
    other = threading.Thread(target=fit, args=(model, Slow(), val, SHORT, tmp_path), kwargs=quiet)
    other.start()
    assert waiting.wait(60)
    try:
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UsageError, match="another training is writing"):
                run(tmp_path, **options)
    finally:
        going_on.set()
        other.join(120)
    assert (tmp_path / "record.json").exists()
    assert same(tensors(tmp_path), tensors(run(tmp_path / "alone").out))


def test_data_of_another_content_are_not_resumed(tmp_path):
    model = small_model()
    train, val = small_sets(model)

    class Told:
        def __init__(self, content, after=10**9):
            self.classes, self.content, self.left = train.classes, content, after

        def describe(self):
            return {**train.describe(), **self.content}

        def __len__(self):
            return len(train)

        def __getitem__(self, index):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return train[index]

    def go(content, after=10**9, **how):
        told = Told(content, after)
        return fit(small_model(), told, val, SHORT, tmp_path, device="cpu", quiet=True, **how)

    with pytest.raises(KeyboardInterrupt):
        go({"content": "a"}, after=30)
    with pytest.raises(UsageError, match=r'data\.train\.content was "a", is "b"'):
        go({"content": "b"}, resume=True)
    assert go({"content": "a", "said": "by a later version"}, resume=True).best_epoch >= 1


def test_what_older_descriptions_of_data_could_not_say_is_not_compared():
    then = {"data": {"train": {"images": 1}, "classes": ["a"]}}
    now = {"data": {"train": {"images": 1, "content": "c"}, "classes": ["a"]}, "seed": 0}
    assert comparable(then, now) == {"data": then["data"], "seed": 0}


NONE = [
    {"lr": float("inf")}, {"lr": float("nan")}, {"lr": 1e38}, {"weight_decay": float("nan")}, {"drop_path": -1.0},
    {"epochs": 10**9}, {"batch_size": 10**30}, {"epochs": 2.5}, {"warmup_epochs": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("change", NONE)
def test_schedules_of_no_number_are_refused_before_anything_is_written(tmp_path, change):
    with pytest.raises(UsageError, match="cannot train"):
        run(tmp_path / "out", pt.Schedule(**{**asdict(SHORT), **change}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_no_generator_takes_are_refused(tmp_path, seed):
    with pytest.raises(UsageError, match="seed="):
        run(tmp_path / "out", seed=seed)


def test_a_validation_loss_that_is_no_number_ends_the_run_and_keeps_the_last_sound_epoch(tmp_path):
    model = small_model()
    train, val = small_sets(model)
    seen = []

    class Spoiled:
        classes, describe = val.classes, val.describe

        def __len__(self):
            return len(val)

        def __getitem__(self, index):
            image, label = val[index]
            seen.append(index)
            return image * (torch.nan if len(seen) > len(val) else 1), label

    threads = threading.active_count()
    with pytest.raises(Diverged, match="validation loss became infinite in epoch 2"):
        fit(model, train, Spoiled(), SHORT, tmp_path, device="cpu", quiet=True, cache=False)
    assert threading.active_count() == threads  # TensorBoard's is closed
    assert json.loads((tmp_path / "adapter_config.json").read_text())["training"]["best_epoch"] == 1
    with safe_open(tmp_path / "state" / "epoch.safetensors", "pt") as file:
        assert len(json.loads(file.metadata()["facts"])["history"]) == 1
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    assert run(tmp_path, resume=True).history[-1]["epoch"] == 3


def test_a_model_that_is_not_finite_is_neither_saved_nor_answers(tmp_path):
    from PIL import Image

    model = small_model(LORA).eval()
    with torch.no_grad():
        model.backbone.head.bias.fill_(torch.nan)
    with pytest.raises(
        UsageError, match=r"not saved: its tensor 'backbone\.head\.bias' holds numbers that are not fin"
    ):
        pt.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="no finite numbers"):
        predict(model, [tmp_path / "a.png"], device="cpu")


def test_the_schedule_of_before_still_trains(tmp_path):
    assert run(tmp_path, replace(SHORT, epochs=1, warmup_epochs=0)).best_epoch == 1
