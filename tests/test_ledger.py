"""The ledger of results: what is appended is there, whole, once, and says what it must."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from ledgers import row, write

from paretune.errors import UsageError
from paretune.ledger.results import NEEDED, Ledger, key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "ledger.jsonl"


def test_what_is_appended_is_read_back_in_order_with_its_line(path):
    ledger = Ledger(path)
    assert ledger.rows() == []
    for seed in (2, 0, 1):
        ledger.append(row(seed=seed, test=0.5 + seed / 10))
    assert [(r.seed, r.test, r.line) for r in ledger.rows()] == [(2, 0.7, 1), (0, 0.5, 2), (1, 0.6, 3)]
    assert Ledger(path).rows() == ledger.rows()
    assert json.loads(path.read_text().splitlines()[0]) == row(seed=2, test=0.7)


def test_a_ledger_sees_what_others_append_after_it_has_been_read(path):
    mine, theirs = Ledger(path), Ledger(path)
    mine.append(row(seed=0))
    assert len(mine.rows()) == 1
    theirs.append(row(seed=1))
    assert len(mine.rows()) == 2


def test_a_question_is_known_before_its_answer(path):
    question = {
        name: row()[name] for name in ("suite", "task", "recipe", "seed", "settings", "backbone", "protocol", "data")
    }
    del question["settings"]["schedule"]
    Ledger(path).append(row(test=0.3, chosen={"lr": 1.0}))
    assert [key(vars(one)) for one in Ledger(path).rows()] == [key(question)]


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "mine"}, {"task": "shapes"}, {"recipe": "full"}, {"seed": 1}, {"settings__adapters": []},
        {"settings__reducer": {"method": "FPET"}}, {"backbone__fingerprint": "f2"}, {"protocol__epoch": "last"},
        {"protocol__schedule": {"epochs": 11}}, {"data__train": "other"}, {"data__test": "other"},
    ],
)  # fmt: skip
def test_whatever_changes_the_question_changes_its_key(change):
    assert key(row(**change)) != key(row())


def test_tuples_ask_what_lists_ask():
    assert key(row(protocol__preprocessing={"mean": (0.5,), "std": (1.0,)})) == key(
        row(protocol__preprocessing={"mean": [0.5], "std": [1.0]})
    )


@pytest.mark.slow
def test_four_processes_lose_no_line(path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from ledgers import row; from paretune.ledger.results import Ledger\n"
        f"for i in range(50): Ledger({str(path)!r}).append(row(recipe=sys.argv[1], seed=i, date='x' * 5000))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "abcd"]
    assert [process.wait(60) for process in running] == [0] * 4
    found = Ledger(path).rows()
    assert sorted((r.recipe, r.seed) for r in found) == [(name, seed) for name in "abcd" for seed in range(50)]


def test_a_torn_last_line_is_left_out_and_told_and_mended_by_the_next_append(path):
    ledger = Ledger(path)
    ledger.append(row(seed=0))
    with path.open("a") as file:
        file.write(json.dumps(row(seed=1))[:300])
    with pytest.warns(UserWarning, match="the last line was cut off and is left out"):
        assert [r.seed for r in ledger.rows()] == [0]
    with pytest.warns(UserWarning, match="was cut off and is removed"):
        ledger.append(row(seed=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r.seed for r in ledger.rows()] == [0, 2]


def test_a_last_line_that_lacks_nothing_but_its_end_counts(path):
    ledger = Ledger(path)
    ledger.append(row(seed=0))
    path.write_text(path.read_text() + json.dumps(row(seed=1)))
    assert [r.seed for r in ledger.rows()] == [0, 1]
    ledger.append(row(seed=2))
    assert [r.seed for r in ledger.rows()] == [0, 1, 2]


def test_a_disk_that_fills_up_leaves_no_half_line(path, monkeypatch):
    ledger = Ledger(path)
    ledger.append(row(seed=0))
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        import os

        whole = os.write
        patched.setattr("os.write", lambda file, line: whole(file, line[:100]))
        with pytest.raises(OSError, match="the disk is full"):
            ledger.append(row(seed=1))
    assert path.read_bytes() == before


def test_a_repeated_line_counts_once_and_a_contradiction_names_its_lines(tmp_path):
    repeated = write(tmp_path / "repeated", row(), row(seed=1), row(seconds=99.0))
    assert [r.line for r in Ledger(repeated).rows()] == [1, 2]
    contradictory = write(tmp_path / "contradictory", row(test=0.9), row(seed=1), row(test=0.8))
    with pytest.raises(UsageError, match=r"lines 1 and 3 .*lora, digits, seed 0.* different results, 0.9 and 0.8"):
        Ledger(contradictory).rows()


def without(path):
    *outer, last = path.split(".")
    made = row()
    place = made
    for name in outer:
        place = place[name]
    del place[last]
    return made


@pytest.mark.parametrize("needed", NEEDED)
def test_every_needed_key_is_missed_by_name_and_line(tmp_path, needed):
    with pytest.raises(UsageError, match=rf"line 2: {needed} is missing"):
        Ledger(write(tmp_path / "ledger", row(), without(needed))).rows()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (row(version=2), "has version 2; this paretune reads version 1"),
        (row(kind="bench"), "is not a result"),
        ([1], "is not a result"),
        (row(test="0.9"), "test is '0.9'"),
        (row(seed=True), "seed is True"),
        (row(data__lossy="maybe"), "data.lossy is 'maybe'; it must be one of lossless, lossy, mixed, unknown"),
        (row(test=None, val="x"), "test is None; val is 'x'"),
        (row(test=float("nan")), "test is nan|holds nan"),
    ],
)
def test_a_line_that_is_wrong_is_refused_when_read_and_when_written(tmp_path, line, sentence):
    with pytest.raises(UsageError, match=sentence):
        Ledger(write(tmp_path / "ledger", line)).rows()
    with pytest.raises(UsageError, match=sentence):
        Ledger(tmp_path / "new").append(line)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"not json\n", b"\xff\xfe\x00\n", b'{"kind": "result"\n{}\n'])
def test_a_file_that_is_no_ledger_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=r"line 1 is not valid JSON|is not text"):
        Ledger(tmp_path / "file").rows()


def test_a_seed_without_a_validation_score_is_a_result(path):
    Ledger(path).append(row(val=None))
    assert Ledger(path).rows()[0].val is None
