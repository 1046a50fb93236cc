"""docs/training.md: every command on it runs."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paretune.cli.main import app

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]
    assert len(lines) == 5
    for line in ["paretune demo --images digits", *lines]:
        program, *words = shlex.split(line)
        assert program == "paretune"
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    assert "expected calibration error" in result.output
