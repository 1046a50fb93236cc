"""Folders, tables, shards and lists that are not what they should be: one sentence each."""

import io
import json
import os
import pickle
import tarfile
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader
from trees import birds, class_tree, draw, picture, vtab_json, vtab_tree, write
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.data import UnreadableImage, available_splits, images, memory, open_image, open_split, open_splits
from paretune.data.budget import Budget
from paretune.data.convert import convert
from paretune.data.dataset import examined, some
from paretune.data.hub import _numbers
from paretune.data.shards import expand
from paretune.data.table import sorted_names
from paretune.data.task import balance, class_count
from paretune.data.verify import verify
from paretune.errors import UsageError, plain, quoted
from paretune.files import cache_folder
from paretune.training.runfolder import RunFolder, comparable, differences

BOTH = ("ant", "bee")


def refused(match, call, *args, **options):
    """`call` ends in one short line that says `match`, soon."""
    start = time.perf_counter()
    with pytest.raises(UsageError, match=match) as caught:
        call(*args, **options)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()
    assert time.perf_counter() - start < 10


def said(call):
    """What a call gives, or the sentence that refuses it."""
    try:
        return call()
    except UsageError as problem:
        return str(problem)


def cli(*args):
    return CliRunner().invoke(app, list(map(str, args)))


# ----------------------------------------------------------------------------------------------------- quoting, budget


def test_what_was_given_is_repeated_in_short_and_in_printable_characters():
    for value in ("x" * 10**6, "\x1b[31m\n\u202e", "\udcff", 10**5000, [[["deep"] * 1000] * 1000], {"a": "b" * 500}):
        for text in (quoted(value), some([quoted(value)] * 50)):
            assert text.isprintable()
            assert len(text) < 700
    assert (quoted("it's"), quoted(3), quoted(None), quoted("\n")) == ('"it\'s"', "3", "None", "'\\n'")
    assert len(quoted("x" * 999)) <= 200
    assert (plain("photos/ä b.png"), plain("a\x1bb")) == ("photos/ä b.png", "a\\x1bb")
    assert plain("begin" + "x" * 999 + "end").startswith("begin")
    assert plain("begin" + "x" * 999 + "end").endswith("end")


def test_threads_together_hold_no_more_than_the_budget():
    budget, highest = Budget(10), []

    def work(amount):
        with budget.of(amount):
            highest.append(budget.taken)
            time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (3, 4, 99, 10, 1, 6, 2, 5) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(highest) == 32
    assert max(highest) == 10
    assert budget.taken == 0


# -------------------------------------------------------------------------------------------------------------- folders


def test_links_that_loop_neither_double_pictures_nor_hang(tmp_path):
    class_tree(tmp_path / "data", (), count=4)
    before = open_split(tmp_path / "data", "all", BOTH).keys
    for name, target in (("ant/self", "."), ("ant/up", ".."), ("bee/one", "../bee"), ("bee/lost", "bee/lost")):
        (tmp_path / "data" / name).symlink_to(target)
    (tmp_path / "data" / "ant" / "deep").mkdir()
    (tmp_path / "data" / "ant" / "deep" / "back").symlink_to("../..")
    assert open_split(tmp_path / "data", "all", BOTH).keys == before
    report = verify(tmp_path / "data")
    assert report.sound
    assert "ant/deep/, ant/self/, ant/up/, bee/lost, bee/one/" in report.remarks[0]


@pytest.mark.parametrize(
    ("link", "target"),
    [("train/ant/other", "../bee"), ("train/ant/val", "../../val"), ("train/cow", "ant"),
     ("train/ant/x", "../../val/bee"), ("test", "val"), ("train/cow", "../train")],
)  # fmt: skip
def test_a_folder_that_is_reached_in_two_ways_is_refused(tmp_path, link, target):
    class_tree(tmp_path, ("train", "val"))
    (tmp_path / link).symlink_to(target)
    refused("are the same folder, so its pictures would count twice", open_splits, tmp_path)
    assert "are the same folder" in verify(tmp_path).problems[0]


