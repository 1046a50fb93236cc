"""Every form that data come in."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from trees import birds, class_tree, draw, picture, write

from paretune.data import available_splits, open_split, open_splits
from paretune.data.dataset import labelled_by
from paretune.data.splitting import few
from paretune.errors import UsageError


def pixels(image):
    return np.asarray(image).tolist()


# ----------------------------------------------------------------------------------------------------- what is common


def test_a_picture_seen_through_a_transform_and_a_target_of_the_task(tmp_path):
    images = open_splits(class_tree(tmp_path)).train
    assert images.through(lambda picture: picture.size)[4] == ((8, 8), 1)
    assert images[4][0].tobytes() == picture(5).tobytes()
    assert images.task == "multiclass"
    assert images.describe()["task"] == "multiclass"


def test_the_fingerprint_sees_labels_and_the_content_hash_sees_bytes(tmp_path):
    draw(tmp_path / "0.bmp", 1)
    draw(tmp_path / "1.bmp", 2)
    table = write(tmp_path / "table.csv", "path,label\n0.bmp,ant\n1.bmp,bee\n")
    before = open_split(table, "all", ("ant", "bee"))
    first = before.fingerprint(), before.content_hash()
    draw(tmp_path / "0.bmp", 3)
    assert before.fingerprint() == first[0]
    assert before.content_hash() != first[1]
    draw(tmp_path / "0.bmp", 1)
    write(table, "path,label\n0.bmp,bee\n1.bmp,ant\n")
    after = open_split(table, "all", ("ant", "bee"))
    assert not {after.fingerprint(), after.content_hash()} & set(first)


def test_labels_of_a_model_are_found_by_name_in_another_order(tmp_path):
    draw(tmp_path / "0.png")
    table = write(tmp_path / "a.csv", "path,sky,tree\n0.png,1,0\n")
    images = open_split(table, "all", ("tree", "sky"))
    assert images.targets.tolist() == [[0, 1]]
    with pytest.raises(UsageError, match="there is no 'sea'"):
        open_split(table, "all", ("tree", "sky", "sea"))
    with pytest.raises(UsageError, match="does not know sky"):
        labelled_by(images, ("tree",))


@pytest.mark.parametrize("data", ["nowhere", "nowhere.csv", "cifar10:nowhere"])
def test_what_is_no_data_is_refused_with_the_forms_there_are(data):
    with pytest.raises(UsageError, match=r"does not exist.*FILE\.csv.*\.tar.*VTAB-1K.*hf:NAME.*cifar100.*nabirds"):
        open_splits(data)


def test_another_task_than_the_data_have_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has the task multiclass, not regression"):
        open_splits(class_tree(tmp_path), task="regression")


def test_test_images_are_read_only_if_they_are_wanted(tmp_path):
    class_tree(tmp_path)
    (tmp_path / "test" / "ant" / "0.png").write_bytes(b"bad")
    assert open_splits(tmp_path, test=False).test is None
    with pytest.raises(UsageError, match=r"test/ant/0\.png"):
        open_splits(tmp_path)


# ------------------------------------------------------------------------------------------------------------ few shots


def test_few_shots_are_nested_seeded_and_of_every_class(tmp_path):
    class_tree(tmp_path, ("train", "test"), count=10)
    two, four = (open_splits(f"{tmp_path}?shots={shots}", seed=3) for shots in (2, 4))
    assert two.train.targets.tolist() == [0, 0, 1, 1]
    assert set(two.train.keys) < set(four.train.keys)
    assert two.train.split_rule == {"val_share": 0.2, "seed": 3, "shots": 2}
    assert two.val.keys == four.val.keys == open_splits(tmp_path, seed=3).val.keys
    assert not set(four.train.keys) & set(four.val.keys)
    assert open_splits(f"{tmp_path}?shots=4", seed=3).train.keys == four.train.keys
    assert open_splits(f"{tmp_path}?shots=4", seed=4).train.keys != four.train.keys
    assert len(two.test) == 20


def test_more_shots_than_images_are_refused(tmp_path):
    images = open_splits(class_tree(tmp_path)).train
    with pytest.raises(UsageError, match="at most the number of images of ant, bee"):
        few(images, 4, 0)
    with pytest.raises(UsageError, match="needs a number of images"):
        open_splits(f"{tmp_path}?shots=many")


# ------------------------------------------------------------------------------------------------------------------ CSV


@pytest.fixture
def table(tmp_path):
    """Write a CSV file beside ten pictures 0.png to 9.png."""
    for i in range(10):
        draw(tmp_path / "images" / f"{i}.png", i)

    def make(header, *rows):
        lines = [f"path,{header}", *(f"images/{i}.png,{row}" for i, row in enumerate(rows))]
        return write(tmp_path / "table.csv", "\n".join(lines))

    return make


def test_a_label_is_a_class_and_numbers_are_sorted_by_value(table):
    found = open_splits(table("label", "10", "9", "10", "9"), val_share=0.5)
    assert found.train.classes == ("9", "10")
    assert sorted([*found.train.targets, *found.val.targets]) == [0, 0, 1, 1]
    assert pixels(found.train[0][0]) == pixels(picture(int(found.train.keys[0][7])))


def test_the_column_split_is_followed(table):
    path = table("label,split", "ant,train", "bee,train", "ant,validation", "bee,val", "ant,test")
    found = open_splits(path)
    assert [part.keys for part in (found.train, found.val, found.test)] == [
        ("images/0.png", "images/1.png"), ("images/2.png", "images/3.png"), ("images/4.png",),
    ]  # fmt: skip
    assert available_splits(path) == ["train", "val", "test"]


def test_labels_between_semicolons_are_many_and_may_be_none(table):
    images = open_split(table("labels", "sky; tree", "", "tree"), "all", ("sky", "tree"))
    assert (images.task, images.targets.tolist()) == ("multilabel", [[1, 1], [0, 0], [0, 1]])
    assert images[0][1].dtype == np.float32


def test_columns_of_0_and_1_are_labels(table):
    images = open_splits(table("sky,tree", "1,0", "0,0", "1,1", "0,1")).train
    assert (images.task, images.classes, images.targets.dtype) == ("multilabel", ("sky", "tree"), np.int64)
    assert len(images) == 3


def test_numbers_are_regression(table):
    images = open_split(table("age,height", "3,1.5", "1,-2e1"), "all", ("age", "height"))
    assert images.task == "regression"
    assert images[1][1].tolist() == [1, -20]
    assert images.describe()["per_target"]["age"]["mean"] == 2


@pytest.mark.parametrize(
    ("header", "row"),
    [("label,age", "ant,3"), ("sky", "1"), ("age,name", "3,ann"), ("label", "0.5"), ("split", "train")],
)
def test_columns_that_can_be_several_things_are_refused_until_the_task_is_said(table, header, row):
    with pytest.raises(UsageError, match=r"do not determine the task: give the task, multiclass \(column label\)"):
        open_splits(table(header, row, row))


def test_the_task_settles_what_columns_mean(table):
    path = table("label,age", "1,3", "2,5")
    assert open_split(path, "all", ("1", "2"), task="multiclass").targets.tolist() == [0, 1]
    assert open_split(path, "all", ("label", "age"), task="regression").targets.tolist() == [[1, 3], [2, 5]]
    with pytest.raises(UsageError, match="every row needs 0 or 1 in label, age: row 2: age is '3'"):
        open_splits(path, task="multilabel")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header"),
        ("file,label\na.png,b\n", "needs a header with the column path"),
        ("path,label\nimages/0.png,\n", "row 2: label is ''"),
        ("path,label\nimages/0.png\n", "row 2: not as many values"),
        ("path,label,label\nimages/0.png,a,b\n", "two columns with the same name"),
        ("path,label\ngone.png,ant\n", r"no file gone\.png"),
        ("path,label,split\nimages/0.png,ant,later\n", "'later'"),
        ("path,age,b\nimages/0.png,nan,3\n", "do not determine the task"),
        ('path,label\n"images/0.png,ant\n', "line"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(table, tmp_path, text, message):
    table("label", "ant")
    with pytest.raises(UsageError, match=message):
        open_splits(write(tmp_path / "bad.csv", text))


def test_unreadable_images_of_a_table_are_named(table, tmp_path):
    path = table("label", "ant", "bee", "ant", "bee")
    (tmp_path / "images" / "1.png").write_bytes(b"bad")
    with pytest.raises(UsageError, match=r"1 of 4 images.*images/1\.png"):
        open_split(path, "all", ("ant", "bee"))
    kept = open_split(path, "all", ("ant", "bee"), skip_unreadable=True)
    assert (len(kept), kept.skipped[0][0]) == (3, "images/1.png")


# ----------------------------------------------------------------------------------------------------- Hugging Face


def hub_table(labels, feature, column="label"):
    import datasets

    features = datasets.Features({"photo": datasets.Image(), "id": datasets.Value("string"), column: feature})
    rows = {"photo": [picture(i) for i in range(len(labels))], "id": ["x"] * len(labels), column: labels}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_dataset_dict_is_read_split_by_split(tmp_path):
    import datasets

    names = datasets.ClassLabel(names=["ant", "bee"])
    tables = {split: hub_table([0, 1, 1], names) for split in ("train", "validation", "test")}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    found = open_splits(f"hf:{tmp_path / 'saved'}")
    assert (found.train.classes, found.val.targets.tolist()) == (("ant", "bee"), [0, 1, 1])
    assert pixels(found.test[2][0]) == pixels(picture(2))
    assert found.train.describe()["path"] == f"hf:{tmp_path / 'saved'}"
    assert pickle.loads(pickle.dumps(found.train))[1][1] == 1  # worker processes may get it that way
    assert open_splits(f"hf:{tmp_path / 'saved'}").train.fingerprint() == found.train.fingerprint()


def test_sequences_of_classes_are_labels_and_floats_are_numbers(tmp_path):
    import datasets

    many = datasets.Sequence(datasets.ClassLabel(names=["sky", "tree"]))
    hub_table([[0, 1], [], [1]], many, "tags").save_to_disk(tmp_path / "many")
    images = open_split(f"hf:{tmp_path / 'many'}", "all", ("sky", "tree"))
    assert (images.task, images.targets.tolist()) == ("multilabel", [[1, 1], [0, 0], [0, 1]])
    hub_table([0.5, 1.5], datasets.Value("float32"), "age").save_to_disk(tmp_path / "age")
    images = open_split(f"hf:{tmp_path / 'age'}", "all", ("age",))
    assert (images.task, images.targets.tolist()) == ("regression", [[0.5], [1.5]])


def test_an_imagefolder_and_parquet_files_are_read_as_load_dataset_does(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = open_splits(f"hf:{class_tree(tmp_path / 'tree', ('train', 'test'))}", val_share=0.4)
    assert (len(found.train), len(found.val), found.test.classes) == (4, 2, ("ant", "bee"))
    (tmp_path / "files").mkdir()
    hub_table([0, 1, 0, 1], datasets.ClassLabel(names=["ant", "bee"])).to_parquet(tmp_path / "files" / "train.parquet")
    assert open_split(f"hf:{tmp_path / 'files'}", "train", ("ant", "bee")).targets.tolist() == [0, 1, 0, 1]


def test_hub_data_without_image_answer_or_place_are_refused(tmp_path):
    import datasets

    with pytest.raises(UsageError, match=r"hf:.*nowhere cannot be read"):
        open_splits(f"hf:{tmp_path / 'nowhere'}")
    datasets.Dataset.from_dict({"label": [1]}).save_to_disk(tmp_path / "bare")
    with pytest.raises(UsageError, match="needs one column of images"):
        open_splits(f"hf:{tmp_path / 'bare'}")
    hub_table(["x"], datasets.Value("string"), "note").save_to_disk(tmp_path / "mute")
    with pytest.raises(UsageError, match="needs one column of answers"):
        open_splits(f"hf:{tmp_path / 'mute'}")
    hub_table([0, -1], datasets.ClassLabel(names=["ant", "bee"])).save_to_disk(tmp_path / "hidden")
    with pytest.raises(UsageError, match="rows without an answer"):
        open_splits(f"hf:{tmp_path / 'hidden'}")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'paretune\[hf\]'"):
        open_splits("hf:cifar10")


# ---------------------------------------------------------------------------------------------------- well-known sets


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar100_is_read_as_torchvision_unpacks_it(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class {i}" for i in range(100)]
    data = np.random.default_rng(0).integers(0, 256, (100, 3072), np.uint8)
    for split in ("train", "test"):
        (folder / split).write_bytes(pickle.dumps({"data": data, "fine_labels": list(range(100))}))
        monkeypatch.setattr(CIFAR100, f"{split}_list", [[split, md5(folder / split)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setitem(CIFAR100.meta, "md5", md5(folder / "meta"))
    images = open_split(f"cifar100:{tmp_path}", "train", tuple(names))
    assert images.targets[7] == 7
    assert pixels(images[7][0]) == data[7].reshape(3, 32, 32).transpose(1, 2, 0).tolist()
    assert images.lossy() == "lossless"
    (folder / "train").write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"does not hold cifar100.*--download"):
        open_split(f"cifar100:{tmp_path}", "train", tuple(names))


def test_svhn_is_read_with_0_for_the_digit_0(tmp_path, monkeypatch):
    from torchvision.datasets import SVHN

    data = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), np.uint8)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": data, "y": np.array([[10], [1], [9], [10]], np.uint8)})
        monkeypatch.setitem(SVHN.split_list, split, ["", path.name, md5(path)])
    images = open_split(f"svhn:{tmp_path}", "test", tuple("0123456789"))
    assert images.targets.tolist() == [0, 1, 9, 0]
    assert pixels(images[1][0]) == data[..., 1].tolist()


def test_food101_is_read_in_its_layout(tmp_path):
    root = tmp_path / "food-101"
    for i, name in enumerate(("waffles", "apple_pie")):
        draw(root / "images" / name / "11.jpg", i, quality=95)
    lists = json.dumps({"waffles": ["waffles/11"], "apple_pie": ["apple_pie/11"]})
    for split in ("train", "test"):
        write(root / "meta" / f"{split}.json", lists)
    images = open_split(f"food101:{tmp_path}", "test", ("apple_pie", "waffles"))
    assert images.keys == ("images/apple_pie/11.jpg", "images/waffles/11.jpg")
    assert images[1][0].size == (8, 8)
    with pytest.raises(UsageError, match="does not hold food101"):
        open_splits(f"food101:{root}")


def test_cub200_is_read_from_its_lists(tmp_path):
    birds(tmp_path / "CUB_200_2011", {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross"})
    found = open_splits(f"cub200:{tmp_path}", val_share=0.5)
    assert found.train.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert found.test.keys == ("images/1/2.jpg", "images/2/2.jpg")
    assert (len(found.train), len(found.val)) == (2, 2)
    assert len(open_splits(f"cub200:{tmp_path}?shots=1", val_share=0.5).train) == 2


def test_nabirds_numbers_its_classes_with_gaps_and_repeats_names(tmp_path):
    birds(tmp_path / "nabirds", {295: "Gull", 817: "Gull", 1010: "Wren"})
    with (tmp_path / "nabirds" / "classes.txt").open("a") as file:
        file.write("0 Birds\n")
    found = open_splits(f"nabirds:{tmp_path}")
    assert found.train.classes == ("0295.Gull", "0817.Gull", "1010.Wren")


def test_flowers102_is_read_from_its_mat_files(tmp_path):
    root = tmp_path / "flowers-102"
    for i in range(1, 5):
        draw(root / "jpg" / f"image_{i:05}.jpg", i)
    savemat(root / "imagelabels.mat", {"labels": np.array([[77, 5, 77, 5]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[3]]), "tstid": np.array([[4]])})
    found = open_splits(f"flowers102:{tmp_path}")
    assert found.train.classes == ("5", "77")
    assert found.train.targets.tolist() == [1, 0]
    assert (found.val.keys, found.test.keys) == (("jpg/image_00003.jpg",), ("jpg/image_00004.jpg",))


def test_stanford_dogs_are_read_from_their_mat_files(tmp_path):
    breeds = ["n01-Chihuahua", "n02-Pug"]
    for split, number in (("train", 2), ("test", 1)):
        files = [f"{name}/{split}{i}.jpg" for name in breeds for i in range(number)]
        for file in files:
            draw(tmp_path / "Images" / file)
        cells = np.array([[file] for file in files], dtype=object)
        savemat(tmp_path / f"{split}_list.mat", {"file_list": cells})
    found = open_splits(f"dogs:{tmp_path}", val_share=0.5)
    assert found.train.classes == tuple(breeds)
    assert found.test.keys == ("Images/n01-Chihuahua/test0.jpg", "Images/n02-Pug/test0.jpg")
    assert found.test[1][1] == 1


def test_stanford_cars_are_read_from_their_mat_files(tmp_path):
    root = tmp_path / "stanford_cars"
    kind = [("class", "u1"), ("fname", object)]
    for split, file in (("train", "devkit/cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        rows = [(1 + i % 2, f"{i:05}.jpg") for i in range(4)]
        for _, name in rows:
            draw(root / f"cars_{split}" / name)
        (root / "devkit").mkdir(exist_ok=True)
        savemat(root / f"{file}.mat", {"annotations": np.array(rows, dtype=kind)})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["BMW M5", "Audi A8"], dtype=object)})
    found = open_splits(f"cars:{tmp_path}")
    assert found.train.classes == ("Audi A8", "BMW M5")
    assert found.test.targets.tolist() == [1, 0, 1, 0]
    assert found.test.keys[0] == "cars_test/00000.jpg"
    (root / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(UsageError, match=r"has no cars_test_annos_withlabels\.mat"):
        open_splits(f"cars:{tmp_path}")


def test_vpts_lists_say_which_images_validate(tmp_path):
    birds(tmp_path, {3: "003.A", 12: "012.B"})
    for split, i in (("train", 0), ("val", 1), ("test", 2)):
        write(tmp_path / f"{split}.json", json.dumps({f"{number}/{i}.jpg": number for number in (12, 3)}))
    found = open_splits(f"cub200:{tmp_path}")
    assert (found.train.classes, found.train.targets.tolist()) == (("3", "12"), [1, 0])
    assert found.val.keys == ("images/12/1.jpg", "images/3/1.jpg")
    assert found.train.split_rule is None
    Image.open(tmp_path / found.val.keys[0]).verify()


@pytest.mark.parametrize("name", ["cub200", "nabirds", "flowers102", "dogs", "cars", "svhn"])
def test_a_named_set_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=f"does not hold {name}"):
        open_splits(f"{name}:{tmp_path}")
