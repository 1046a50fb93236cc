"""Tar shards as the webdataset library writes them."""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader
from trees import picture, write

from paretune.data import available_splits, open_split, open_splits
from paretune.data.shards import expand
from paretune.errors import UsageError
from paretune.training.order import SeededEpochs


def shard(path, labels, first=0, ending="png", note="cls"):
    """Let webdataset write a shard: picture number `first`, and so on, one for each label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for i, label in enumerate(labels, first):
            writer.write({"__key__": f"{i:06}", ending: picture(i), note: label})
    return path


def number(picture_):
    return np.asarray(picture_).tobytes()


def test_what_webdataset_writes_is_read_in_place(tmp_path):
    shard(tmp_path / "train-000000.tar", [0, 1, 2])
    shard(tmp_path / "train-000001.tar", [2], first=3)
    shard(tmp_path / "val-000000.tar", [0, 1, 2], first=4)
    found = open_splits(tmp_path)
    assert found.train.classes == ("0", "1", "2")
    assert found.train.targets.tolist() == [0, 1, 2, 2]
    assert [number(image) for image, _ in (found.train[i] for i in range(4))] == [number(picture(i)) for i in range(4)]
    assert found.val.name(0) == "val-000000.tar/000004.png"
    assert found.train.describe()["path"] == str(tmp_path)
    assert found.test is None


def test_names_and_json_are_answers_too(tmp_path):
    shard(tmp_path / "a.tar", ["bee", "ant"])
    images = open_split(tmp_path / "a.tar", "all", ("ant", "bee"))
    assert images.targets.tolist() == [1, 0]
    shard(tmp_path / "b.tar", [{"labels": ["sky"]}, {"labels": []}, {"labels": ["sky", "tree"]}], note="json")
    images = open_split(tmp_path / "b.tar", "all", ("sky", "tree"))
    assert (images.task, images.targets.tolist()) == ("multilabel", [[1, 0], [0, 0], [1, 1]])
    shard(tmp_path / "c.tar", [{"targets": {"age": 0.5}}, {"targets": {"age": 2}}], note="json")
    images = open_split(tmp_path / "c.tar", "all", ("age",))
    assert (images.task, images.targets.tolist()) == ("regression", [[0.5], [2]])


def test_the_classes_beside_the_shards_name_the_numbers(tmp_path):
    shard(tmp_path / "train-0.tar", [0, 1, 0, 1])
    write(tmp_path / "classes.json", json.dumps({"task": "multiclass", "classes": ["ant", "bee", "cow"]}))
    assert open_split(tmp_path, "train", ("ant", "bee", "cow")).classes == ("ant", "bee", "cow")
    write(tmp_path / "classes.json", json.dumps({"task": "multiclass", "classes": ["ant"]}))
    with pytest.raises(UsageError, match=r"contains 1, which does not fit the classes ant"):
        open_split(tmp_path, "train", ("ant",))
    write(tmp_path / "classes.json", json.dumps({"task": "regression", "classes": ["ant"]}))
    with pytest.raises(UsageError, match="but the label files are multiclass"):
        open_split(tmp_path, "train", ("ant",))


def test_patterns_choose_shards(tmp_path):
    for i in range(4):
        shard(tmp_path / f"part-{i:03}.tar", [0, 1], first=2 * i)
    assert len(open_split(f"{tmp_path}/part-{{001..002}}.tar", "all", ("0", "1"))) == 4
    assert len(open_split(f"{tmp_path}/part-*.tar", "all", ("0", "1"))) == 8
    assert expand("{a,b}-{08..10}.tar")[2:4] == ["a-10.tar", "b-08.tar"]
    with pytest.raises(UsageError, match=r"no shard .*part-004\.tar"):
        available_splits(f"{tmp_path}/part-{{003..004}}.tar")


def test_an_uneven_shard_loses_no_image(tmp_path):
    first = 0
    for i, count in enumerate((1, 7, 0, 3)):
        shard(tmp_path / f"train-{i}.tar", [0] * count, first)
        first += count
    images = open_split(tmp_path, "train", ("0", "1")).through(number)
    epoch = SeededEpochs(images, seed=0)
    for workers in (0, 2):
        loader = DataLoader(epoch, sampler=epoch, batch_size=4, num_workers=workers, collate_fn=list)
        seen = [seen for batch in loader for seen, _ in batch]
        assert sorted(seen) == sorted(number(picture(i)) for i in range(11))
        assert seen == [number(picture(i)) for i in epoch]


TWO = """
import sys
from pathlib import Path
from accelerate import Accelerator
from torch.utils.data import DataLoader
from paretune.data import open_split
from paretune.training.order import SeededEpochs