def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path):
    class_tree(tmp_path / "far", ())
    (tmp_path / "data").mkdir()
    for name in BOTH:
        (tmp_path / "data" / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far" / "bee" / "3.png").symlink_to("../ant/0.png")
    assert len(open_split(tmp_path / "data", "all", BOTH)) == 7


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    class_tree(tmp_path, ())
    (tmp_path / "ant" / "locked").mkdir()
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    refused(r"ant/locked cannot be read \(Permission denied\): make it readable", open_splits, tmp_path)


def test_pipes_and_devices_are_no_pictures_and_no_shards(tmp_path):
    class_tree(tmp_path, ())
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    (tmp_path / "bee" / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "bee" / "gone.png").symlink_to("nowhere")
    refused(
        r"3 of 9 images.*pipe\.png: not a regular file.*endless\.png: not a regular.*gone\.png: no such",
        open_splits,
        tmp_path,
    )
    assert len(open_split(tmp_path, "all", BOTH, skip_unreadable=True).skipped) == 3
    refused("not a regular file", open_image, tmp_path / "ant" / "pipe.png")
    os.mkfifo(tmp_path / "a.tar")
    refused("no shard .*a.tar", available_splits, tmp_path)
    refused("no shard .*a.tar", available_splits, tmp_path / "a.tar")
    os.mkfifo(tmp_path / "a.csv")
    refused("is a file, not a folder", available_splits, tmp_path / "a.csv")


def test_verify_says_what_it_leaves_out(tmp_path):
    class_tree(tmp_path, ("train",))
    for name in ("train/ant/a.jfif", "train/ant/b.jpe", "train/ant/c", "train/bee/.d.png", "train/__e/f.png", "g.png"):
        write(tmp_path / name, "x")
    assert verify(tmp_path).remarks == (
        "files and folders that are not pictures of a class and are left out, 6: "
        "g.png, train/__e/, train/ant/a.jfif, train/ant/b.jpe, train/ant/c, train/bee/.d.png",
    )


def test_names_that_are_not_utf8_are_read_and_shown_escaped(tmp_path):
    class_tree(tmp_path, ())
    odd = os.fsdecode(bytes(tmp_path / "ant") + b"/\xff\x1b[31m.png")
    draw(tmp_path / "ant" / "new.png", 50)
    os.rename(tmp_path / "ant" / "new.png", odd)
    found = open_splits(tmp_path)
    assert json.dumps(found.train.describe())
    assert cli("data", "verify", tmp_path).exit_code == 0
    with open(odd, "wb") as file:
        file.write(b"bad")
    done = cli("data", "verify", tmp_path)
    assert (done.exit_code, "ant/\\udcff\\x1b[31m.png" in done.stdout) == (1, True)
    refused(r"udcff", open_splits, tmp_path)
    os.mkdir(os.fsdecode(bytes(tmp_path) + b"/\xfe"))
    draw(tmp_path / os.fsdecode(b"\xfe") / "0.png", 60)
    refused("use names in UTF-8", open_splits, tmp_path, skip_unreadable=True)


# ------------------------------------------------------------------------------------------------------------- pictures


def test_more_pixels_than_pillows_guard_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    draw(tmp_path / "a.png", size=(40, 30))
    for limit, taken in ((1200, True), (1199, False), (599, False), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        monkeypatch.setattr(images, "check_png", None if not taken else images.check_png)
        if taken:
            assert open_image(tmp_path / "a.png").size == (40, 30)
        else:
            refused(f"more than {limit:,} pixels: shrink", open_image, tmp_path / "a.png")
        monkeypatch.undo()


def test_files_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr(images, "FILE_BYTES", 1 << 20)
    refused("more than 1 MiB", open_image, tmp_path / "sparse.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I", "F"])
def test_strips_give_the_same_picture_as_the_whole(mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (23, 17, 4), np.uint8)
    image = Image.fromarray(noise)
    if mode in ("I;16", "I", "F"):
        deep = noise[..., 0].astype(np.uint16) * 257
        image = Image.fromarray(
            deep if mode == "I;16" else deep.astype(np.int32) if mode == "I" else noise[..., 0] / np.float32(255)
        )
    elif mode == "P":
        image = image.convert("RGB").convert("P")
        image.info["transparency"] = 3
    else:
        image = image.convert(mode)
    whole = images.to_rgb(image)
    monkeypatch.setattr(images, "_STRIP", 40)
    assert images.to_rgb(image).tobytes() == whole.tobytes()
    if mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        assert whole.tobytes() == Image.alpha_composite(white, image).convert("RGB").tobytes()


def test_what_was_decoded_before_is_not_decoded_again(tmp_path, monkeypatch):
    class_tree(tmp_path, ())
    monkeypatch.setattr(memory, "SETTLED", -60.0)
    decoded = []
    monkeypatch.setattr("paretune.data.dataset.probe", lambda title, data: decoded.append(title))
    for expected in (6, 0):
        open_split(tmp_path, "all", BOTH)
        assert len(decoded) == expected
        decoded.clear()
    draw(tmp_path / "ant" / "0.png", 9)
    os.utime(tmp_path / "bee" / "1.png", (5, 5))
    open_split(tmp_path, "all", BOTH)
    assert sorted(title[-9:] for title in decoded) == ["ant/0.png", "bee/1.png"]
    for file in (cache_folder() / "pictures").iterdir():
        file.write_text('{"version": "' + memory.VERSION + '", "pictures": {"ant/0.png": [[1], 2, 3], "x": null}}')
    decoded.clear()
    open_split(tmp_path, "all", BOTH)
    assert len(decoded) == 6


def test_young_pictures_and_a_cache_that_cannot_be_written_are_no_error(tmp_path, monkeypatch):
    class_tree(tmp_path / "data", ())
    monkeypatch.setenv("PARETUNE_CACHE", str(write(tmp_path / "file", "x")))
    assert len(open_split(tmp_path / "data", "all", BOTH)) == 6
    monkeypatch.setattr(memory, "SETTLED", -60.0)
    assert len(open_split(tmp_path / "data", "all", BOTH)) == 6
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(memory, "SETTLED", 60.0)
    open_split(tmp_path / "data", "all", BOTH)
    assert not (tmp_path / "new").exists()


def test_a_picture_of_the_same_length_changes_the_content_and_not_the_fingerprint(tmp_path):
    class_tree(tmp_path, (), ending="bmp")
    before = open_split(tmp_path, "all", BOTH).describe()
    assert before["content"] == open_split(tmp_path, "all", BOTH).content_hash()
    draw(tmp_path / "ant" / "0.bmp", 77)
    after = open_split(tmp_path, "all", BOTH).describe()
    assert [key for key in before if before[key] != after[key]] == ["content"]
    assert [text[:11] for text in differences(before, after)] == ["content was"]
    old = {key: value for key, value in before.items() if key != "content"}
    then, now = {"data": {"train": old}}, {"data": {"train": after}}
    assert list(differences(then, comparable(then, now))) == []  # of before there was a content
    known = {"schedule": asdict(pt.Schedule()), "seed": 0}
    for then, refuses in ((before, True), (old, False)):
        with RunFolder(tmp_path / "run", {**known, "data": {"train": then}}).begun(resume=False, overwrite=True):
            pass  # it is interrupted at once
        resumed = RunFolder(tmp_path / "run", {**known, "data": {"train": after}})
        if refuses:
            refused("these settings differ: data.train.content was", resumed.check, resume=True, overwrite=False)
        else:
            resumed.check(resume=True, overwrite=False)


# ---------------------------------------------------------------------------------- pictures that go bad while it runs


def spoil_before(monkeypatch, path):
    """Make a picture bad after the check at the start, before the training reads it."""
    from paretune.training import prepare as module

    fit = module.fit

    def spoiling(*args, **options):
        path.write_bytes(b"bad now")
        return fit(*args, **options)

    monkeypatch.setattr(module, "fit", spoiling)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "augment"), [(0, "crop"), (1, "none"), (1, "crop")])
