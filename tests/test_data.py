"""Folders, image files and transforms."""

import os
import struct
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from paretune.data import ImageArrays, UnreadableImage, open_image, open_split, open_splits
from paretune.data.images import probe
from paretune.data.transforms import evaluation, framing, training
from paretune.errors import UsageError

PREPROCESSING = {
    "input_size": (3, 16, 24),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "crop_mode": "center",
}


def draw(path, size=(20, 20), colour=(10, 120, 230)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def read_folder(root, **options):
    found = open_splits(root, **options)
    return found.train, found.val


def content(images):
    return list(zip(images.keys, images.targets.tolist(), strict=True))


def make_tree(root, classes=("ant", "bee"), count=5, split=None):
    for name in classes:
        for i in range(count):
            draw(root / (split or "") / name / f"{i}.png", colour=(i * 9, 0, 0))
    return root


# ------------------------------------------------------------------------------------------------------------- files


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 30)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("L", 100, 100), ("1", 1, 255), ("RGB", (9, 9, 9), 9), ("I;16", 32896, 128), ("I;16", 65535, 255), ("I", 257, 1)],
)
def test_gray_values_are_scaled_and_not_clipped(tmp_path, mode, value, expected):
    Image.new(mode, (4, 4), value).save(tmp_path / "gray.tif")
    image = open_image(tmp_path / "gray.tif")
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == (expected,) * 3


def test_sixteen_bit_png_keeps_its_contrast(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "ramp.png"))[..., 0].ravel(), np.arange(256))


def test_float_images_between_0_and_1_are_scaled(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    assert open_image(tmp_path / "float.tif").getpixel((0, 0)) == (128,) * 3


@pytest.mark.parametrize("value", [70000, -1])
def test_deeper_values_are_refused_by_name(tmp_path, value):
    Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(UnreadableImage, match=r"deep\.tif.*expected 0 to 65535"):
        open_image(tmp_path / "deep.tif")


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (4, 4), (0, 127)).save(tmp_path / "half.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "half.png").getpixel((0, 0)) == (128, 128, 128)


def test_palettes_become_their_colours_and_transparent_entries_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.gif")
    image.save(tmp_path / "holes.png", transparency=bytes([255, 0]))
    assert [open_image(tmp_path / "palette.gif").getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 255, 0)]
    assert [open_image(tmp_path / "holes.png").getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "white.tif")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    assert open_image(tmp_path / "white.tif").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "red.jpg").getpixel((4, 4))[0] > 240