accelerator = Accelerator(cpu=True)
images = open_split(sys.argv[1], "train", ("0", "1")).through(lambda picture: 0)
epoch = SeededEpochs(images, seed=0)
numbered = [(i, label) for i, (_, label) in enumerate(images[i] for i in range(len(images)))]
loader = accelerator.prepare(DataLoader(numbered, sampler=epoch, batch_size=2))
seen, batches = [], 0
for index, _ in loader:
    batches += 1
    seen += accelerator.gather_for_metrics(index).tolist()
Path(sys.argv[1], f"seen{accelerator.process_index}").write_text(f"{batches} {sorted(seen)}")
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_get_equally_many_batches_of_uneven_shards_and_miss_none(tmp_path):
    shard(tmp_path / "train-0.tar", [0] * 9)
    shard(tmp_path / "train-1.tar", [1] * 2, first=9)
    script = write(tmp_path / "two.py", TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), str(tmp_path)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"seen{rank}").read_text() for rank in (0, 1)] == [f"3 {list(range(11))}"] * 2


def test_cut_off_and_compressed_shards_are_refused(tmp_path):
    whole = shard(tmp_path / "train-0.tar", [0, 1, 0]).read_bytes()
    with tarfile.open(tmp_path / "train-0.tar") as tar:
        last = [info.offset for info in tar][2]  # where the second image's files begin
    for size in (last, last + 700, len(whole) // 2, 100):
        (tmp_path / "train-0.tar").write_bytes(whole[:size])
        with pytest.raises(UsageError, match=r"train-0\.tar"):
            available_splits(tmp_path)
    with tarfile.open(tmp_path / "train-0.tar", "w:gz"):
        pass
    with pytest.raises(UsageError, match="must be a complete, uncompressed tar file"):
        available_splits(tmp_path)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"png": picture(0)}, "000000 has 1 images and no label"),
        ({"cls": 0}, "000000 has 0 images and a label"),
        ({"left.png": picture(0), "right.png": picture(1), "cls": 0}, "has 2 images and a label"),
        ({"png": picture(0), "json": {"name": "ant"}}, r"000000\.json: expected"),
        ({"png": picture(0), "json": {"label": 0.5}}, "must all contain the same kind of answer; they contain float"),
    ],
)
def test_samples_without_image_or_answer_are_refused(tmp_path, sample, message):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "000000", **sample})
    with pytest.raises(UsageError, match=message):
        available_splits(tmp_path / "a.tar")


def test_shards_of_no_split_among_others_are_refused(tmp_path):
    shard(tmp_path / "train-0.tar", [0])
    shard(tmp_path / "extra-0.tar", [0])
    with pytest.raises(UsageError, match=r"extra-0\.tar must begin with train-"):
        available_splits(tmp_path)


def test_a_damaged_image_in_a_shard_is_named(tmp_path):
    shard(tmp_path / "a.tar", [0, 1])
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as writer:
        writer.write({"__key__": "x", "png": b"no image", "cls": 0})
    with pytest.raises(UsageError, match=r"1 of 3 images cannot be read.*b\.tar/x\.png"):
        open_split(tmp_path, "all", ("0", "1"))
    assert len(open_split(tmp_path, "all", ("0", "1"), skip_unreadable=True)) == 2
