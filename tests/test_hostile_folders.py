"""Folders, configs, records and lines that were made to do harm, or damaged: each is refused in one sentence.

A lapse is anything else than a UsageError: a traceback, a hang, memory without end, or nonsense that is accepted. All
cases follow from one seed.
"""

import copy
import json
import random
import resource
import signal
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from ledgers import row
from safetensors.torch import load_file, save_file

import paretune as pt
from paretune import formats, peftconfig
from paretune.errors import UsageError
from paretune.ledger.results import Ledger
from paretune.schema import parse, read, verify
from paretune.show.sources import read_source
from paretune.suite.suites import open_suite
from paretune.training.runfolder import RunFolder

CONFIG, TENSORS, BACKBONE = "adapter_config.json", "adapter_model.safetensors", "backbone.safetensors"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 16, "num_classes": 3}
SECONDS = 5  # one case
DEEP = "[" * 100_000 + "]" * 100_000
# Values that belong nowhere in a config; the texts are what JSON can hold and Python's json cannot write.
ANYWHERE = [
    DEEP,
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "1" + "0" * 30,
    '{"a": ' * 5000 + "1" + "}" * 5000,
]
# Values of a wrong type or size for most entries, as JSON text.
WRONG = [
    '"x"', "null", "true", "-1", "0", "1.5", "1000000000", "[]", "{}", "[[1]]", '"\\u001b[31m"', '"\\ud800"', "1e308",
    '[1, "a", null]', '{"kind": 3}', '"' + "a" * 100_000 + '"',
]  # fmt: skip


def config() -> dict:
    """The config of the folder that `saved` makes."""
    return json.loads(Path(SAVED[0], CONFIG).read_text())


SAVED: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def saved(tmp_path_factory):
    """A sound folder, whose copies are spoiled."""
    with suppress(ImportError):
        import peft  # noqa: F401 - once, and not in the time of a case

    torch.manual_seed(0)
    model = pt.adapt("vit_tiny_patch16_224", [pt.LoRA(rank=2)], pt.FPET(block=1), ["ash", "oak"], **TINY).eval()
    SAVED[:] = [tmp_path_factory.mktemp("saved")]
    pt.save(model, SAVED[0], training={"seed": 0})
    yield
    SAVED.clear()


