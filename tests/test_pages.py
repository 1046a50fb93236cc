"""The pages of the methods are what their generator writes, and their snippets run."""

import re
import runpy
from pathlib import Path

import pytest

import paretune as pt
from paretune.adapters import ADAPTERS
from paretune.reducers import REDUCERS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"


@pytest.fixture(scope="module")
def generated():
    return runpy.run_path(str(ROOT / "scripts" / "method_pages.py"))["pages"]()


@pytest.mark.slow
def test_every_method_has_a_page_and_every_page_is_current(generated):
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    assert len(generated) == 1 + len(ADAPTERS) + len(REDUCERS)
    assert sorted(written) == sorted(generated)
    assert [name for name in generated if written[name] != generated[name]] == [], "run scripts/method_pages.py"


@pytest.mark.slow
def test_every_page_shows_a_drawing_a_source_and_settings(generated):
    for name, text in generated.items():
        if name != "README.md":
            assert re.search(r"^    \S", text, re.MULTILINE) or re.search(r"^ {5,}\S", text, re.MULTILINE), name
            assert "## Settings" in text, name


@pytest.mark.parametrize("kind", [*ADAPTERS, *REDUCERS], ids=lambda kind: kind.__name__)
def test_the_snippet_of_every_page_runs(kind, capsys):
    path = FOLDER / f"{kind.__module__.rsplit('.', 1)[-1]}.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(snippet, path.name, "exec"), names)
    assert names["logits"].shape == (2, 10)
    assert type(names["model"]) is pt.Adapted
    assert capsys.readouterr().out