def _bomb() -> bytes:
    """A PNG whose header claims 30,000 x 30,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _damaged(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for ending in ("png", "jpg", "gif", "bmp", "webp", "tif"):
        noise.save(tmp_path / f"cut.{ending}")
        whole = (tmp_path / f"cut.{ending}").read_bytes()
        (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "bomb.png").write_bytes(_bomb())
    return sorted(tmp_path.iterdir())


def test_damaged_files_are_named_by_opening_and_by_probing(tmp_path):
    for path in _damaged(tmp_path):
        for read in (open_image, probe):
            with pytest.raises(UnreadableImage) as caught:
                read(path)
            assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (6, 9), (9, 6)])
def test_the_smallest_jpeg_is_readable(tmp_path, size):
    draw(tmp_path / "small.jpg", size)
    probe(tmp_path / "small.jpg")
    assert open_image(tmp_path / "small.jpg").size == size


def test_a_missing_file_is_named():
    with pytest.raises(UnreadableImage, match=r"nowhere\.png: no such file"):
        open_image("nowhere.png")


# ------------------------------------------------------------------------------------------------------------ folders


def test_train_and_val_come_as_they_are_and_classes_are_sorted(tmp_path):
    for split, count in (("train", 3), ("valid", 2)):
        make_tree(tmp_path, ("zebra", "ant"), count, split)
    train, val = read_folder(tmp_path)
    assert train.classes == val.classes == ("ant", "zebra")
    assert (len(train), len(val)) == (6, 4)
    assert content(train)[0] == ("train/ant/0.png", 0)
    assert train.split_rule is None
    assert train[5][1] == 1


def test_split_is_stratified_seeded_and_complete(tmp_path):
    make_tree(tmp_path, ("ant", "bee"), 10)
    make_tree(tmp_path, ("rare",), 2)
    train, val = read_folder(tmp_path, val_share=0.3, seed=1)
    assert [part.targets.tolist().count(i) for part in (train, val) for i in range(3)] == [
        7,
        7,
        1,
        3,
        3,
        1,
    ]
    assert not set(train.keys) & set(val.keys)
    assert len({*train.keys, *val.keys}) == 22
    again, other = (read_folder(tmp_path, val_share=0.3, seed=seed) for seed in (1, 2))
    assert [content(part) for part in again] == [content(train), content(val)]
    assert other[1].keys != val.keys


def test_split_does_not_depend_on_the_order_of_the_file_system(tmp_path, monkeypatch):
    make_tree(tmp_path, count=8)
    expected = [content(part) for part in read_folder(tmp_path)]
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: nullcontext(list(scandir(path))[::-1]))
    assert [content(part) for part in read_folder(tmp_path)] == expected


def test_val_is_split_off_a_train_folder_that_comes_alone(tmp_path):
    make_tree(tmp_path, count=5, split="train")
    make_tree(tmp_path, count=3, split="test")
    train, val = read_folder(tmp_path)
    assert (len(train), len(val)) == (8, 2)
    assert len(open_split(tmp_path, "test", train.classes)) == 6


def test_hidden_and_other_files_are_not_images_and_deeper_folders_are_searched(tmp_path):
    make_tree(tmp_path, count=3)
    draw(tmp_path / "ant" / "deep" / "er" / "x.PNG")
    (tmp_path / "ant" / "notes.txt").write_text("x")
    (tmp_path / "ant" / "._0.png").write_text("x")
    make_tree(tmp_path, (".cache",), 1)
    train, val = read_folder(tmp_path)
    assert len(train) + len(val) == 7
    assert train.classes == ("ant", "bee")


def test_fingerprint_notices_names_and_sizes(tmp_path):
    make_tree(tmp_path, count=3, split="train")
    make_tree(tmp_path, count=3, split="val")
    before = read_folder(tmp_path)[0].fingerprint()
    assert read_folder(tmp_path)[0].fingerprint() == before
    draw(tmp_path / "train" / "ant" / "0.png", size=(99, 99))
    assert read_folder(tmp_path)[0].fingerprint() != before


def test_unreadable_images_are_all_named_and_skipped_only_on_request(tmp_path):
    make_tree(tmp_path, count=4)
    for name in ("ant", "bee"):
        (tmp_path / name / "bad.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"2 of 10 images cannot be read.*ant/bad\.png.*bee/bad\.png"):
        read_folder(tmp_path)
    train, val = read_folder(tmp_path, skip_unreadable=True)
    assert len(train) + len(val) == 8
    assert [path for path, _ in train.skipped] == ["ant/bad.png", "bee/bad.png"]
    assert train.describe()["skipped"] == ["ant/bad.png", "bee/bad.png"]


def _no_folder(root):
    root.rmdir()


def _a_file(root):
    root.rmdir()
    root.write_text("x")


def _images_only(root):
    draw(root / "0.png")


def _one_class(root):
    make_tree(root, ("ant",))


def _empty_class(root):
    make_tree(root)
    (root / "cat").mkdir()


def _other_classes(root):
    make_tree(root, ("ant", "bee"), split="train")
    make_tree(root, ("ant", "cow"), split="val")


def _flat_splits(root):
    for split in ("train", "val"):
        draw(root / split / "0.png")


def _val_alone(root):
    make_tree(root, split="val")


def _one_image(root):
    make_tree(root)
    make_tree(root, ("lone",), 1)


def _all_bad(root):
    make_tree(root)
    make_tree(root, ("cat",), 1)
    (root / "cat" / "0.png").write_bytes(b"bad")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_folder, "does not exist"),
        (_a_file, "is a file, not a folder"),
        (_images_only, "no class folders"),
        (_one_class, "has only one class, 'ant'"),
        (_empty_class, "no readable images in .*cat"),
        (_other_classes, "class 'bee' is missing; class 'cow' is not in train"),
        (_flat_splits, "no class folders in them"),
        (_val_alone, "no split or folder train"),
        (_one_image, "class 'lone' .* only one image"),
        (_all_bad, "no readable images in .*cat"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_refused(tmp_path, make, message):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(UsageError, match=message):
        read_folder(root, skip_unreadable=True)


def test_shares_outside_0_to_1_are_refused(tmp_path):
    with pytest.raises(UsageError, match="between 0 and 1"):
        read_folder(make_tree(tmp_path), val_share=1)


def test_a_split_is_labelled_by_the_models_classes(tmp_path):
    make_tree(tmp_path, ("bee", "cow"), 2, "test")
    images = open_split(tmp_path, "test", ("ant", "bee", "cow"))
    assert images.targets.tolist() == [1, 1, 2, 2]
    with pytest.raises(UsageError, match="does not know cow"):
        open_split(tmp_path, "test", ("ant", "bee"))
    with pytest.raises(UsageError, match="has no split 'val': use test"):
        open_split(tmp_path, "val", ("ant", "bee"))


# --------------------------------------------------------------------------------------------------- transforms, arrays


def test_transforms_give_normalised_tensors_of_the_input_size():
    picture = Image.new("RGB", (50, 30), (255, 255, 255))
    for transform in (evaluation(PREPROCESSING), *(training(PREPROCESSING, a) for a in ("none", "flip", "crop"))):
        assert torch.allclose(transform(picture), torch.ones(3, 16, 24))


def test_without_augmentation_the_whole_picture_is_seen_in_training_and_evaluation():
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    seen = training(PREPROCESSING, "none")(ramp)
    assert seen[0, 0, 0] < -0.95
    assert seen[0, 0, -1] > 0.5
    assert torch.equal(evaluation(framing(PREPROCESSING, "none"))(ramp), seen)
    assert framing(PREPROCESSING, "crop") == PREPROCESSING


def test_flip_mirrors_about_half_of_the_pictures():
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    transform = training(PREPROCESSING, "flip")
    torch.manual_seed(0)
    mirrored = sum(bool(seen[0, 0, 0] > seen[0, 0, -1]) for seen in (transform(ramp) for _ in range(60)))
    assert 15 < mirrored < 45


def test_unknown_augmentation_is_refused():
    with pytest.raises(UsageError, match="did you mean flip"):
        training(PREPROCESSING, "flips")


def test_arrays_are_a_data_set_with_a_fingerprint_of_their_content():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    data = ImageArrays(images, np.array([0, 1, 1, 0]), ("ant", "bee"), lambda picture: picture.size)
    assert data[1] == ((8, 8), 1)
    assert data.describe()["per_class"] == {"ant": 2, "bee": 2}
    part = data.part([0, 1], "first")
    assert (len(part), part.name) == (2, "first")
    assert part.describe()["fingerprint"] != data.describe()["fingerprint"]
