"""docs/training.md and docs/export.md: every command and every snippet on them runs, from top to bottom."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paretune.cli.main import app

DOCS = Path(__file__).parents[1] / "docs"
TRAIN = "paretune train --data digits --model paretune_tiny --recipe sparse-tuning --epochs 1 --lr 1e-2 --out run"


def run(line):
    program, *words = shlex.split(line)
    assert program == "paretune"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    return result.output


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("page", "before", "blocks", "last"),
    [("training", [], 5, "expected calibration error"), ("export", [TRAIN], 9, "saved in")],
)
def test_everything_on_the_page_runs(page, before, blocks, last, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    lines = []
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL):
        lines += [(kind, line) for line in block.splitlines() if line] if kind == "sh" else [(kind, block)]
    assert len(lines) == blocks
    for line in ["paretune demo --images digits", *before]:
        run(line)
    said = ""
    for kind, line in lines:
        if kind == "sh":
            said = run(line)
        else:
            exec(compile(line, f"{page}.md", "exec"), {})
    assert last in said