@contextmanager
def at_most(seconds: int):
    """Raises TimeoutError in code that takes longer."""

    def late(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def lapse(act) -> str:
    """What `act` did other than raise a UsageError of one short line; empty if it did that."""
    try:
        with at_most(SECONDS):
            found = act()
    except UsageError as refusal:
        sentence = str(refusal)
        bad = not sentence.isprintable() or len(sentence) > 5000
        return f"the sentence is {len(sentence)} characters long, or not one line" if bad else ""
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return f"accepted: {str(found)[:100]}"


def lapses(cases: dict) -> list[str]:
    """The lapses of all cases, which must not take memory without end either."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = [f"{name[:200]}: {problem}" for name, act in cases.items() if (problem := lapse(act))]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return [*found, *([f"{grown} kB more memory"] if grown > 500_000 else [])]


def paths(value, at=()):
    """The path of every entry of nested objects and lists."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*at, key))


def put(value, at, text: str) -> str:
    """The JSON of `value` with the text in the place of what is `at`."""
    if not at:
        return text
    changed = copy.deepcopy(value)
    place = changed
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = "@here@"
    return json.dumps(changed).replace('"@here@"', text)


def loading(folder: Path, text: str):
    """Write a config beside sound tensors, and load."""

    def act():
        (folder / CONFIG).write_text(text)
        return pt.load(folder)

    return act


@pytest.fixture
def folder(tmp_path):
    """A copy of the sound folder."""
    for name in (TENSORS, BACKBONE, CONFIG):
        (tmp_path / name).write_bytes((SAVED[0] / name).read_bytes())
    return tmp_path


def harmless(at: tuple, text: str) -> bool:
    """Whether a value says nothing that a model is made of, or the same as before."""
    if at and at[0] in ("training", "versions"):
        return True
    number = text in ("0", "1.5", "-1", "1000000000", "1e308", "true", "null", "{}", "[]")
    last = at[-1] if at else ""
    free = {
        ("classes", 0): ('"x"', '"\\u001b[31m"'), ("classes", 1): ('"x"', '"\\u001b[31m"'),
        ("task",): (), ("backbone", "peft"): ("null",), ("reducer",): (),
    }  # fmt: skip
    if at in free:
        return text in free[at]
    if at[:2] == ("preprocessing", "mean") and len(at) == 3:
        return text in ("0", "-1", "1.5")
    if at[:2] == ("preprocessing", "std") and len(at) == 3:
        return text == "1.5"
    return at[:1] in (("adapters",), ("reducer",)) and len(at) > 1 and number and last in FREE


# What a method may be told without another shape: a scale, a position, a rate.
FREE = ("scale", "dropout", "proportional", "block", "temperature", "bits", "refine_width", "merge", "at")


def test_no_config_with_a_wrong_value_anywhere_is_followed(folder):
    chance, sound = random.Random(0), config()
    cases = {}
    for at in paths(sound):
        some = [*chance.sample(ANYWHERE, 2), *chance.sample(WRONG, 8)]
        for text in some:
            same = put(sound, at, text) == json.dumps(sound)
            if text in ANYWHERE or not (same or harmless(at, text)):
                cases[f"{at} = {text[:60]}"] = loading(folder, put(sound, at, text))
    assert len(cases) > 250
    assert lapses(cases) == []


def test_no_config_that_lacks_an_entry_or_has_a_strange_one_is_followed(folder):
    sound, cases = config(), {}
    for at in paths(sound):
        if not at or isinstance(at[-1], int) or at[0] in ("training", "versions", "task"):
            continue
        lacking = copy.deepcopy(sound)
        place = lacking
        for key in at[:-1]:
            place = place[key]
        del place[at[-1]]
        if at[0] not in ("adapters", "reducer", "backbone") or len(at) == 1:
            cases[f"without {at}"] = loading(folder, json.dumps(lacking))
        place[f"{at[-1]}_"] = 1
        cases[f"with a name like {at}"] = loading(folder, json.dumps(lacking))
    assert len(cases) > 40
    assert lapses(cases) == []


SIZED = ("depth", "embed_dim", "num_heads", "img_size", "patch_size", "in_chans", "num_classes", "mlp_ratio",
         "reg_tokens", "init_values")  # fmt: skip
SIZES = [10**4, 10**6, 10**9, 10**18, -1, 0]


def test_nothing_large_is_built_because_a_number_says_so(folder):
    sound, cases = config(), {}
    for size in SIZES:
        for option in SIZED:
            if (option, size) not in {
                ("num_classes", 0),
                ("reg_tokens", 0),
                ("init_values", -1),
                ("init_values", 0),
                ("num_classes", 10**4),
            }:
                options = {**sound["backbone"]["options"], option: size}
                cases[f"{option}={size}"] = loading(folder, put(sound, ("backbone", "options"), json.dumps(options)))
        for kind, name in (
            ("LoRA", "rank"),
            ("RepAdapter", "rank"),
            ("AdaptFormer", "width"),
            ("DenseAdapter", "width"),
        ):
            method = {"kind": kind, name: size}
            cases[f"{method}"] = loading(folder, put(sound, ("adapters",), json.dumps([method])))
        cases[f"classes={size}"] = loading(folder, put(sound, ("classes",), str(size)))
        if size > 0:
            for count in (min(size, 10**5),):
                cases[f"{count} adapters"] = loading(
                    folder, put(sound, ("adapters",), json.dumps([{"kind": "LoRA"}] * count))
                )
        for key in ("bits", "shape"):
            name = next(iter(sound["packed"]))
            cases[f"packed {key}={size}"] = loading(folder, put(sound, ("packed", name, key), json.dumps(size)))
    assert len(cases) > 90
    assert lapses(cases) == []


LOOSE = [
    "pretrained_strict", "kwargs_filter", "pretrained_filter_fn", "pretrained_cfg", "pretrained_cfg_overlay",
    "checkpoint_path", "cache_dir", "features_only", "out_indices", "feature_cfg", "exportable", "scriptable", "no_jit",
    "block_fn", "mlp_layer", "attn_layer", "embed_layer", "device", "dtype", "drop_block_rate", "model_name",
    "pretrained_custom_load",
]  # fmt: skip


@pytest.mark.parametrize("source", ["random", "pretrained"])
def test_options_that_loosen_or_redirect_loading_are_refused(folder, source):
    sound = config()
    sound["backbone"]["source"] = source
    cases = {}
    for option in LOOSE:
        for value in (False, "/etc/passwd"):
            options = {**sound["backbone"]["options"], option: value}
            cases[f"{option}={value}"] = loading(folder, put(sound, ("backbone", "options"), json.dumps(options)))
    assert lapses(cases) == []


PREPROCESSING = {
    "interpolation": ["cubic", "random", "", 3, None], "mean": [[1], [0.5] * 4, [0.5, 0.5, "a"], 0.5, [[0.5] * 3]],
    "std": [[0, 1, 1], [-1, 1, 1], [1e-30, 1, 1], [1, 1], "x"], "crop_pct": [0, -0.5, 1.5, "1", None, True],
    "input_size": [[3, 17, 17], [1, 16, 16], [3, 16], [3, 0, 16], [3, 10**9, 10**9], [3, 16.0, 16], [3, 24, 24], 16],
    "crop_mode": ["middle", 1, None],
}  # fmt: skip


def test_preprocessing_that_cannot_be_is_refused(folder):
    sound = config()
    cases = {
        f"{key}={value}": loading(folder, put(sound, ("preprocessing", key), json.dumps(value)))
        for key, values in PREPROCESSING.items()
        for value in values
    }
    assert lapses(cases) == []


AT = {"target_modules": ["qkv"]}
PEFT = [
    {}, {"peft_type": "NONE", **AT}, {"peft_type": 3, **AT}, {"peft_type": "PROMPT_TUNING"}, {"peft_type": "LORA"},
    {"peft_type": ["LORA"], **AT}, *({"peft_type": "LORA", "r": r, **AT} for r in (10**9, -1, "8", None, 1.5, [8])),
    *({"peft_type": "LORA", "target_modules": bad} for bad in (
        "(a+)+$", "(.*)*qkv", "(a|aa)+$", ".*.*.*.*.*qkv", "(?=a)qkv", r"(q)\1", "[", "x" * 1000, [], [3], {"a": 1}, 7,
        "(([a-z]+)*)*x", ["(a+)+"], ["nowhere"], "nowhere", [""], ["blocks"], ["patch_embed"])),
    *({"peft_type": "LORA", **AT, field: value} for field, value in (
        ("megatron_core", "os"), ("megatron_config", {"a": 1}), ("loftq_config", {"loftq_bits": 4}),
        ("exclude_modules", "(a+)+$"),
        ("rank_pattern", {"(a+)+$": 4}), ("alpha_pattern", {"a": "b"}), ("layer_replication", [[0, 10**6]]),
        ("init_lora_weights", "eva"), ("init_lora_weights", "pissa"), ("init_lora_weights", "loftq"),
        ("corda_config", {"a": 1}),
        ("eva_config", {"a": 1}), ("trainable_token_indices", [1]), ("target_parameters", ["x"]), ("lora_dropout", 2),
        ("lora_alpha", "x"), ("bias", "some"), ("modules_to_save", 3), ("layers_to_transform", 10**9), ("use_dora", 3),
        ("layers_pattern", "(a+)+$"), ("modules_to_save", ["(a+)+$"]), ("rank_pattern", [1]), ("runtime_config", 3))),
]  # fmt: skip
IGNORED = {"runtime_config"}


def test_hf_peft_configs_that_do_more_than_tune_are_refused(folder):
    pytest.importorskip("peft")
    sound = config()
    cases = {
        f"{described}": loading(folder, put(sound, ("backbone", "peft"), json.dumps(described)))
        for described in PEFT
        if not described.keys() & IGNORED
    }
    assert len(cases) > 45
    assert lapses(cases) == []


@pytest.mark.parametrize("text", ["qkv", r".*\.(qkv|proj)", r"blocks\.[0-5]\.attn\.qkv", ".*attn.*fc1"])
def test_plain_patterns_are_followed(text):
    assert list(peftconfig.plain(text, "target_modules")) == []


def test_tensors_that_are_not_finite_or_of_another_type_are_refused(folder):
    cases, rewritten = {}, {name: load_file(folder / name) for name in (TENSORS, BACKBONE)}

    def spoiled(file, change):
        def act():
            tensors = dict(rewritten[file])
            change(tensors)
            save_file(tensors, folder / file)
            try:
                return pt.load(folder)
            finally:
                save_file(rewritten[file], folder / file)

        return act

    chance = random.Random(3)
    for file, tensors in rewritten.items():
        for name, tensor in chance.sample(sorted(tensors.items()), min(len(tensors), 12)):
            if tensor.is_floating_point():
                for bad in (float("nan"), float("inf")):
                    wrong = tensor.clone().flatten()
                    wrong[-1] = bad
                    wrong = wrong.view(tensor.shape)
                    cases[f"{name} {bad}"] = spoiled(file, lambda t, n=name, w=wrong: t.update({n: w}))
            other = tensor.long() if tensor.dtype != torch.int64 else tensor.float()
            cases[f"{name} as {other.dtype}"] = spoiled(file, lambda t, n=name, w=other: t.update({n: w}))
            cases[f"{name} longer"] = spoiled(file, lambda t, n=name, w=tensor: t.update({n: torch.cat([w, w])}))
    assert len(cases) > 60
    assert lapses(cases) == []


def test_a_sparse_file_of_a_terabyte_is_refused_by_its_head(folder):
    head = json.dumps(
        {"backbone.head.weight": {"dtype": "F32", "shape": [2, 10**11], "data_offsets": [0, 8 * 10**11]}}
    ).encode()
    with (folder / TENSORS).open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        try:
            file.truncate(len(head) + 8 + 8 * 10**11)
        except OSError:
            pytest.skip("this file system has no sparse files of that size")
    assert lapses({"sparse": lambda: pt.load(folder)}) == []


RECORD = {
    "best_epoch": 1, "best_val_accuracy": 0.5, "seconds": 1.0, "recipe": "lora", "set": [], "seed": 0,
    "schedule": {"epochs": 1, "lr": 0.1}, "data": {
        "train": {"images": 3, "name": "a", "fingerprint": "f"}, "val": {"images": 3, "name": "a", "fingerprint": "f"}},
    "environment": {"device": "cpu", "name": "x", "cores": 2, "threads": 2, "platform": "p"},
    "history": [{"epoch": 1, "lr": 0.1, "seconds": 1.0, "val_accuracy": 0.5}],
}  # fmt: skip

WRONG_RECORD = [
    ("data", []), ("data", {"val": 3, "train": {}}), ("seconds", "x"), ("schedule", 3), ("environment", "x"),
    ("seed", -1), ("best_epoch", "1"), ("best_val_accuracy", "high"), ("set", 3), ("recipe", ["a"]),
]  # fmt: skip


def test_records_benches_and_demos_are_read_by_their_schema(folder, tmp_path):
    chance, cases = random.Random(1), {}
    bench = json.loads((Path(__file__).parents[1] / "bench/results/vit_b_reducers.json").read_text())
    bench["rows"] = bench["rows"][:2]
    demo = json.loads((Path(__file__).parents[1] / "bench/results/demo.json").read_text())
    demo["rows"] = demo["rows"][:1]

    def reading(text, file):
        def act():
            file.write_text(text)
            return read_source(folder if file.name == "record.json" else file)

        return act

    for sound, name in ((RECORD, "record.json"), (bench, "bench.json"), (demo, "demo.json")):
        places = list(paths(sound))
        for at in chance.sample(places, min(len(places), 60)):
            text = chance.choice(ANYWHERE)
            cases[f"{name} {at} = {text[:40]}"] = reading(
                put(sound, at, text), (folder if name == "record.json" else tmp_path) / name
            )
    assert len(cases) > 120
    assert lapses(cases) == []
    wrong = {
        f"{key} = {value}": reading(json.dumps({**RECORD, key: value}), folder / "record.json")
        for key, value in WRONG_RECORD
    }
    assert lapses(wrong) == []


def test_lines_of_a_ledger_and_suites_are_read_by_their_schema(tmp_path):
    chance, sound, cases = random.Random(2), row(), {}

    def reading(text):
        def act():
            (tmp_path / "ledger.jsonl").write_text(text + "\n" + json.dumps(row(seed=1)) + "\n")
            return Ledger(tmp_path / "ledger.jsonl").rows()

        return act

    for at in paths(sound):
        cases[f"line {at}"] = reading(put(sound, at, chance.choice(ANYWHERE)))
        if at and at[0] in ("suite", "task", "recipe", "seed", "test", "cost", "settings", "seconds") and len(at) == 1:
            for text in ("[]", '"\\u001b[2J"', '"' + "a" * 1000 + '"'):
                cases[f"line {at} {text[:20]}"] = reading(put(sound, at, text))
    assert lapses(cases) == []

    (tmp_path / "suite" / "a").mkdir(parents=True)
    (tmp_path / "suite" / "a" / "train800.txt").write_text("")

    def opening(text):
        def act():
            (tmp_path / "suite" / "suite.json").write_text(text)
            return open_suite(str(tmp_path / "suite"))

        return act

    texts = [
        *ANYWHERE,
        "3",
        "[]",
        '{"groups": 3}',
        '{"groups": {"a": 3}}',
        '{"groups": {"a": "\\u001b[2J"}}',
        "hello",
        "\x00",
    ]
    assert lapses({f"suite {text[:30]}": opening(text) for text in texts}) == []


def test_settings_of_an_interrupted_run_are_read_by_their_schema(tmp_path):
    settings, cases = {"schedule": {"lr": 0.1}, "seed": 0, "data": {"train": {}, "val": {}}}, {}
    (tmp_path / "state").mkdir()

    def resuming(text):
        def act():
            (tmp_path / "state" / "settings.json").write_text(text)
            return RunFolder(tmp_path, settings).check(resume=True, overwrite=False)

        return act

    for text in (*ANYWHERE, *WRONG):
        cases[f"whole {text[:40]}"] = resuming(text)
        for at in (("schedule",), ("data",), ("seed",), ("schedule", "lr"), ("data", "train")):
            if (at, text) not in {(("seed",), "0"), (("data", "train"), "{}")}:
                cases[f"{at} {text[:40]}"] = resuming(put(settings, at, text))
    assert len(cases) > 100
    assert lapses(cases) == []


def test_what_the_project_wrote_is_accepted():
    results = Path(__file__).parents[1] / "bench" / "results"
    found = [read_source(path).kind for path in sorted(results.glob("*.json*")) if path.suffix == ".jsonl" or
             json.loads(path.read_text()).get("kind") == "bench" or path.name == "demo.json"]  # fmt: skip
    assert {"bench", "demo", "ledger"} <= set(found)
    verify(parse(json.dumps(config()), "it"), formats.CONFIG, "it")
    assert read(SAVED[0] / CONFIG, formats.CONFIG)["classes"] == ["ash", "oak"]
    assert pt.load(SAVED[0]).classes == ["ash", "oak"]
