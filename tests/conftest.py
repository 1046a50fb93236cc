"""Fixtures that several test files share.

What is heavy is imported inside of functions: with xdist, the process that only hands out the tests then starts the
ones that run them ten seconds earlier.
"""

import gc
from collections import Counter

import pytest

READERS = {0: 0, 1: 1, 2: 2, 5: 1}  # of so many prefix tokens: nothing, CLS, CLS and distillation, CLS before registers


def pytest_addoption(parser):
    parser.addoption("--shard", default="1/1", help="run one part of the test files only: 2/3 is the second of three")


@pytest.hookimpl(trylast=True)  # after -m and -k have taken away what does not run
def pytest_collection_modifyitems(config, items):
    """A file belongs to one shard, so that what its tests share is made once; the longest files come first, so that no
    process waits long for another at the end."""
    shard, shards = map(int, config.getoption("--shard").split("/"))
    weight = Counter()
    for item in items:
        weight[item.path] += 30 if item.get_closest_marker("slow") else 1
    files = sorted(weight, key=lambda path: (-weight[path], path))
    items.sort(key=lambda item: files.index(item.path))  # stable: within a file the order stays
    mine = {path for i, path in enumerate(files) if i % shards == shard - 1}
    config.hook.pytest_deselected(items=[item for item in items if item.path not in mine])
    items[:] = [item for item in items if item.path in mine]


def pytest_collection_finish(session):
    """What is imported now stays until the end: no garbage collection need look through it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    gc.unfreeze()  # some libraries count at exit what was not given back


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What is remembered of pictures stays with the tests, in processes that they start too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    import torch

    torch.manual_seed(0)


def pytest_generate_tests(metafunc):
    if "backbone" in metafunc.fixturenames:
        from anatomies import ANATOMIES

        metafunc.parametrize("backbone", ANATOMIES, indirect=True)


@pytest.fixture
def backbone(request):
    """Every family of backbones in turn: (module, images of the right size)."""
    import torch
    from anatomies import ANATOMIES

    build, size = ANATOMIES[request.param]
    return build(0), torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def made_up():
    """A function that makes up a block's (look, tokens): random ones, identical patches, or keys that are all zero."""
    import torch

    from paretune.core.attention import Look
    from paretune.core.tokens import Tokens

    def make(grid=(6, 6), prefix=1, keys="random", batch=2, heads=2, d=8, seed=0, dtype=None):
        g = torch.Generator().manual_seed(seed)
        n = prefix + grid[0] * grid[1]
        q, k = torch.randn(2, batch, heads, n, d, generator=g, dtype=dtype)
        x = torch.randn(batch, n, heads * d, generator=g, dtype=dtype)
        if keys == "identical":
            k, q, x = k[:, :, :1].expand_as(k), q[:, :, :1].expand_as(q), x[:, :1].expand_as(x)
        elif keys == "zero":
            k = torch.zeros_like(k)
        readers = READERS[prefix]
        look = Look(q=q, k=k, plain=k, size=None, prefix=prefix, readers=readers)
        return look, Tokens(x=x, prefix=prefix, readers=readers, grid=grid)

    return make
