"""`mixed_precision="auto"`: what is measured, what is chosen, and what a resumed run takes."""

import json

import pytest
import torch
from test_train import SHORT, run, same, small_model, small_sets, tensors, timeless

from paretune.errors import UsageError
from paretune.training import speed
from paretune.training.fit import fit
from paretune.training.speed import Timed, measured_precision, told


def taking(monkeypatch, no, bf16):
    """The times that are measured."""
    seconds = {"no": no, "bf16": bf16}
    monkeypatch.setattr(Timed, "precisions", lambda self: seconds)


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.94, "bf16"), (0.97, "no"), (1.6, "no")])
def test_what_is_clearly_faster_is_chosen_told_and_recorded(tmp_path, monkeypatch, capsys, bf16, chosen):
    taking(monkeypatch, 1.0, bf16)
    train, val = small_sets(small_model())
    result = fit(small_model(), train, val, SHORT, tmp_path, device="cpu", mixed_precision="auto")
    assert result.record["mixed_precision"] == chosen
    assert result.record["measured_precision"]["seconds"] == {"no": 1.0, "bf16": bf16}
    assert (
        f"mixed precision: {chosen}, a step in bfloat16 takes {bf16:.2f} of one in float32" in capsys.readouterr().err
    )


def test_the_numbers_are_those_of_the_chosen_precision(tmp_path, monkeypatch):
    for chosen, bf16 in (("no", 2.0), ("bf16", 0.5)):
        taking(monkeypatch, 1.0, bf16)
        auto = run(tmp_path / f"auto-{chosen}", mixed_precision="auto")
        named = run(tmp_path / chosen, mixed_precision=chosen)
        assert timeless(auto.history) == timeless(named.history)
        assert same(tensors(tmp_path / f"auto-{chosen}"), tensors(tmp_path / chosen))


def test_a_resumed_run_goes_on_with_what_it_had(tmp_path, monkeypatch):
    taking(monkeypatch, 1.0, 0.5)
    whole = run(tmp_path / "whole", mixed_precision="auto")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", mixed_precision="auto", interrupt=35)
    taking(monkeypatch, 1.0, 2.0)  # another machine, or another hour
    resumed = run(tmp_path / "part", mixed_precision="auto", resume=True)
    assert resumed.record["mixed_precision"] == "bf16"
    assert resumed.record["measured_precision"] == whole.record["measured_precision"]
    assert timeless(resumed.history) == timeless(whole.history)
    assert same(tensors(tmp_path / "part"), tensors(tmp_path / "whole"))


def test_measuring_leaves_the_model_as_it_was():
    model = small_model().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    image = torch.randn(3, 16, 16)
    measured = measured_precision(model, image, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert measured["chosen"] in ("no", "bf16")
    assert min(measured["seconds"].values()) > 0
    assert told(measured).startswith(f"mixed precision: {measured['chosen']}, ")
    behind = Timed(small_model(()), image, 3)  # a linear probe: all blocks run once
    assert behind.once() > 0
    assert set(behind.precisions()) == {"no", "bf16"}


def test_both_precisions_are_run_in_turn_and_the_first_round_does_not_count(monkeypatch):
    timed, seen = Timed(small_model(), torch.randn(3, 16, 16), 0), []
    times = iter([9.0, 9.0] + [4.0, 2.0, 6.0, 1.0] * 10)
    monkeypatch.setattr(speed, "ENOUGH", 1e9)

    def seconds(run):
        run()
        seen.append(1)
        return next(times)

    monkeypatch.setattr(timed, "_seconds", seconds)
    assert timed.precisions() == {"no": 4 / speed.COPIES, "bf16": 1 / speed.COPIES}
    assert len(seen) == 2 * speed.ROUNDS


def test_a_folder_in_use_and_several_processes_are_refused_before_measuring(tmp_path, monkeypatch):
    run(tmp_path / "run", mixed_precision="no")
    monkeypatch.setattr(Timed, "precisions", lambda self: pytest.fail("measured"))
    with pytest.raises(UsageError, match="already holds a finished run"):
        run(tmp_path / "run", mixed_precision="auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="measures a single process"):
        run(tmp_path / "other", mixed_precision="auto")
    assert not (tmp_path / "other").exists()


def test_the_record_is_json(tmp_path, monkeypatch):
    taking(monkeypatch, 1.0, 0.5)
    result = run(tmp_path, mixed_precision="auto")
    assert json.loads((tmp_path / "record.json").read_text()) == json.loads(json.dumps(result.record))
