"""The papers' ablations: rows as published, counted by paretune, trained on what the user names, compared by order."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import paretune as pt
from paretune.catalogue import Schedule
from paretune.cli.main import app
from paretune.ledger.entries import ledger_entries
from paretune.ledger.results import Ledger
from paretune.papers.ablation import ablation
from paretune.papers.variants import PAPERS, order, variants


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 6)):
        for label in range(2):
            (root / split / "ab"[label]).mkdir(parents=True)
            for i in range(count):
                picture = noise.integers(0, 80, (32, 32, 3)) + 150 * label
                Image.fromarray(picture.astype(np.uint8)).save(root / split / "ab"[label] / f"{i}.png")
    return root


def test_pairs_in_the_papers_order_are_counted_and_those_clear_of_the_noise():
    published = [90.0, 91.0, 92.0]
    agree = order(published, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert (agree.agree, agree.against, agree.clear_agree, agree.clear_against) == (3, 0, 3, 0)
    against = order(published, [[0.5, 0.6], [0.3, 0.4], [0.1, 0.2]])
    assert (against.agree, against.against, against.clear_against) == (0, 3, 3)
    noisy = order(published[:2], [[0.1, 0.5], [0.6, 0.2]])
    assert (noisy.agree, noisy.clear_agree, noisy.clear_against) == (1, 0, 0)
    assert order([90.0, 90.0], [[0.1], [0.2]]).agree == order([90.0, 91.0], [[0.2], [0.2]]).agree == 0
    assert "3 of 3 pairs" in str(agree)
    with pytest.raises(pt.UsageError, match="different numbers of seeds"):
        order(published, [[0.1], [0.2, 0.3], [0.4]])


@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_fits_the_papers_backbone_and_the_embedded_one(paper):
    rows = variants(paper)
    assert len({row.name for row in rows}) == len(rows)
    assert {row.table.removeprefix(f"{paper}-") for row in rows} == set(PAPERS[paper])
    for row in rows:
        pt.adapt("paretune_tiny", row.methods.adapters, row.methods.reducer, 2)


@pytest.mark.slow
def test_the_parameters_of_the_widths_are_those_of_the_sheet():
    rows = variants("sparse-tuning", ["x"])
    found = ablation(rows, "vit_base_patch16_224", None, [0], Schedule(), "unused")
    counted = [row["trained"] for row in found["tables"]["sparse-tuning-X"]["rows"]]
    assert counted == [279_808, 550_400, 1_091_584, 2_173_952, 4_338_688]
    assert found["tables"]["sparse-tuning-X"]["rows"][0]["printed"]["parameters"] == "0.29"
    assert found["tables"]["sparse-tuning-X"]["order"] is None


@pytest.mark.slow
def test_rows_are_trained_once_and_put_in_order(folder, tmp_path):
    rows = variants("sparse-tuning", ["VIII", "VII"])
    lines: list[str] = []
    quick = Schedule(1, 8, 3e-3, warmup_epochs=0)
    found = ablation(rows, "paretune_tiny", folder, [0, 1], quick, tmp_path, "cpu", lines.append)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert len(lines) == len(ledger.rows()) == 5 * 2  # "merge" of one table is "inner" of the other
    assert {(row.suite, row.protocol["name"]) for row in ledger.rows()} == {("ablation", "ablation, lr 0.003")}
    entries = {entry.recipe: entry for entry in ledger_entries(ledger.path)}
    for name, table in found["tables"].items():
        for row in table["rows"]:
            assert row["accuracy"] == np.mean(row["accuracies"])
            if entry := entries.get(next(one.name for one in rows if (one.table, one.row) == (name, row["row"]))):
                assert list(entry.scores[folder.name].values()) == row["accuracies"]
                assert (entry.trained, entry.macs) == (row["trained"], row["macs"])
        ours = [row["accuracies"] for row in table["rows"]]
        assert table["order"]["text"] == str(order([row["paper_accuracy"] for row in table["rows"]], ours))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")}
    assert ablation(rows, "paretune_tiny", folder, [0, 1], quick, tmp_path, "cpu") == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")} == before
    other = replace(quick, lr=1e-3)  # is another question, not the same one answered before
    assert ablation(rows[:1], "paretune_tiny", folder, [0], other, tmp_path, "cpu")["schedule"]["lr"] == 1e-3
    assert len(ledger.rows()) == 5 * 2 + 1
    with pytest.raises(pt.UsageError, match=r"some trainings failed: .*holds another trial.*batch_size"):
        ablation(rows[:1], "paretune_tiny", folder, [0], replace(quick, batch_size=4), tmp_path, "cpu")


def test_the_command_prints_tables_json_and_one_sentence_for_wrong_use(tmp_path):
    def run(*words):
        return CliRunner().invoke(app, ["ablate", *words])

    shown = run("sparse-tuning", "VIII", "--model", "paretune_tiny")
    assert shown.exit_code == 0
    assert "(a) Drop" in shown.output
    assert "accuracy" not in shown.output
    described = json.loads(run("fpet", "3", "--model", "paretune_tiny", "--json").output)
    assert described["data"] is None
    assert len(described["tables"]["fpet-3"]["rows"]) == 6
    for words, sentence in (
        (("sparse-tuned",), "did you mean sparse-tuning"),
        (("fpet", "V"), "unknown ablation of fpet 'V'"),
        (("fpet", "--data", str(tmp_path / "none"), "--model", "paretune_tiny"), "does not exist"),
    ):
        refused = run(*words)
        assert refused.exit_code == 2, refused.output
        assert sentence in refused.output
