"""`paretune data`: what is said of a data set, and what is written of it."""

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from trees import birds, class_tree, draw, vtab_json, vtab_tree, write
from typer.testing import CliRunner

from paretune.cli.main import app
from paretune.data import open_split, open_splits, vtab
from paretune.data.convert import convert
from paretune.data.encoding import encoding
from paretune.data.verify import verify, verify_vtab
from paretune.errors import UsageError


def cli(*args):
    return CliRunner().invoke(app, ["data", *map(str, args)])


# ------------------------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("quality", [10, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_read_off_its_tables(tmp_path, quality):
    draw(tmp_path / "a.jpg", quality=quality)
    found = encoding("a", (tmp_path / "a.jpg").read_bytes())
    assert (found.format, found.lossy, found.quality, found.ending) == ("JPEG", True, quality, ".jpg")


@pytest.mark.parametrize(
    ("file", "options", "lossy"),
    [
        ("a.png", {}, False),
        ("a.bmp", {}, False),
        ("a.webp", {"lossless": True}, False),
        ("a.webp", {"lossless": True, "exif": Image.Exif()}, False),
        ("a.webp", {"quality": 80}, True),
        ("a.tif", {}, False),
        ("a.tif", {"compression": "jpeg"}, True),
        ("a.jpeg", {}, True),
    ],
)
def test_lossy_files_are_told_from_lossless_ones(tmp_path, file, options, lossy):
    draw(tmp_path / file, size=(16, 16), **options)
    assert encoding(file, (tmp_path / file).read_bytes()).lossy is lossy


def test_a_data_set_says_whether_it_is_lossy(tmp_path):
    for ending, said in (("png", "lossless"), ("jpg", "lossy")):
        class_tree(tmp_path / ending, (), ending=ending)
        assert open_splits(tmp_path / ending).train.lossy() == said
    draw(tmp_path / "png" / "ant" / "9.jpg")
    assert open_split(tmp_path / "png", "all", ("ant", "bee")).lossy() == "mixed"


# --------------------------------------------------------------------------------------------------------------- verify


def test_a_sound_folder_is_said_to_be_sound(tmp_path):
    report = verify(class_tree(tmp_path))
    assert (report.sound, report.layout, report.task, report.classes) == (True, "folder", "multiclass", ("ant", "bee"))
    assert [(part.name, part.images) for part in report.splits] == [("train", 6), ("val", 6), ("test", 6)]
    assert report.splits[0].balance == {"per_class": {"ant": 3, "bee": 3}}
    assert (report.lossy, report.formats, report.jpeg_quality) == ("lossless", {"PNG": 18}, None)
    assert report.sizes == ((8, 8), (8, 8))
    assert report.remarks == ()
    assert report.splits[2].content_hash == open_splits(tmp_path).test.content_hash()


def test_the_content_hash_covers_every_byte_and_not_the_place(tmp_path):
    hashes = []
    for place in ("a", "b"):
        hashes.append(verify(class_tree(tmp_path / place, ending="bmp")).content_hash)
    assert hashes[0] == hashes[1]
    draw(tmp_path / "b" / "test" / "ant" / "0.bmp", 99)
    assert verify(tmp_path / "b").content_hash != hashes[0]


def test_a_picture_in_two_splits_is_a_leak(tmp_path):
    class_tree(tmp_path)
    (tmp_path / "test" / "ant" / "copy.png").write_bytes((tmp_path / "train" / "ant" / "1.png").read_bytes())
    assert verify(tmp_path).problems == ("pictures both in train and in test, 1: train/ant/1.png",)


