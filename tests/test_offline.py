"""The offline suite: what is drawn, that it is the same everywhere, how it is kept and written."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from offline_files import write_offline

from paretune.data.vtab import vtab_task
from paretune.drawn import handwriting, offline, store
from paretune.drawn.distance import DISCS, MARGIN, _others, _pair
from paretune.drawn.offline import OFFLINE, offline_parts
from paretune.drawn.outline import filled, inside, lined, placed
from paretune.drawn.sprites import member
from paretune.drawn.task import evenly, generator, painted
from paretune.errors import UsageError
from paretune.files import cache_folder

PARTS = ("train800", "val200", "train800val200", "test")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Every task's parts of seed 0, drawn in an empty cache and so checked against hashes.json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {name: offline_parts(name) for name in OFFLINE}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "offline"


@pytest.fixture
def small(monkeypatch):
    """A task that draws in no time, and how often it was drawn."""
    calls = []

    def paint(rng, labels):
        calls.append(len(labels))
        return torch.randint(256, (len(labels), 32, 32, 3), generator=rng, dtype=torch.uint8)

    monkeypatch.setitem(OFFLINE, "small", painted("small", "natural", "nothing", ("a", "b", "c"), paint))
    return calls


def test_the_suite_has_eight_tasks_and_more_in_vtabs_three_groups():
    groups = [task.group for task in OFFLINE.values()]
    assert len(OFFLINE) >= 8
    assert min(groups.count(group) for group in ("natural", "specialized", "structured")) >= 2
    assert all(name == task.name and len(set(task.classes)) == len(task.classes) for name, task in OFFLINE.items())


@pytest.mark.slow
def test_every_task_has_vtabs_parts_with_even_classes(suite):
    for name, parts in suite.items():
        assert tuple(parts) == PARTS
        assert [len(parts[part]) for part in PARTS] == [800, 200, 1000, OFFLINE[name].test]
        for part in parts.values():
            assert part.images.shape == (len(part), 32, 32, 3)
            assert (part.images.dtype, part.targets.dtype) == (np.uint8, np.int64)
            counts = np.bincount(part.targets, minlength=len(part.classes))
            assert len(counts) == len(part.classes)
            most = 0.06 * len(part) if name == "digits" else 2 if part.name.endswith("train800val200") else 1
            assert counts.max() - counts.min() <= most


@pytest.mark.slow
def test_no_picture_is_in_two_parts_and_800_and_200_make_1000(suite):
    for parts in suite.values():
        pictures = [image.tobytes() for part in ("train800val200", "test") for image in parts[part].images]
        assert len(set(pictures)) == len(pictures)
        both = np.concatenate([parts["train800"].images, parts["val200"].images])
        assert np.array_equal(both, parts["train800val200"].images)


def test_no_scan_is_in_two_sets_of_digits(monkeypatch):
    drawn = []
    monkeypatch.setattr(handwriting, "place_scans", lambda rng, scans: drawn.append(scans) or scans)
    handwriting.draw((800, 200, 797), 0)
    assert [len(scans) for scans in drawn] == [800, 200, 797]
    known = np.unique(np.concatenate(drawn), axis=0)
    assert len(known) == len(np.unique(handwriting.load_scans()[0], axis=0))


def test_another_seed_draws_other_pictures_of_the_same_classes():
    one, again, other = (OFFLINE["fields"].draw((20,), seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one[0], again[0])
    assert not np.array_equal(one[0], other[0])
    assert np.array_equal(np.sort(one[1]), np.sort(other[1]))


DRAWN = """
import torch
from paretune.drawn import store
from paretune.drawn.offline import OFFLINE
torch.set_num_threads(1)
for name, task in OFFLINE.items():
    print(name, store._digest(task.draw((32, 16, 16), 5)))