def test_a_picture_that_goes_bad_in_training_is_named_or_skipped(tmp_path, monkeypatch, workers, augment):
    class_tree(tmp_path / "data", ("train", "val"))
    bad = tmp_path / "data" / "train" / "bee" / "1.png"
    spoil_before(monkeypatch, bad)
    train = ["train", "--data", tmp_path / "data", "--model", "paretune_tiny", "--no-pretrained", "--epochs", 1,
             "--recipe", "lora", "--batch-size", 2, "--workers", workers, "--augment", augment, "--out"]  # fmt: skip
    done = cli(*train, tmp_path / "strict")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(f"paretune: cannot read image {bad}: not an image file")
    draw(bad, 1)
    done = cli(*train, tmp_path / "lenient", "--skip-unreadable")
    assert done.exit_code == 0, done.stderr


def test_the_next_picture_takes_the_place_of_a_bad_one_with_its_own_answer(tmp_path, caplog):
    class_tree(tmp_path, (), count=2)
    found = open_split(tmp_path, "all", BOTH, skip_unreadable=True)
    for path in (tmp_path / "ant" / "1.png", tmp_path / "bee" / "1.png"):
        path.write_bytes(b"bad")
    seen = [(image.tobytes(), label) for image, label in (found[i] for i in range(4))]
    assert seen == [(picture(i).tobytes(), label) for i, label in ((1, 0), (3, 1), (3, 1), (1, 0))]
    assert "bee/1.png" in caplog.text
    for name in ("ant/0.png", "bee/0.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UnreadableImage, match=r"ant/0\.png: no such file"):
        found[0]


def test_any_loader_tells_in_one_sentence_what_its_process_could_not_read(tmp_path):
    class_tree(tmp_path, (), count=2)
    found = open_split(tmp_path, "all", BOTH).through(lambda picture: 0)
    (tmp_path / "bee" / "0.png").write_bytes(b"bad")
    with pytest.raises(UnreadableImage) as caught:
        list(DataLoader(found, num_workers=1))
    sentence = f"cannot read image {tmp_path}/bee/0.png: not an image file, or a format that Pillow does not know"
    assert str(caught.value) == sentence
    assert str(pickle.loads(pickle.dumps(caught.value))) == sentence


def test_pictures_that_lists_of_well_known_sets_name_may_be_skipped_too(tmp_path):
    folder = vtab_tree(tmp_path)
    (folder / "images" / "train800" / "000001.png").unlink()
    (folder / "images" / "train800" / "000002.png").write_bytes(b"bad")
    refused(r"000001\.png: no such file", open_splits(folder).train.fingerprint)
    assert len(open_splits(folder, skip_unreadable=True).train) == 4


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n0.png,1\n1.png,01\n", "1 and 01|01 and 1"),
        ("path,age\n0.png,3e38\n1.png,2\n", "row 2: age is '3e38'"),
        ("path,,age\n0.png,0,x\n1.png,1,y\n", "do not determine the task"),
        (",path\n0,0.png\n1,1.png\n", "do not determine the task"),
        ("path,label\n0.png,a\n\udcff.png,b\n", "not in UTF-8|codec can't decode"),
        ("path,label\n" + "x" * 5000 + ".png,a\n", r"no file x+\.\.\.x+\.png"),
        ("path,label\n0.png,a\n../../\0.png,b\n", "no file|NUL"),
        ("path,age\n" + "0.png," + "1" * 5000 + "\n", "do not determine the task"),
        ("path,split,label\n0.png,\x1b[31m,a\n", r"\\x1b"),
    ],
)
def test_tables_of_odd_content_are_refused(tmp_path, text, message):
    for i in range(2):
        draw(tmp_path / f"{i}.png", i)
    (tmp_path / "a.csv").write_bytes(text.encode(errors="surrogateescape"))
    refused(message, open_splits, tmp_path / "a.csv")