def test_damaged_images_and_foreign_classes_are_problems_and_doubles_are_remarks(tmp_path):
    class_tree(tmp_path)
    (tmp_path / "val" / "bee" / "0.png").write_bytes(b"bad")
    draw(tmp_path / "test" / "cow" / "0.png", 50)
    draw(tmp_path / "train" / "bee" / "double.png", 1)
    report = verify(tmp_path)
    assert len(report.problems) == 2
    assert report.problems[0].startswith("val: unreadable images, 1: val/bee/0.png (not an image file")
    assert report.problems[1] == "test: train has no cow"
    assert report.remarks == (
        "train: pictures that occur more than once, 1: train/ant/0.png = train/bee/double.png",
        "train: pictures with more than one answer, 1: train/ant/0.png = train/bee/double.png",
    )


def test_what_a_reader_refuses_is_a_problem_of_the_data(tmp_path):
    class_tree(tmp_path, classes=("ant", "bee"))
    (tmp_path / "val" / "empty").mkdir()
    assert "no readable images in" in verify(tmp_path).problems[0]
    table = write(tmp_path / "table.csv", "path,label\ngone.png,ant\n")
    assert verify(table).problems == (f"{table}: there is no file gone.png",)


def test_a_table_that_lists_an_image_twice_is_not_sound(tmp_path):
    draw(tmp_path / "0.jpg", quality=60)
    table = write(tmp_path / "table.csv", "path,label\n0.jpg,ant\n0.jpg,bee\n")
    report = verify(table)
    assert report.problems == ("all: images listed more than once, 1: 0.jpg",)
    assert (report.lossy, report.jpeg_quality) == ("lossy", (60, 60, 60))


@pytest.fixture
def small_vtab(monkeypatch):
    """VTAB-1K with few images, so that a task is written in no time."""
    monkeypatch.setattr(vtab, "SIZES", {"train800": 6, "val200": 4, "train800val200": 10})
    monkeypatch.setitem(vtab.VTAB, "svhn", vtab.VtabTask("natural", 10, 5))
    monkeypatch.setitem(vtab.VTAB, "dtd", vtab.VtabTask("natural", 47, 5))


@pytest.mark.usefixtures("small_vtab")
def test_a_vtab_task_must_have_its_images_and_a_thousand_that_is_its_two_parts(tmp_path):
    folder = vtab_tree(tmp_path, ending="jpg")
    report = verify(folder)
    assert report.problems == ()
    assert (report.layout, report.jpeg_quality) == ("vtab", (75, 75, 75))
    draw(folder / "images" / "train800val200" / "000003.jpg", 77)
    (folder / "images" / "test" / "000001.jpg").unlink()
    report = verify(folder)
    assert report.problems[0].startswith("test: missing images, 1: ")
    assert report.problems[1] == "train800val200 differs from train800 and val200 together in 2 images"


@pytest.mark.usefixtures("small_vtab")
def test_counts_of_a_vtab_task_must_be_right(tmp_path):
    report = verify(vtab_tree(tmp_path, sizes={"train800": 6, "val200": 3, "test": 5}))
    assert "val: 3 images instead of 4" in report.problems
    assert "train800val200: 9 images instead of 10" in report.problems


@pytest.mark.usefixtures("small_vtab")
def test_a_test_picture_of_vtab_that_was_trained_on_is_a_remark(tmp_path):
    """In the public data there are such: squares look alike at four angles."""
    folder = vtab_tree(tmp_path)
    draw(folder / "images" / "test" / "000000.png", 1)
    report = verify(folder)
    assert report.sound
    assert report.remarks == ("pictures both in train and in test, 1: images/train800/000000.png",)


@pytest.mark.usefixtures("small_vtab")
def test_a_vtab_root_is_a_table_of_19_with_the_missing_ones_named(tmp_path):
    vtab_tree(tmp_path)
    vtab_tree(tmp_path, "dtd", sizes={"train800": 6, "val200": 4, "test": 1})
    reports = verify_vtab(tmp_path)
    assert list(reports) == list(vtab.VTAB)
    assert reports["svhn"].sound
    assert reports["cifar"] is None
    done = cli("verify", tmp_path)
    assert done.exit_code == 1
    assert "dtd: test: 1 images instead of 5" in done.stdout
    assert "missing: cifar, caltech101, oxford_flowers102" in done.stdout
    said = json.loads(cli("verify", tmp_path, "--json").stdout)
    assert said["sound"] is False
    assert said["tasks"]["svhn"]["sound"] is True
    assert said["tasks"]["cifar"] is None