"""


@pytest.mark.slow
def test_the_pictures_are_the_same_for_other_processors_and_numbers_of_threads():
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", DRAWN]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    here = {name: store._digest(task.draw((32, 16, 16), 5)) for name, task in OFFLINE.items()}
    torch.set_num_threads(threads)
    assert dict(line.split() for line in printed.splitlines()) == here


def test_drawing_leaves_the_default_type_as_it_was_even_if_it_fails():
    def paint(rng, labels):
        assert torch.rand(1).dtype == torch.float64
        raise ZeroDivisionError

    before = torch.get_default_dtype()
    with pytest.raises(ZeroDivisionError):
        painted("failing", "natural", "", ("a", "b"), paint).draw((4,), 0)
    assert torch.get_default_dtype() == before


def test_the_hashes_are_those_of_this_version_for_every_task():
    known = json.loads(store.HASHES.read_text())
    assert (known["version"], known["seed"]) == (store.VERSION, store.SEED)
    assert set(known["sha256"]) == set(OFFLINE)
    hashes = [value for parts in known["sha256"].values() for value in parts.values()]
    assert len(set(hashes)) == len(PARTS) * len(OFFLINE)


@pytest.mark.slow
def test_other_pictures_than_those_of_this_version_are_refused_unless_they_are_wanted(suite, monkeypatch):
    parts = dict(suite["tissue"])
    images = parts["val200"].images.copy()
    images[7, 1, 2, 0] ^= 1
    parts["val200"] = type(parts["val200"])(images, parts["val200"].targets, parts["val200"].classes)
    with pytest.raises(UsageError, match=r"'tissue'.*in val200;.*verify=False"):
        store.check("tissue", parts)
    monkeypatch.setattr(offline.store, "kept", lambda name, seed, draw: [(images, parts["val200"].targets)] * 3)
    with pytest.raises(UsageError, match="tissue"):
        offline_parts("tissue")
    assert len(offline_parts("tissue", verify=False)) == len(offline_parts("tissue", seed=1)) == 4


def test_a_task_is_drawn_once_and_then_read(cache, small):
    first, again = offline_parts("small", 1), offline_parts("small", 1)
    assert small == [800, 200, 1000]
    assert [part.describe() for part in first.values()] == [part.describe() for part in again.values()]
    assert [file.name for file in cache.iterdir()] == [f"small-seed1-version{store.VERSION}.npz"]
    offline_parts("small", 2)
    assert len(small) == 6


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "text"])
def test_a_damaged_file_of_the_cache_is_drawn_anew(cache, small, damage):
    first = offline_parts("small", 1)
    file = next(cache.iterdir())
    if damage == "other":
        with np.load(file) as found:
            arrays = dict(found)
        arrays["images0"][0, 0, 0, 0] ^= 1
        np.savez_compressed(file, **arrays)
    else:
        whole = file.read_bytes()
        file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"nothing to see"}[damage])
    again = offline_parts("small", 1)
    assert len(small) == 6
    assert first["train800"].describe() == again["train800"].describe()
    offline_parts("small", 1)
    assert len(small) == 6


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch, small):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="small cannot be written to"):
        assert len(offline_parts("small", 1)["train800"]) == 800


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    for name in ("PARETUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "paretune"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "paretune"
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_unknown_tasks_and_a_missing_scikit_learn_are_told(cache, monkeypatch):
    with pytest.raises(UsageError, match="did you mean counting"):
        offline_parts("countin")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="scikit-learn"):
        offline_parts("digits")


def test_the_suite_is_written_as_vtab_1k_is_and_reads_back_the_same(tmp_path, cache, small, monkeypatch):
    monkeypatch.setattr("offline_files.OFFLINE", {"small": OFFLINE["small"]})
    assert write_offline(tmp_path / "suite", seed=1) == {"small": 2000}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "suite"]
    assert json.loads((tmp_path / "suite/suite.json").read_text()) == {"groups": {"small": "natural"}}
    drawn, read = offline_parts("small", 1), vtab_task(tmp_path / "suite", "small")
    for part in PARTS:
        assert np.array_equal(read[part].targets, drawn[part].targets)
        assert np.array_equal(np.asarray(read[part][3][0]), drawn[part].images[3])
    assert (tmp_path / "suite/small/test.txt").read_text().startswith("images/test/000000.png ")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_offline(tmp_path / "suite")


def test_a_polygon_has_its_area_and_its_outline_its_length():
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    corners = placed(square, torch.tensor([6.0, 6]), torch.tensor([0.0, 0.4]), torch.tensor([[16.0, 15], [14, 17]]))
    distance = inside(corners)
    assert filled(distance).sum((1, 2)).tolist() == pytest.approx([144, 144], rel=0.01)
    assert lined(distance, torch.tensor([1.5, 1.5])).sum((1, 2)).tolist() == pytest.approx([63, 63], rel=0.03)
    assert distance[0, 15, 16].item() == pytest.approx(5.5)
    assert distance[0, 15, 25].item() == pytest.approx(-3.5)


@pytest.mark.parametrize(("values", "bins"), [(40, 16), (32, 16)])
def test_a_factor_is_drawn_from_all_values_of_its_bin_and_no_other(values, bins):
    labels = torch.arange(bins).repeat(200)
    drawn = member(generator("bins"), labels, values, bins)
    assert torch.equal(torch.floor(drawn / (values / bins)).long(), labels)
    assert len(drawn.unique()) == values


def test_rings_are_as_far_apart_as_asked_and_touch_nothing():
    rng, radius = generator("rings"), torch.linspace(2.0, 2.8, 200)
    apart = radius * torch.linspace(2.4, 8.4, 200).flip(0)
    rings = torch.stack(_pair(rng, radius, apart), dim=1)
    others = _others(rng, rings, radius)
    assert torch.allclose((rings[:, 0] - rings[:, 1]).norm(dim=1), apart)
    assert (rings.amin((1, 2)) > radius).all()
    assert (rings.amax((1, 2)) < 32 - radius).all()
    everything = torch.cat([rings, others], dim=1)
    gaps = torch.cdist(everything, everything) + 99 * torch.eye(2 + DISCS)
    seen = (everything.amin(2) > 0).float()
    pairs = seen.unsqueeze(1) * seen.unsqueeze(2) > 0
    pairs[:, :2, :2] = False  # the rings themselves may come as near as their bin says
    assert (gaps - 2 * radius.view(-1, 1, 1))[pairs].min() > MARGIN - 1e-3


def test_labels_are_even_and_in_random_order():
    labels = evenly(generator("labels"), 100, 16)
    assert sorted(torch.bincount(labels).tolist()) == [6] * 12 + [7] * 4
    assert labels.tolist() != sorted(labels.tolist())
