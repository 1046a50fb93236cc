"""VTAB-1K in its layout on the disk."""

import pytest
from trees import VTAB_SIZES, picture, vtab_json, vtab_tree, write

from paretune.data import available_splits, open_split, open_splits, vtab_task
from paretune.data.vtab import VTAB
from paretune.errors import UsageError


def test_the_19_tasks_have_940_classes_in_three_groups():
    assert len(VTAB) == 19
    assert sum(task.classes for task in VTAB.values()) == 940
    groups = [task.group for task in VTAB.values()]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]


def test_a_task_has_its_four_parts_with_numbers_for_classes(tmp_path):
    vtab_tree(tmp_path)
    parts = vtab_task(tmp_path, "svhn")
    assert {name: len(images) for name, images in parts.items()} == {**VTAB_SIZES, "train800val200": 10}
    assert parts["val200"].keys[0] == "images/val200/000000.png"
    assert parts["test"].targets.tolist() == [0, 1, 0, 1, 0]
    assert parts["test"].classes == tuple(map(str, range(10)))
    assert parts["train800"].picture(2).tobytes() == picture(3).tobytes()


def test_training_takes_train800_and_chooses_by_val200(tmp_path):
    folder = vtab_tree(tmp_path)
    found = open_splits(folder)
    assert [len(part) for part in (found.train, found.val, found.test)] == [6, 4, 5]
    assert found.train.split_rule is None
    assert available_splits(folder) == ["train", "val", "test", "train800val200"]
    assert len(open_split(folder, "train800val200", found.train.classes)) == 10


def test_lists_may_be_json_and_the_two_parts_are_taken_out_of_the_thousand(tmp_path):
    vtab_json(tmp_path)
    parts = vtab_task(tmp_path, "dtd")
    assert {name: len(images) for name, images in parts.items()} == {
        "train800": 800, "val200": 200, "train800val200": 1000, "test": 3,
    }  # fmt: skip
    assert parts["val200"].keys[0] == "images/train800val200/000800.png"
    assert parts["val200"].targets[0] == 800 % 47


def test_a_task_of_your_own_has_the_classes_that_its_lists_name(tmp_path):
    vtab_tree(tmp_path, "mine", classes=3)
    assert vtab_task(tmp_path, "mine")["train800"].classes == ("0", "1", "2")


def test_the_folder_of_all_tasks_is_no_folder_of_classes(tmp_path):
    vtab_tree(tmp_path, "svhn")
    vtab_tree(tmp_path, "dtd")
    with pytest.raises(UsageError, match="has the VTAB-1K tasks dtd, svhn: give one of them"):
        open_splits(tmp_path)


def test_an_unknown_task_is_refused_with_the_nearest_names(tmp_path):
    with pytest.raises(UsageError, match="did you mean clevr_count"):
        vtab_task(tmp_path, "clevr_counts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images/train800/000000.png\n", "line 1: expected a path and a number"),
        ("a.png 3\nb.png x\n", "line 2: expected a path and a number"),
        ("a.png 10\n", "labels from 10 to 10, but there are 10 classes"),
        ("\n", "lists no images"),
    ],
)
def test_lists_that_cannot_be_are_refused_by_name(tmp_path, text, message):
    vtab_tree(tmp_path)
    write(tmp_path / "svhn" / "train800.txt", text)
    with pytest.raises(UsageError, match=rf"train800\.txt.*{message}"):
        vtab_task(tmp_path, "svhn")


def test_a_json_list_of_another_form_is_refused(tmp_path):
    vtab_json(tmp_path)
    write(tmp_path / "dtd" / "test.json", '[["a.png", 1]]')
    with pytest.raises(UsageError, match=r"test\.json: expected a list of"):
        vtab_task(tmp_path, "dtd")