def test_tasks_of_your_own_are_verified_without_counts(tmp_path):
    vtab_tree(tmp_path, "mine")
    vtab_tree(tmp_path, "yours")
    assert {name: report.sound for name, report in verify_vtab(tmp_path).items()} == {"mine": True, "yours": True}
    done = cli("verify", tmp_path)
    assert (done.exit_code, "missing" in done.stdout) == (0, False)


def test_synqts_lists_are_verified_too(tmp_path):
    report = verify(vtab_json(tmp_path))
    assert any("unreadable images" in text for text in report.problems)  # empty files
    assert any(text == "test: 3 images instead of 1,880" for text in report.problems)


def test_well_known_sets_must_have_their_published_counts(tmp_path):
    birds(tmp_path, {1: "001.A", 2: "002.B"})
    assert verify(f"cub200:{tmp_path}").problems == (
        "train: 4 images instead of 5,994", "test: 2 images instead of 5,794",
    )  # fmt: skip
    for i, split in enumerate(("train", "val", "test")):
        write(tmp_path / f"{split}.json", json.dumps({f"{number}/{i}.jpg": number for number in (1, 2)}))
    assert verify(f"cub200:{tmp_path}").problems == ("all: 6 images instead of 11,788",)


def test_the_exit_code_says_whether_data_are_sound(tmp_path):
    class_tree(tmp_path / "data")
    done = cli("verify", tmp_path / "data")
    assert done.exit_code == 0
    assert done.stdout.endswith("sound\n")
    assert "lossless: PNG; 8 x 8 pixels" in done.stdout
    assert "ant (3)" in done.stdout
    (tmp_path / "data" / "test" / "ant" / "0.png").write_bytes(b"bad")
    done = cli("verify", tmp_path / "data", "--json")
    assert (done.exit_code, json.loads(done.stdout)["sound"]) == (1, False)
    done = cli("verify", tmp_path / "nowhere")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "does not exist" in done.stderr


# -------------------------------------------------------------------------------------------------------------- convert


def contents(images):
    """What is there, whatever it is called: the files' hashes with class names."""
    return sorted(
        (hashlib.sha256(images.source.encoded(key)).hexdigest(), images.classes[label])
        for key, label in zip(images.keys, images.targets, strict=True)
    )


def test_to_shards_and_back_every_byte_is_kept(tmp_path):
    tree = class_tree(tmp_path / "tree", count=4)
    draw(tree / "train" / "ant" / "photo.jpg", 70)
    said = json.loads(cli("convert", tree, tmp_path / "shards", "--to", "shards", "--shard-size", 4, "--json").stdout)
    assert said["images"] == {"train": 9, "val": 8, "test": 8}
    assert sorted(path.name for path in (tmp_path / "shards").iterdir())[:3] == [
        "classes.json", "test-000000.tar", "test-000001.tar",
    ]  # fmt: skip
    assert cli("convert", tmp_path / "shards", tmp_path / "again", "--to", "folder").exit_code == 0
    first, shards, again = (open_splits(tmp_path / name) for name in ("tree", "shards", "again"))
    for split in ("train", "val", "test"):
        expected = contents(getattr(first, split))
        assert contents(getattr(shards, split)) == contents(getattr(again, split)) == expected
    assert {path.suffix for path in (tmp_path / "again" / "train" / "ant").iterdir()} == {".png", ".jpg"}