def test_an_index_column_without_a_name_is_no_answer(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png", i)
    table = write(tmp_path / "a.csv", ",path,age\n" + "\n".join(f"{i},{i}.png,{i / 2}" for i in range(4)))
    found = open_split(table, "all", ("age",))
    assert (found.classes, found.targets.tolist()) == (("age",), [[0], [0.5], [1], [1.5]])


def test_names_of_classes_have_one_order(tmp_path):
    assert sorted_names({"10", "9", "1" * 19}) == ("10", "1" * 19, "9")
    assert sorted_names({"10", "9", "0"}) == ("0", "9", "10")
    assert sorted_names({"9" * 5000, "b"}) == ("9" * 5000, "b")
    refused("01 and 1 are the same number", sorted_names, {"1", "01", "2"})


# --------------------------------------------------------------------------------------------------------------- shards


def shard(path, *notes, ending="cls"):
    """A tar of one picture for each label file."""
    with tarfile.open(path, "w") as tar:
        for i, note in enumerate(notes):
            file = io.BytesIO()
            picture(i).save(file, "PNG")
            for name, data in ((f"{i:06}.png", file.getvalue()), (f"{i:06}.{ending}", note)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (b"1000000000", "1000000000 is the number of a class"),
        (b"9" * 30, "expected the number or the name of a class"),
        (b"9" * 5000, "expected the number or the name of a class"),
        (b"", "expected the number or the name of a class, found ''"),
        (b"\xff\xfe", "is not in UTF-8"),
        (b"a" * (2 << 20), "more than 1,048,576 bytes"),
    ],
)
def test_labels_in_shards_are_not_believed_without_bounds(tmp_path, note, message):
    refused(message, available_splits, shard(tmp_path / "a.tar", b"0", note))


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('{"label": 1000000000}', "1000000000 is the number"),
        ('{"label": -1}', "-1 is the number"),
        ('{"label": true}', "contain bool"),
        ('{"label": null}', "contain NoneType"),
        ('{"label": 1.5}', "contain float"),
        ('{"label": [1]}', "contain list"),
        ('{"label": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON: nested too deep"),
        ('"label"', "found 'label'"),
        ("3", "found 3"),
        ('{"labels": [0, "a"]}', "the labels must all contain the same kind of answer; they contain int, str"),
        ('{"labels": [true]}', "contain bool"),
        ('{"labels": [[1]]}', "contain list"),
        ('{"labels": {"a": 1}}', "contain dict"),
        ('{"labels": [9999999]}', "9999999 is the number"),
        ('{"labels": []}', "no image has a label"),
        ('{"targets": {}}', "expected"),
        ('{"targets": {"age": NaN}}', "age is nan"),
        ('{"targets": {"age": 1e300}}', r"age is 1e\+300"),
        ('{"targets": {"age": "3"}}', "age is '3'"),
        ('{"targets": {"age": true}}', "age is True"),
        ('{"targets": {"age": 1' + "0" * 400 + "}}", "age is 1000"),
        ('{"label": "\\ud800"}', "use names in UTF-8"),
        ('{"label": ""}', "use names in UTF-8"),
    ],
)
def test_json_labels_of_other_types_are_refused(tmp_path, note, message):
    path = shard(tmp_path / "a.tar", note.encode(), note.encode(), ending="json")
    refused(message, lambda: open_split(path, "all", ("x",)))


