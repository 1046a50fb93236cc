"""What is written appears whole or not at all: full disks, dead processes, planted links, two at once."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.errors import SHOWN, UsageError, printable, quoted
from paretune.files import FULL, Staged, locked, sweep, whole, write_json, written

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 16, "num_classes": 3}


@contextmanager
def a_full_disk(free: int):
    """No file may grow beyond `free` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def model():
    torch.manual_seed(0)
    return pt.adapt("vit_tiny_patch16_224", [pt.LoRA(rank=2)], None, ["ash", "oak"], **TINY).eval()


def dead() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not psutil.pid_exists(ended.pid)
    return ended.pid


def test_a_file_is_replaced_in_one_step_or_stays(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(UnicodeEncodeError), written(tmp_path / "a") as new:
        new.write_text("half \ud800", encoding="utf-8")
    assert (tmp_path / "a").read_text() == "old"
    with written(tmp_path / "a") as new:
        new.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_a_folder_in_the_place_of_a_file_is_refused_and_nothing_stays_behind(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="is a folder: give a file"), written(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


def test_planted_links_are_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in ("record.new", "record.json", f".record.json.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    write_json(tmp_path / "record.json", {"a": 1})
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "record.json").is_symlink()
    assert json.loads((tmp_path / "record.json").read_text()) == {"a": 1}


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path):
    with Staged(tmp_path) as staged:
        mine = staged.path("a")
        pattern = mine.name
        left = tmp_path / pattern.replace(f"-{os.getpid()}-", f"-{dead()}-")
        left.write_text("half")
        folder = left.with_name(left.name[:-5] + "0.tmp")
        folder.mkdir()
        (folder / "x").write_text("half")
        (tmp_path / ".keep.tmp").write_text("mine")
        elsewhere = tmp_path / left.name.replace(left.name[10:18], "00000000")
        elsewhere.write_text("of another machine")
        sweep(tmp_path)
        assert sorted(names(tmp_path)) == sorted([".keep.tmp", mine.name, elsewhere.name])


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(UnicodeEncodeError), whole(tmp_path / "out") as new:
        (new / "a").write_text("half \ud800", encoding="utf-8")
    assert names(tmp_path) == []
    with whole(tmp_path / "deep" / "out") as new:
        (new / "a").write_text("a")
    assert names(tmp_path / "deep" / "out") == ["a"]


def test_files_are_readable_as_the_umask_has_it(tmp_path):
    before = os.umask(0o027)
    try:
        pt.save(model(), tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_full_disk_is_an_os_error_that_names_the_place(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with a_full_disk(100), pytest.raises(OSError, match=r"a\.json") as error:
        write_json(tmp_path / "a.json", {"new": "x" * 10_000})
    assert error.value.errno in FULL
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    with a_full_disk(2000), pytest.raises(OSError, match=r"adapter_model\.safetensors|backbone") as error:
        pt.save(model(), tmp_path)
    assert error.value.errno in FULL
    assert names(tmp_path) == ["a.json"]


def test_one_lock_at_a_time(tmp_path):
    lock = tmp_path / "lock"
    with locked(lock, "taken"), pytest.raises(UsageError, match="taken"), locked(lock, "taken"):
        pass
    with locked(lock):
        pass


# ------------------------------------------------------------------------------------------------------- command line


def images(folder: Path, names=("ash", "oak"), count=6) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def train(data: Path, out: Path, *more: str) -> list[str]:
    words = (
        "train --model paretune_tiny --no-pretrained --recipe lora --epochs 1 --batch-size 4 --workers 0 --device cpu"
    )
    return [*words.split(), "--data", str(data), "--out", str(out), *more]


def said(words: list[str], code: int) -> str:
    """What a command says on stderr, in one sentence without a traceback."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.stderr


FREE = [("train", 1000), ("train", 9000), *((command, 1000) for command in ("convert", "demo", "show", "report"))]


@pytest.mark.parametrize(("command", "free"), FREE)
def test_a_full_disk_is_one_sentence_and_exit_code_1(tmp_path, command, free):
    data = images(tmp_path / "data")
    out = tmp_path / "out"
    words = {
        "train": train(data, out),
        "convert": ["data", "convert", str(data), str(out), "--to", "shards"],
        "demo": ["demo", "--images", str(out)],
        "show": ["show", "paretune_tiny", str(data / "ash" / "0.png"), "--recipe", "fpet-lora", "--no-pretrained",
                 "--out", str(out / "a.png")],
        "report": ["report", str(Path(__file__).parents[1] / "bench/results/demo.json"), "--out", str(out / "a.html")],
    }[command]  # fmt: skip
    with a_full_disk(free):
        told = said(words, 1)
    assert told.strip().splitlines()[-1].startswith("paretune: ")
    assert "make room" in told
    assert not [path for path in tmp_path.rglob("*") if ".paretune-" in path.name]
    assert not (out / "a.png").exists()
    assert not (out / "record.json").exists()
    if command == "train":
        assert (out / "state" / "settings.json").exists() == (free > 1000)
        assert CliRunner().invoke(app, [*words, *(["--resume"] if free > 1000 else [])]).exit_code == 0


@pytest.mark.parametrize("option", ["inf", "nan", "1e38", "-1"])
def test_learning_rates_that_are_none_are_refused(tmp_path, option):
    data = images(tmp_path / "data")
    said(train(data, tmp_path / "out", "--lr", option), 2)
    assert not (tmp_path / "out" / "record.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        "cost --model paretune_tiny --sizes 1000000",
        "cost --model paretune_tiny --image-size 1000000000",
        "cost --model paretune_tiny --classes 1000000000",
        "cost --model paretune_tiny --set adapter.scale=inf",
        f"cost --model paretune_tiny --recipe adaptformer --set adapter.width={10**30}",
        f"train --data x --model paretune_tiny --out x --seed {2**64}",
        f"train --data x --model paretune_tiny --out x --epochs {10**400}",
        "bench --model paretune_tiny --rounds 1 --threads 1000000",
        "bench --model paretune_tiny --batch 1000000000 --rounds 1",
        "bench --model paretune_tiny --batch 900000 --image-size 224 --rounds 1",
        f"cost --model {'x' * 100_000}",
        f"cost --model paretune_tiny --classes {'9' * 100_000}",
        f"cost --model paretune_tiny --set {'x' * 100_000}=1",
        "cost --model paretune_tiny --recipe \x1b[31mred",
    ],
)
def test_oversized_and_odd_words_are_refused_in_a_short_sentence(words):
    told = said(words.split(), 2)
    assert len(told) < 3 * SHOWN + 1000
    assert "\x1b" not in told
    assert "\ufffd" not in told


def test_class_and_file_names_never_reach_the_terminal_raw(tmp_path):
    data = images(tmp_path / "data", ("\x1b[31mred", "blue\nline"))
    out = tmp_path / "out"
    done = CliRunner().invoke(app, train(data, out))
    if done.exit_code == 2:
        pytest.skip("the data refuse such names before they are trained on")
    assert done.exit_code == 0, done.output
    picture = tmp_path / "a\x1b[2J.png"
    picture.write_bytes((data / "blue\nline" / "0.png").read_bytes())
    for words in (["predict", str(out), str(picture)], ["eval", str(out), "--data", str(data), "--worst", "2"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output
        assert "\\x1b[31mred" in done.output
    page = tmp_path / "a.html"
    assert CliRunner().invoke(app, ["report", str(out), "--image", str(picture), "--out", str(page)]).exit_code == 0
    assert "\x1b" not in page.read_text()


def test_errors_repeat_little_and_nothing_that_a_terminal_obeys():
    assert len(quoted("x" * 100_000)) <= SHOWN
    assert len(str(UsageError("asked for " + "x" * 100_000 + ": no"))) < 300
    assert str(UsageError("a\x1b[31m\nb\u202ec\udcff")) == "a\\x1b[31m\\nb\\u202ec\\udcff"
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"
    assert errno.ENOSPC in FULL