def test_webdataset_reads_what_convert_writes(tmp_path):
    convert(class_tree(tmp_path / "tree", ()), tmp_path / "shards")
    with (tmp_path / "shards" / "all-000000.tar").open("rb") as file:
        files = webdataset.tariterators.tar_file_expander([{"url": "all", "stream": file}])
        found = list(webdataset.tariterators.group_by_keys(files))
    assert [sample["cls"] for sample in found] == [b"0", b"0", b"0", b"1", b"1", b"1"]
    assert found[4]["png"] == (tmp_path / "tree" / "bee" / "1.png").read_bytes()


def test_the_same_data_give_the_same_shards(tmp_path):
    for name in ("a", "b"):
        convert(class_tree(tmp_path / "tree", ()), tmp_path / name)
    assert (tmp_path / "a" / "all-000000.tar").read_bytes() == (tmp_path / "b" / "all-000000.tar").read_bytes()


def test_labels_and_numbers_go_into_shards_and_not_into_folders(tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    for name, rows in (("labels", ("sky;tree", "", "tree")), ("age", ("0.25", "3", "-1e-3"))):
        table = write(
            tmp_path / f"{name}.csv", "\n".join([f"path,{name}", *(f"{i}.png,{r}" for i, r in enumerate(rows))])
        )
        convert(table, tmp_path / name)
        before = open_split(table, "all", ("sky", "tree") if name == "labels" else ("age",))
        after = open_split(tmp_path / name, "all", before.classes)
        assert after.task == before.task
        assert np.array_equal(after.targets, before.targets)
        with pytest.raises(UsageError, match=f"cannot hold {before.task} answers"):
            convert(table, tmp_path / "folder", "folder")
        assert not (tmp_path / "folder").exists()


def test_images_shrink_and_change_format_on_request(tmp_path):
    draw(tmp_path / "tree" / "ant" / "0.png", 1, size=(40, 20))
    draw(tmp_path / "tree" / "bee" / "0.png", 2, size=(6, 9))
    convert(tmp_path / "tree", tmp_path / "small", "folder", size=10)
    small = open_split(tmp_path / "small", "all", ("ant", "bee"))
    assert [image.size for image, _ in small] == [(20, 10), (6, 9)]
    assert (tmp_path / "small" / "bee" / "000001.png").read_bytes() == (
        tmp_path / "tree" / "bee" / "0.png"
    ).read_bytes()
    convert(tmp_path / "tree", tmp_path / "lossy", "folder", format="jpg")
    assert verify(tmp_path / "lossy").jpeg_quality == (95, 95, 95)


def test_bmp_files_become_png_with_the_same_pixels(tmp_path):
    class_tree(tmp_path / "tree", (), ending="bmp")
    convert(tmp_path / "tree", tmp_path / "out")
    before, after = (open_split(tmp_path / name, "all", ("ant", "bee")) for name in ("tree", "out"))
    assert verify(tmp_path / "out").formats == {"PNG": 6}
    assert [before[i][0].tobytes() for i in range(6)] == [after[i][0].tobytes() for i in range(6)]


def test_a_vtab_task_is_converted_without_its_thousand_in_one(tmp_path):
    folder = vtab_tree(tmp_path / "vtab")
    assert convert(folder, tmp_path / "shards") == {"train": 6, "val": 4, "test": 5}
    assert open_splits(tmp_path / "shards").train.classes == tuple(map(str, range(10)))


def test_nothing_is_overwritten_and_nothing_half_written_is_left(tmp_path):
    tree = class_tree(tmp_path / "tree", ())
    for dest, message in ((tree, "exists and is not an empty"), (tree / "ant" / "out", "outside of it")):
        with pytest.raises(UsageError, match=message):
            convert(tree, dest)
    (tree / "ant" / "0.png").write_bytes(b"bad")
    with pytest.raises(UsageError, match="cannot be read"):
        convert(tree, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert cli("convert", tree, tmp_path / "out", "--to", "zip").exit_code == 2


def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "addfile", lambda *args: (_ for _ in ()).throw(OSError(28, "full", "disk")))
    with pytest.raises(OSError, match="full"):
        convert(class_tree(tmp_path / "tree", ()), tmp_path / "out")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["tree"]