def test_targets_of_different_names_are_at_odds(tmp_path):
    path = shard(tmp_path / "a.tar", b'{"targets": {"age": 1}}', b'{"targets": {"age": 1, "height": 2}}', ending="json")
    refused("contains 'height', which does not fit the classes age", open_split, path, "all", ("age",))


def test_numbers_in_lists_are_classes_by_their_number(tmp_path):
    """Twelve labels: as text 10 would come before 2."""
    notes = [json.dumps({"labels": [i, (i + 1) % 12]}).encode() for i in range(12)]
    found = open_split(shard(tmp_path / "a.tar", *notes, ending="json"), "all", tuple(map(str, range(12))))
    assert [np.flatnonzero(row).tolist() for row in found.targets] == [sorted((i, (i + 1) % 12)) for i in range(12)]


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{}", "[]", '{"task": "multiclass", "classes": "ab"}', '{"task": "multiclass", "classes": []}',
     '{"task": "multiclass", "classes": [1, 1]}', '{"task": [], "classes": ["a"]}',
     '{"task": "multiclass", "classes": 7}',
     '{"task": "multiclass", "classes": [null]}', '{"task": "multiclass", "classes": [' + "9" * 5000 + "]}",
     "\udcff"],
)  # fmt: skip
def test_classes_files_of_another_form_are_refused(tmp_path, text):
    shard(tmp_path / "a.tar", b"0", b"1")
    (tmp_path / "classes.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(r"classes\.json", available_splits, tmp_path)


def test_too_many_classes_or_cells_are_refused(tmp_path):
    shard(tmp_path / "a.tar", b"0", b"1")
    write(tmp_path / "classes.json", json.dumps({"task": "multiclass", "classes": list(range(100_001))}))
    refused("has 100,001 classes, and at most 100,000 are possible", available_splits, tmp_path)
    assert class_count("x", [0, 999]) == 1000
    assert class_count("x", [1999] * 200) == 2000
    for labels in ([1000], [2000] * 200, [-1], [10**5000]):
        refused("is the number of a class", class_count, "x", labels)


def test_a_hundred_thousand_classes_are_no_matter_of_minutes(tmp_path):
    shard(tmp_path / "train-0.tar", b"0", b"99999")
    shard(tmp_path / "val-0.tar", b"0", b"99999")
    write(tmp_path / "classes.json", json.dumps({"task": "multiclass", "classes": list(range(100_000))}))
    start = time.perf_counter()
    found = open_splits(tmp_path)
    assert balance("multiclass", found.train.classes, found.train.targets)["per_class"]["99999"] == 1
    assert verify(tmp_path).sound is False
    refused("shots=1: must be", open_splits, f"{tmp_path}?shots=1")
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{9..0}.tar", "counts down"),
        ("{0..999999999}.tar", "more than 100,000 names"),
        ("{0..999}{0..999}.tar", "more than 100,000 names"),
        ("{0.." + "9" * 5000 + "}.tar", "more than 100,000 names"),
        ("{a,{b,c}}.tar", "nested or unpaired braces"),
        ("{a.tar", "nested or unpaired braces"),
        ("{" * 5000 + ".tar", "nested or unpaired braces"),
    ],
)
def test_patterns_that_stand_for_nothing_or_too_much_are_refused(tmp_path, pattern, message):
    refused(message, available_splits, tmp_path / pattern)
    odd = shard(tmp_path / "odd{name.tar", b"0", b"1")
    assert available_splits(odd) == ["all"]
    assert expand("a-{0..2}-{x,y}.tar") == [f"a-{i}-{word}.tar" for i in range(3) for word in "xy"]


