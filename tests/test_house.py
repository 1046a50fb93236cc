"""The house rules: who may know whom, what every file says about itself, what is never called."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import circles

import paretune

SRC = Path(__file__).parents[1] / "src" / "paretune"
FILES = {path.relative_to(SRC).with_suffix("").as_posix(): path for path in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
METHODS = [name for name in FILES if name.startswith(("adapters/", "reducers/")) and not name.endswith("__init__")]

# The rooms by floors, the ground floor first. A room may import rooms of lower floors, and on its own floor those that
# stand to the left of it.
FLOORS = (
    (
        *("errors", "version", "counts", "machine", "config", "schema", "files", "formats", "tensorfile"),
        *("core", "peftconfig", "adapters", "reducers", "heads", "data", "drawn"),
    ),
    (
        *("methods", "catalogue", "aliases", "sharded", "pretrained", "backbone", "named_backbone", "folding", "plan"),
        *("frozen", "stored", "saved", "checkpoint"),
    ),
    ("measure",),
    ("training",),
    ("timing",),
    ("deploy", "ledger"),
    ("budget", "show"),
    ("suite", "papers", "verbs"),
    ("serve", "demo"),
    ("paretune", "cli", "__main__"),
)
# Rooms that have a place and need not be there yet.
PLANNED = {"heads", "deploy", "budget", "serve"}

# What every file of the core may import from paretune; a file that is not named here fails the test.
CORE = {
    "core/__init__": set(),
    "core/reduction": set(),
    "core/leaf": {"core/method"},
    "core/layers": {"core/leaf", "core/method"},
    "core/target_units": {"core/leaf"},
    "core/packed": set(),
    "core/memory": {"errors"},
    "core/quantised": {"core/packed"},
    "core/peft_modules": {"core/method", "errors"},
    "core/attention": {"core/reduction"},
    "core/tokens": {"core/reduction"},
    "core/method": {"core/attention", "core/reduction", "core/tokens"},
    "core/anatomy": {
        *("core/attention", "core/layers", "core/memory", "core/method", "core/reduction", "core/tokens", "errors"),
    },
    "core/body": {"core/anatomy", "core/layers", "core/leaf", "core/method", "errors"},
    "core/model": {"core/anatomy", "core/attention", "core/memory", "core/method", "core/tokens"},
}
ADAPTER = {"core/body", "core/method", "core/leaf", "core/tokens", "core/quantised", "errors"}
REDUCER = {"core/attention", "core/method", "core/reduction", "core/tokens", "core/quantised"}

# The only files that import timm, and what they take from it.
TIMM = {
    "core/anatomy": {"timm.layers", "timm.data"} | {f"timm.models.{m}" for m in ("deit", "eva", "vision_transformer")},
    "backbone": {"timm", "timm.models", "timm.models.vision_transformer"},
    "named_backbone": {"timm"},
    "data/transforms": {"timm.data"},
    "training/loop": {"timm.scheduler"},
    "training/mixing": {"timm.data.mixup"},
    "saved": {"timm"},
    "cli/listing": {"timm"},
}
# What they may read of `import timm` itself.
TIMM_NAMES = {
    "core/anatomy": {"layers"},
    "backbone": {"create_model", "is_model", "list_models", "list_pretrained"},
    "named_backbone": {"create_model", "is_model", "list_pretrained"},
    "saved": {"__version__"},
    "cli/listing": {"list_models", "__version__"},
}
# The rooms that know adapters and reducers by name; all others go by the registers.
BY_NAME = {"adapters", "reducers", "methods", "catalogue", "paretune", "cli", "__main__"}
NAMELESS = sorted({name.partition("/")[0] for name in FILES} - BY_NAME - {"__init__"})
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def imports(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere below `tree`, dotted."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """The files of paretune that a file imports, e.g. {"core/leaf"}."""
    dotted = {module.removeprefix("paretune.").replace(".", "/") for module in imports(TREES[name])}
    return {module for module in dotted if module in FILES or f"{module}/__init__" in FILES}


def strangers(name: str, allowed: set[str]) -> set[str]:
    """What a file imports of paretune beyond `allowed`; `from paretune.core import x` names the package as well."""
    return own_imports(name) - allowed - {"core", "paretune"}


def attributes(tree: ast.AST, of: str) -> set[str]:
    """The names that are read off the module called `of`."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == of}


def module_level(tree: ast.Module) -> ast.Module:
    """The statements that run on import: no function bodies, nothing under `if TYPE_CHECKING`."""

    class Skip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Skip().visit(ast.parse(ast.unparse(tree)))


def test_the_rules_see_the_files_and_their_imports():
    assert {"core/reduction", "core/model", "adapters/lora", "reducers/fpet", "cli/main", "training/fit"} <= set(FILES)
    assert {"core/anatomy", "core/leaf", "core/method", "errors"} <= own_imports("core/body")
    assert "core/peft_modules" in own_imports("folding")


def test_an_arrow_between_rooms_only_points_down_and_no_file_is_in_a_circle():
    places = {name: (floor, i) for floor, names in enumerate(FLOORS) for i, name in enumerate(names)}
    script = Path(__file__).parents[1] / "scripts" / "import_graph.py"
    graph = json.loads(output([str(script), "--json"]))
    rooms = graph["rooms"]
    assert set(rooms) <= set(places), "every room has its place in FLOORS"
    assert set(places) - set(rooms) <= PLANNED
    assert [f"{one} -> {other}" for one in rooms for other in rooms[one] if places[other] >= places[one]] == []
    assert circles(graph["files"]) == []
    assert {"core", "timing", "papers", "drawn"} <= set(rooms)
    assert {"catalogue", "measure", "training"} <= set(rooms["timing"])
    assert "core/leaf" in graph["files"]["adapters/lora"]


