"""Write docs/methods/: a page for every registered adapter and reducer, from its own file and from measurements.

python scripts/method_pages.py            a few seconds; tests/test_pages.py says whether the pages are current
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from pathlib import Path

import paretune as pt
from paretune.adapters import ADAPTERS
from paretune.catalogue import RECIPES, Recipe
from paretune.config import field_help
from paretune.counts import GMACS
from paretune.measure.growth import weightless
from paretune.reducers import REDUCERS

PAGES = Path(__file__).parents[1] / "docs" / "methods"
BACKBONE = "vit_base_patch16_224"


def pages() -> dict[str, str]:
    """File name -> text of every page."""
    found = {f"{_module(kind)}.md": page(kind) for kind in (*ADAPTERS, *REDUCERS)}
    return {"README.md": index(), **found}


def index() -> str:
    """The list of all methods."""
    lines = ["# The methods", "", "A page per method, written by `python scripts/method_pages.py`.", ""]
    for title, kinds in (("Adapters", ADAPTERS), ("Reducers", REDUCERS)):
        lines += [f"## {title}", ""]
        lines += [f"- [{kind.__name__}]({_module(kind)}.md): {_about(kind)}" for kind in kinds] + [""]
    return "\n".join(lines)


def page(kind: type) -> str:
    """One method: drawing, law and paper from its file, settings, cost, snippet, recipes."""
    source = (inspect.getdoc(sys.modules[kind.__module__]) or "").strip()
    texts = field_help(kind)
    settings = [f"| `{f.name}` | `{f.default!r}` | {texts.get(f.name, '')} |" for f in fields(kind)]
    parts = [
        f"# {kind.__name__}",
        source,
        "## Settings",
        "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *settings]) if settings else "None.",
        "## Cost",
        f"At its defaults, on `{BACKBONE}` with its own head:",
        _cost_table(kind),
        "## Use",
        f"```python\n{snippet(kind)}```",
        "## Recipes",
        "\n".join(f"- `{one.name}`: {one.about}" for one in RECIPES.values() if _uses(one, kind)) or "None yet.",
    ]
    return "\n\n".join(parts) + "\n"


def snippet(kind: type) -> str:
    """A runnable example on the embedded backbone."""
    made = f"adapters=[pt.{kind.__name__}()]" if kind in ADAPTERS else f"reducer=pt.{kind.__name__}()"
    show = "print(pt.cost(model))" if kind in ADAPTERS else "print(model.eval().run(images).tokens.patches, 'of 64')"
    return (
        "import torch\n\nimport paretune as pt\n\n"
        f'model = pt.adapt("paretune_tiny", {made}, classes=10, pretrained=True)\n'
        "images = torch.randn(2, 3, 32, 32)\n"
        "logits = model(images)  # (2, 10)\n"
        f"{show}\n"
    ).replace("'of 64'", '"of 64"')


def _cost_table(kind: type) -> str:
    adapters, reducer = ((kind(),), None) if kind in ADAPTERS else ((), kind())
    with_it, without = (pt.cost(weightless(BACKBONE, list(a), r, None)) for a, r in ((adapters, reducer), ((), None)))
    return "\n".join([
        "| | trained parameters | GMACs | tokens in the last block |",
        "| --- | ---: | ---: | ---: |",
        f"| {kind.__name__} | {with_it.trained_without_head:,} | {GMACS.write(with_it.macs)} "
        f"| {with_it.tokens[-1][1]} |",
        f"| the backbone alone | 0 | {GMACS.write(without.macs)} | {without.tokens[-1][1]} |",
    ])  # fmt: skip


def _uses(one: Recipe, kind: type) -> bool:
    return any(type(part) is kind for part in (*one.adapters, one.reducer))


def _module(kind: type) -> str:
    return kind.__module__.rsplit(".", 1)[-1]


def _about(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    PAGES.mkdir(parents=True, exist_ok=True)
    for stale in PAGES.glob("*.md"):
        stale.unlink()
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(pages())} pages in {PAGES}")