def test_a_folder_that_is_called_like_a_tar_file_is_a_folder(tmp_path):
    class_tree(tmp_path / "photos.tar", ())
    assert open_split(tmp_path / "photos.tar", "all", BOTH).classes == BOTH
    class_tree(tmp_path / "data", (), classes=("a.tar", "b.tar"))
    assert open_split(tmp_path / "data", "all", ("a.tar", "b.tar")).classes == ("a.tar", "b.tar")


def header(name, size_field=None, kind=b"0", size=0):
    """A tar header whose size is written as `size_field`."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    block = bytearray(info.tobuf())
    if size_field is not None:
        block[124:136] = size_field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"S", b"1"])
@pytest.mark.parametrize(
    "field",
    [
        b"\x80" + b"\xff" * 11,
        b"\xff" * 11 + b"\0",
        b"\xff" + b"\xff" * 9 + b"\xfe\0",
        b"\x80" + bytes(6) + b"\xff" * 5,
        b"77777777777\0",
    ],
)
def test_tar_headers_of_impossible_sizes_are_refused(tmp_path, kind, field):
    shard(tmp_path / "a.tar", b"0", b"1")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(header("bad.png", field, kind) + whole)
    found = said(lambda: open_split(tmp_path / "a.tar", "all", ("0", "1")))
    if isinstance(found, str):
        assert "a.tar" in found
    else:  # a link has no content, whatever its size
        assert [found.picture(i).tobytes() for i in range(len(found))] == [picture(i).tobytes() for i in range(2)]


def test_files_that_are_stored_with_holes_are_refused(tmp_path):
    pax = tarfile.TarInfo("000000.png")
    pax.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "000000.png",
                       "GNU.sparse.realsize": "99"}  # fmt: skip
    data = b"1\n0\n5\n".ljust(512, b"\0") + b"12345"
    pax.size = len(data)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(pax, io.BytesIO(data))
    refused("stored as a sparse file", available_splits, tmp_path / "a.tar")


# ------------------------------------------------------------------------------------------------- VTAB and other sets


@pytest.mark.parametrize("label", ["1" * 30, "1" * 5000, "2000000000", "inf", "-1", "1.5", "²"])
@pytest.mark.parametrize("task", ["svhn", "mine"])
def test_labels_in_vtab_lists_have_bounds(tmp_path, task, label):
    vtab_tree(tmp_path, task)
    write(tmp_path / task / "train800.txt", f"images/train800/000000.png {label}\n")
    refused("expected a path and a number|is the number of a class|labels from", open_splits, tmp_path / task)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '[{"a.png": 1e400}]', '[{"a.png": 1.5}]', '[{"a.png": true}]', '[{"a.png": ' + "9" * 5000 + "}]",
     '[{"a.png": 2000000000}]', '[{"a.png": -1}]', "7", "[7]", "[null]", '{"a.png": null}', '[{"a.png": [1]}]', "[]",
     '{"a.png": "' + "9" * 30 + '"}', "\udcff", ""],
)  # fmt: skip
def test_json_lists_of_vtab_are_checked(tmp_path, text):
    vtab_json(tmp_path)
    (tmp_path / "dtd" / "train800val200.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(r"train800val200\.json", open_splits, tmp_path / "dtd")


@pytest.mark.parametrize("place", ["x" * 5000, "a\0b", "x" * 5000 + ".csv", "x" * 5000 + ".tar", "\udcff", "a\x1b[31m"])
def test_places_that_cannot_be_are_refused(tmp_path, place):
    for data in (place, f"food101:{place}", f"cub200:{place}", f"{tmp_path}?shots={place}"):
        refused("does not|no shard|needs a number", open_splits, data)


def test_text_lists_that_are_not_utf8_are_refused(tmp_path):
    folder = vtab_tree(tmp_path)
    (folder / "val200.txt").write_bytes(b"images/\xff.png 1\n")
    refused("is not in UTF-8", open_splits, folder)


@pytest.mark.parametrize("text", ["[]", "{}", "7", '{"a": 7}', '{"a": [7]}', '{"a": null}', "[" * 100_000, ""])
def test_lists_of_food101_are_checked(tmp_path, text):
    for split in ("train", "test"):
        write(tmp_path / "food-101" / "meta" / f"{split}.json", text)
    refused(r"train\.json", open_splits, f"food101:{tmp_path}")


@pytest.mark.parametrize("text", ["[]", "{}", "7", '{"a": null}', '{"a": [1]}', '{"a": 1.5}', "[" * 100_000, ""])
def test_lists_of_vpt_are_checked(tmp_path, text):
    birds(tmp_path, {1: "001.A", 2: "002.B"})
    write(tmp_path / "train.json", text)
    refused(r"train\.json", open_splits, f"cub200:{tmp_path}")


@pytest.mark.parametrize("name", ["image_class_labels", "train_test_split", "classes"])
def test_lists_of_birds_that_are_at_odds_are_refused(tmp_path, name):
    birds(tmp_path, {1: "001.A", 2: "002.B"})
    write(tmp_path / f"{name}.txt", "77 x\n")
    refused("has no (class|split|name)", open_splits, f"cub200:{tmp_path}")


def test_damaged_mat_files_are_refused(tmp_path):
    (tmp_path / "jpg").mkdir()
    for name in ("imagelabels", "setid"):
        write(tmp_path / f"{name}.mat", "no such thing" * 50)
    refused("cannot be read as a MATLAB file", open_splits, f"flowers102:{tmp_path}")


def test_hugging_face_places_without_a_name_or_above_the_current_folder_are_refused(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    for place in ("", " ", ":config"):
        refused("hf: needs a name", open_splits, f"hf:{place}")
    for place in (".", "..", "../..", "/", str(tmp_path)):
        refused("is the current folder or contains it", open_splits, f"hf:{place}")
    refused("cannot be read", open_splits, f"hf:{tmp_path}/a\0b")


@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"splits": 7}', "[" * 100_000])
def test_damaged_folders_of_hugging_face_are_refused(tmp_path, name, text):
    write(tmp_path / "saved" / name, text)
    refused("cannot be read", open_splits, f"hf:{tmp_path / 'saved'}")


def test_rows_of_numbers_must_be_as_long_as_each_other():
    assert _numbers("x", [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    for rows in ([[1, 2], [3]], [1, None], [float("nan")], [float("inf")], [[]], [1e300], []):
        refused("every row needs the same count of numbers", _numbers, "x", rows)


# -------------------------------------------------------------------------------------------------------------- convert


def test_pictures_that_jpeg_cannot_hold_are_refused(tmp_path):
    for name, size in (("ant", (65_501, 1)), ("bee", (8, 8))):
        draw(tmp_path / "data" / name / "0.png", size=size)
    refused(
        "65,501 pixels, and a JPEG file can have 65,500", convert, tmp_path / "data", tmp_path / "out", format="jpg"
    )
    assert convert(tmp_path / "data", tmp_path / "out", format="png") == {"all": 2}


def test_missing_pictures_are_told_by_every_reader(tmp_path):
    class_tree(tmp_path, ())
    found = open_split(tmp_path, "all", BOTH)
    (tmp_path / "ant" / "0.png").unlink()
    assert [type(one).__name__ for one in examined(found)].count("UnreadableImage") == 1
    refused(r"ant/0\.png: no such file", found.describe)