def test_a_circle_is_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]}) == ["b", "c"]


def test_every_file_of_the_core_imports_only_what_its_room_may_know():
    rooms = [name for name in FILES if name.startswith("core/")]
    assert sorted(rooms) == sorted(CORE)
    assert {name: strangers(name, CORE[name]) for name in rooms if strangers(name, CORE[name])} == {}


def test_an_adapter_knows_neither_siblings_nor_reducers_nor_the_block_loop():
    found = {name: strangers(name, ADAPTER) for name in METHODS if name.startswith("adapters/")}
    assert len(found) >= 4
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_a_reducer_knows_neither_siblings_nor_adapters_nor_how_things_travel():
    found = {name: strangers(name, REDUCER) for name in METHODS if name.startswith("reducers/")}
    assert len(found) >= 3
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_no_file_but_the_anatomy_and_the_backbone_reads_timms_models():
    for name, tree in TREES.items():
        taken = {module for module in imports(tree) if module.split(".")[0] == "timm"}
        allowed = TIMM.get(name, set())
        beyond = {m for m in taken if m not in allowed and m.rpartition(".")[0] not in allowed - {"timm"}}
        assert beyond == set(), name
        assert attributes(tree, "timm") <= TIMM_NAMES.get(name, set()), name


@pytest.mark.parametrize("room", NAMELESS)
def test_only_the_registers_and_the_catalogue_name_a_method(room):
    names = [name for name in FILES if name == room or name.startswith(f"{room}/")]
    assert names
    for name in names:
        assert not {m for m in own_imports(name) if m.startswith(("adapters", "reducers"))}, name


def test_the_checkpoint_knows_the_registers_but_no_method():
    text = FILES["checkpoint"].read_text(encoding="utf-8")
    assert not re.search(r"LoRA|AdaptFormer|Dense|EViT|FPET|ToMe|Leaf|low_rank", text.split('"""', 2)[2])


def test_the_command_line_imports_neither_torch_nor_timm_before_a_command_runs():
    code = "import sys, paretune.cli.main; print(sorted({'torch', 'timm', 'accelerate'} & set(sys.modules)))"
    assert run(code) == "[]"


def test_importing_paretune_alone_pulls_neither_torch_nor_timm():
    assert run("import sys, paretune; print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))") == "[]"


def test_every_public_name_is_there_when_asked_for():
    assert all(callable(getattr(paretune, name)) for name in paretune.__all__)
    assert {"adapt", "recipe", "cost", "save", "load", "merge", "UsageError"} <= set(paretune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'adopt'"):
        getattr(paretune, "adopt")  # noqa: B009 - asked for by name on purpose


def run(code: str) -> str:
    """What a fresh Python prints."""
    return output(["-c", code])


def output(arguments: list[str]) -> str:
    """What Python prints when it is called with these arguments."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=SRC.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("cli/")])
def test_a_command_imports_torch_only_inside_of_functions(name):
    heavy = {"torch", "timm", "torchvision", "accelerate", "numpy"}
    taken = {module.split(".")[0] for module in imports(module_level(TREES[name]))}
    assert taken & heavy == set()
    assert "paretune.verbs.recipes" not in imports(module_level(TREES[name]))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_opens_with_a_drawing_and_names_its_source(name):
    text = ast.get_docstring(TREES[name], clean=False)
    title, drawing = text.split("\n\n")[:2]
    assert drawing.splitlines()[0].startswith(" " * 8), "the drawing stands below the first sentence"
    assert re.search(r"arXiv:\d{4}\.\d{5}|[Ss]ection \d", text), "an arXiv id or a section"
    assert title.endswith((".", ":")), "the first sentence"


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_public_says_what_it_does(name):
    tree = TREES[name]
    assert ast.get_docstring(tree), "the file"
    defined = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    silent = [node.name for node in defined if not ast.get_docstring(node)]
    for owner in [node for node in defined if isinstance(node, ast.ClassDef)]:
        methods = [n for n in owner.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
        silent += [f"{owner.name}.{m.name}" for m in methods if not ast.get_docstring(m) and m.name not in EXPLAINED]
    assert silent == []


# Methods that a base class explains: what overrides them need not say it again.
EXPLAINED = {
    method.name
    for tree in TREES.values()
    for owner in ast.walk(tree)
    if isinstance(owner, ast.ClassDef)
    and (owner.name == "Method" or any("ABC" in ast.unparse(base) for base in owner.bases))
    for method in owner.body
    if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
}


def test_no_file_is_longer_than_300_lines():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_nothing_is_ever_unpickled_or_evaluated():
    for name, tree in TREES.items():
        taken = {module.split(".")[0] for module in imports(tree)} & UNPICKLERS
        assert taken <= {"pickle"}, name
        assert attributes(tree, "pickle") <= {"UnpicklingError"}, name
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
        assert all("weights_only=True" in ast.unparse(call) for call in loads), name
        assert ("load" in attributes(tree, "torch")) == bool(loads) == (name == "pretrained"), name
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("eval", "exec", "compile")], name
        assert not [c for c in calls for k in c.keywords if k.arg == "allow_pickle"], name
