"""The README and the contributor's guide do what they say: every snippet and command in them runs here."""

import json
import re
import shlex
from glob import glob
from pathlib import Path

import pytest
import torch
from test_contract import third
from typer.testing import CliRunner

import paretune as pt
from paretune.cli.main import app
from paretune.drawn import digit_sets
from paretune.measure.growth import weightless
from paretune.suite import suites

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_python_snippet_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, snippet = blocks(README, "python")  # the first one follows the walk-through
    exec(compile(snippet, "README.md", "exec"), {})
    assert "(4, 64)" in capsys.readouterr().out.replace("torch.Size([4, 64])", "(4, 64)")
    assert sorted(p.name for p in Path("run").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def fewer(parts, part):
    return {name: data.part(slice(len(data) // part), name) for name, data in parts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("part", [6, pytest.param(1, id="all images", marks=pytest.mark.exhaustive)])
def test_every_command_of_the_walk_through_runs(part, tmp_path, monkeypatch):
    """With a sixth of the images in `make test`: the commands are the same, and take seconds instead of minutes."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("TRAIN", 800), ("VALIDATE", 200), ("TEST", 797)):
        monkeypatch.setattr(digit_sets, name, count // part)
    drawn = suites.offline_parts
    monkeypatch.setattr(suites, "offline_parts", lambda task: fewer(drawn(task), part))
    lines = [line for block in blocks(README, "sh") for line in block.splitlines() if line]
    assert len(lines) >= 8
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "paretune"
        arguments = [
            name for word in words for name in (sorted(glob(word)) if "*" in word else [word])
        ]  # as a shell does
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"

    verbs, _ = blocks(README, "python")
    exec(compile(verbs, "README.md", "exec"), {})
    records = [json.loads(Path(run, "record.json").read_text()) for run in ("run", "run-in-python")]
    assert records[0]["best_val_accuracy"] == records[1]["best_val_accuracy"]


def test_the_two_make_targets_do_what_the_readme_says():
    targets = dict(re.findall(r"^(demo|test):.*\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets == {"demo": "$(BIN)/paretune demo", "test": "$(PYTEST)"}
    assert re.findall(r"^    make (\w+)", README, re.MULTILINE) == ["demo", "test"]


def cost_rows() -> list[tuple[str, ...]]:
    return re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \| ([\d.]+) \| (\d+) \|$", README, re.MULTILINE)


@pytest.mark.parametrize("row", third(cost_rows(), pytest.mark.slow), ids=lambda row: row[0])
def test_the_table_of_costs_is_what_cost_computes(row):
    name, trained, gmacs, tokens = row
    recipe = pt.recipe(name)
    cost = pt.cost(weightless("vit_base_patch16_224", recipe.adapters, recipe.reducer, classes=10))
    printed = (f"{cost.trained_without_head:,}", f"{cost.macs / 1e9:.2f}", str(cost.tokens[-1][1]))
    assert printed == (trained, gmacs, tokens)


def test_the_table_of_costs_has_every_recipe_but_the_linear_one():
    assert {row[0] for row in cost_rows()} == set(pt.recipes()) - {"linear"}


def test_the_walk_throughs_for_contributors_work():
    adapter, branch, reducer = blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "python")
    names: dict = {}
    exec(compile(adapter + branch + reducer, "CONTRIBUTING.md", "exec"), names)

    model = pt.adapt("paretune_tiny", adapters=[names["ChannelScale"]()], classes=3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("gamma"):
                p.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, 32, 32)
    assert (model.eval()(images) - pt.merge(model)(images)).abs().max() < 1e-5

    plain = model(images)
    model.branches.append(names["Echo"](96))
    assert torch.equal(model(images), plain)
    with torch.no_grad():
        model.branches[0].share.fill_(0.5)
    assert (model(images) - plain).abs().max() > 1e-2

    model.reducer = names["KeepLongest"]()
    assert model.run(images).tokens.patches == 32
