"""Comparing results: numbers by hand and by scipy, every refusal, every trap, and the command."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from ledgers import TASKS, row, rows, write
from scipy import stats
from typer.testing import CliRunner

from paretune.cli.main import app
from paretune.errors import UsageError
from paretune.ledger.averages import difference, estimate, means, t_quantile
from paretune.ledger.compare import compare
from paretune.ledger.entries import read_entries
from paretune.ledger.results import key
from paretune.ledger.text import markdown, overview, protocol_in_words
from paretune.papers.tables import tables
from paretune.papers.vtab_rows import ROWS, protocol_of, published_entries
from paretune.show.labels import placed

OFFLINE = str(Path(__file__).parents[1] / "bench" / "results" / "offline.jsonl")
LORA = {"digits": [0.80, 0.82, 0.84], "shapes": [0.60, 0.64, 0.62], "tissue": [0.90, 0.91, 0.95]}
FULL = {"digits": [0.81, 0.84, 0.84], "shapes": [0.59, 0.66, 0.65], "tissue": [0.90, 0.90, 0.97]}


@pytest.fixture
def ledger(tmp_path):
    """A function that writes lines to a ledger and gives its path as text."""

    def make(*lines, name="ledger.jsonl"):
        return str(write(tmp_path / name, *lines))

    return make


@pytest.fixture
def both(ledger):
    return ledger(*rows("lora", LORA), *rows("full", FULL))


def compared(*arguments, **options):
    return compare(read_entries(arguments, published_entries), **options)


def scores(table):
    return {task: dict(enumerate(values)) for task, values in table.items()}


# -------------------------------------------------------------------------------------------------------- averages


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 100])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.9995])
def test_the_quantile_of_student_is_scipys(degrees, p):
    assert t_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-9)


def test_an_interval_is_students_over_the_seeds_and_one_seed_has_none():
    values = [0.7, 0.72, 0.75, 0.71]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert estimate([0.5]).half is None


def test_flat_and_group_mean_are_two_numbers_each_with_its_own_interval():
    found = means(scores(LORA), TASKS)
    by_seed = np.array([LORA[task] for task in TASKS]).T  # (seeds, tasks)
    group = (by_seed[:, :2].mean(1) + by_seed[:, 2]) / 2
    for ours, values in ((found.flat, by_seed.mean(1)), (found.group, group), (found.tasks["shapes"], by_seed[:, 1])):
        assert ours.mean == pytest.approx(values.mean())
        assert ours.half == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(values))
    assert found.flat.mean == pytest.approx((0.82 + 0.62 + 0.92) / 3)
    assert found.group.mean == pytest.approx((0.72 + 0.92) / 2)
    assert found.groups["natural"].mean == pytest.approx(0.72)


def test_a_paired_difference_is_that_of_a_paired_t_test():
    found = difference(scores(FULL), scores(LORA), TASKS)
    one, other = (np.array(list(table.values())).mean(0) for table in (FULL, LORA))
    low, high = stats.ttest_rel(one, other).confidence_interval()
    assert (found.flat.mean - found.flat.half, found.flat.mean + found.flat.half) == pytest.approx((low, high))
    alone = math.hypot(estimate(one).half, estimate(other).half)
    assert found.flat.half < alone / 2, "seeds move both alike, which pairing takes out"
    assert found.record == (3, 0, 0)


def test_a_tie_is_neither_better_nor_worse():
    one, other = {"a": {0: 0.1 + 0.2}, "b": {0: 0.5}}, {"a": {0: 0.3}, "b": {0: 0.6}}
    assert difference(one, other, {"a": "x", "b": "x"}).record == (0, 1, 1)


def test_only_seeds_that_both_have_are_paired_and_without_any_the_means_are_subtracted():
    one, other = {"a": {0: 0.9, 1: 0.8, 2: 0.1}}, {"a": {1: 0.7, 0: 0.7, 3: 0.2}}
    found = difference(one, other, {"a": "x"})
    assert (found.paired, found.flat.n, found.flat.mean) == (True, 2, pytest.approx(0.15))
    found = difference(one, {"a": {None: 0.5}}, {"a": "x"})
    assert (found.paired, found.flat.half, found.flat.mean) == (False, None, pytest.approx(0.1))


# --------------------------------------------------------------------------------------------------- what is compared


def test_a_ledger_gives_all_of_its_recipes_and_a_recipe_can_be_asked_for(both):
    assert [entry.name for entry in read_entries([both], published_entries)] == ["lora", "full"]
    (full,) = read_entries([f"{both}:full"], published_entries)
    assert (full.name, full.trained, full.macs, full.tokens) == ("full", 36864, 98_700_000, 65)
    assert full.scores == scores(FULL)


def test_recipes_of_one_name_are_told_apart_by_their_files(ledger):
    a, b = (ledger(*rows("lora", LORA), name=name) for name in ("a", "b"))
    assert [entry.name for entry in read_entries([a, b], published_entries)] == [f"lora ({a})", f"lora ({b})"]
    with pytest.raises(UsageError, match=r"lora of .*a is given twice"):
        read_entries([a, f"{a}:lora"], published_entries)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("nowhere.jsonl", "there is no ledger 'nowhere.jsonl'"),
        ("LEDGER:lroa", "unknown recipe of .*: did you mean lora"),
        ("published:fpet-2:FPETLoRA", "did you mean fpet-2:FPET-LoRA"),
        ("published:LoRA", "use published:fpet-2:LoRA or published:sparse-tuning-II:LoRA"),
        ("published:Bi-LoRA", "cannot be compared: dSpr-Loc of this row is lost"),
    ],
)
def test_what_is_not_there_is_refused(both, argument, sentence):
    with pytest.raises(UsageError, match=sentence):
        read_entries([argument.replace("LEDGER", both)], published_entries)


def test_an_empty_ledger_is_refused(ledger):
    with pytest.raises(UsageError, match="has no results"):
        read_entries([ledger()], published_entries)


def test_two_settings_under_one_recipe_name_are_refused_by_what_differs(ledger):
    path = ledger(row(), row(settings__adapters=[{"method": "LoRA", "rank": 4}], test=0.5))
    with pytest.raises(UsageError, match=r"lines 1 and 2 .*lora on digits with seed 0, .*settings.adapters.0.rank:"):
        read_entries([path], published_entries)


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"suite": "mine"}, 'suite is "offline" in lora, "mine" in full'),
        ({"metric": "r2"}, 'metric of all tasks is "accuracy" in lora, "r2" in full'),
        ({"backbone__fingerprint": "f2"}, 'backbone.fingerprint is "f1" in lora, "f2" in full'),
        ({"backbone__options": {"img_size": 64}}, "lora does not state backbone.options.img_size"),
        ({"protocol__epoch": "last"}, 'protocol.epoch is "best on val200" in lora, "last" in full'),
        ({"protocol__test_used": "to choose the epoch"}, 'protocol.test_used is "once" in lora, "to choose'),
        ({"protocol__selection": "none"}, 'protocol.selection is "val200" in lora, "none" in full'),
        ({"protocol__grid": {"lr": [0.1]}}, 'protocol.grid is {"lr": [0.001, 0.003]} in lora, {"lr": [0.1]} in full'),
        ({"protocol__schedule__epochs": 20}, "protocol.schedule.epochs is 10 in lora, 20 in full"),
        ({"protocol__preprocessing__mean": [0, 0, 0]}, "protocol.preprocessing.mean is [0.5, 0.5, 0.5] in lora"),
        ({"protocol__preprocessing__input_size": [3, 64, 64]}, "protocol.preprocessing.input_size is [3, 32, 32]"),
        ({"data__train": "another long hash"}, "data.train of all tasks differs between lora and full"),
        ({"data__lossy": "lossy"}, 'data.lossy of all tasks is "lossless" in lora, "lossy" in full'),
    ],
)
def test_every_difference_of_protocol_is_refused_by_name_and_forced_only_loudly(ledger, change, sentence):
    path = ledger(*rows("lora", LORA), *rows("full", FULL, **change))
    with pytest.raises(UsageError) as refused:
        compared(path)
    assert sentence in str(refused.value)
    forced = compared(path, force=True)
    assert any(sentence in one for one in forced.differences)
    assert [found.unlike for found in forced.rows] == [False, True]
    assert overview(forced)[1][1][0] == "full !"


def test_all_differences_are_named_at_once_with_the_files_they_are_in(ledger):
    a = ledger(*rows("lora", LORA), name="a")
    b = ledger(*rows("full", FULL, protocol__epoch="last", suite="mine", data__test="a hash that is long"), name="b")
    with pytest.raises(UsageError) as refused:
        compared(a, b)
    for sentence in (f'"best on val200" in {a} lora, "last" in {b} full', "suite is", "data.test of all tasks differs"):
        assert sentence in str(refused.value)


def test_a_recipe_whose_own_rows_differ_is_refused_too(ledger):
    path = ledger(row(), row(task="shapes", protocol__epoch="last"))
    with pytest.raises(UsageError, match=r'protocol.epoch is "best on val200" in lora, "last" in lora'):
        compared(path)


def test_data_are_held_against_each_other_task_by_task(ledger):
    path = ledger(*rows("lora", LORA), row("full"), row("full", "shapes", data__val="quite another hash"))
    with pytest.raises(UsageError, match=r"data.val of shapes differs between lora and full"):
        compared(path)


@pytest.mark.parametrize(
    "change",
    [
        {"settings__adapters": []}, {"settings__schedule": {"lr": 1.0}}, {"chosen": {"lr": 1.0}},
        {"date": "2027-01-01"}, {"environment": {"name": "CPU Y", "device": "cpu"}}, {"cost__macs": 1},
        {"seconds": 1.0}, {"candidates": []},
    ],
)  # fmt: skip
def test_methods_and_what_tuning_chose_for_them_may_differ(ledger, change):
    assert compared(ledger(*rows("lora", LORA), *rows("full", FULL, **change))).differences == ()


def test_a_protocol_may_fix_a_grid_for_each_recipe_as_long_as_all_rows_have_the_same(ledger):
    grid = {"lora": {"lr": [0.01]}, "full": {"lr": [0.001]}}
    same = ledger(*rows("lora", LORA, protocol__grid=grid), *rows("full", FULL, protocol__grid=grid))
    assert compared(same).differences == ()
    own = ledger(*rows("lora", LORA, protocol__grid=grid["lora"]), *rows("full", FULL, protocol__grid=grid["full"]))
    with pytest.raises(UsageError, match=r"protocol.grid is"):
        compared(own)


def test_an_unknown_baseline_and_a_lack_of_common_tasks_or_seeds_are_refused(both, ledger):
    with pytest.raises(UsageError, match="unknown baseline 'lroa': did you mean lora"):
        compared(both, baseline="lroa")
    with pytest.raises(UsageError, match="no task has results of all recipes: lora: digits; full: shapes"):
        compared(ledger(row(), row("full", "shapes")))
    with pytest.raises(UsageError, match=r"no seed with all tasks \(digits: 0; shapes: 1\)"):
        compared(ledger(row(), row(task="shapes", seed=1)))


# ---------------------------------------------------------------------------------------------------- what is told


def told(notes, part):
    return [note for note in notes if part in note]


def test_equal_terms_need_no_words(both):
    found = compared(both)
    assert (found.differences, found.traps, found.notes) == ((), (), ())
    assert [one.difference is None for one in found.rows] == [True, False]
    assert found.rows[1].difference.record == (3, 0, 0)


def test_missing_tasks_and_seeds_are_left_out_of_all_means_and_told(ledger):
    gaps = {"digits": [0.81, 0.84, 0.84], "shapes": [0.59, None, 0.65]}
    found = compared(ledger(*rows("lora", LORA), *rows("full", gaps)))
    assert list(found.groups) == ["digits", "shapes"]
    assert "tissue is left out of all means, because full has no result for it" in found.notes
    assert "seed 1 of full is left out, because it has no result for shapes" in found.notes
    assert "seeds differ: lora 0 1 2; full 0 2" in found.notes
    assert "full minus lora uses the seeds that both have: 0 2" in found.notes
    apart = [(0.81 - 0.80 + 0.59 - 0.60) / 2, (0.84 - 0.84 + 0.65 - 0.62) / 2]
    assert found.rows[1].difference.flat.mean == pytest.approx(np.mean(apart))
    assert found.rows[0].means.flat.mean == pytest.approx(0.72)
    assert found.rows[0].means.flat.n == 3


def test_one_seed_has_no_interval_and_that_is_told(ledger):
    found = compared(ledger(row(), row(seed=1), row("full", test=0.8)))
    assert told(found.notes, "no interval for full")
    assert overview(found)[1][1][4:] == ("80.00", "80.00", "-10.00", "-10.00", "0/0/1", "1 x 1")


def test_other_machines_versions_and_numbers_of_candidates_are_told(ledger):
    gpu = {"name": "GPU Z", "device": "cuda", "torch": "2.10", "python": "3.12"}
    found = compared(ledger(*rows("lora", LORA), *rows("full", FULL, environment=gpu, candidates=[])))
    assert "measured on several machines: CPU X (cpu); GPU Z (cuda)" in found.notes
    assert "several versions of torch: 2.10, 2.9" in found.notes
    assert "different numbers of trainings to choose from, per task: lora 2; full 0" in found.notes
    assert not told(found.notes, "python")


def trap(found, name):
    (sentence,) = [one for one in found.traps if one.startswith(f"{name}: ")] or [""]
    return sentence


@pytest.mark.parametrize(
    ("lossy", "sentence"),
    [("lossy", "lossy pictures for lora and full"), ("mixed", "partly lossy"), ("unknown", "unknown storage for lora")],
)
def test_lossy_data_are_a_trap_even_where_all_share_them(ledger, lossy, sentence):
    path = ledger(*rows("lora", LORA, data__lossy=lossy), *rows("full", FULL, data__lossy=lossy))
    found = compared(path)
    assert found.differences == ()
    assert sentence in trap(found, "lossy data")


def test_foreign_normalisation_is_a_trap_even_where_all_share_it(ledger):
    path = ledger(*rows("lora", LORA, protocol__preprocessing={"mean": [0, 0, 0], "std": [1, 1, 1]}))
    assert trap(compared(path), "normalisation") == (
        "normalisation: mean 0 0 0, std 1 1 1 for lora, but the backbone was pretrained with mean 0.5 0.5 0.5, "
        "std 0.5 0.5 0.5"
    )


def test_normalisation_that_nobody_can_judge_is_told_and_so_is_one_that_differs(ledger):
    silent = {"name": "tiny", "source": "pretrained", "fingerprint": "f1"}
    assert "is not stated" in trap(compared(ledger(*rows("lora", LORA, backbone=silent))), "normalisation")
    zero = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    other = rows("full", FULL, protocol__preprocessing=zero, backbone__normalisation=zero)
    found = compared(ledger(*rows("lora", LORA), *other), force=True)
    assert trap(found, "normalisation") == (
        "normalisation: mean 0.5 0.5 0.5, std 0.5 0.5 0.5 for lora; mean 0 0 0, std 1 1 1 for full"
    )


def test_a_test_that_chose_is_a_trap(ledger):
    path = ledger(*rows("lora", LORA, protocol__test_used="to choose the epoch"))
    assert "the test images were used to choose for lora" in trap(compared(path), "selection")


# ------------------------------------------------------------------------------------------------ published tables


def test_rows_of_one_protocol_of_one_paper_compare_without_force():
    found = compared("published:fpet-2:LoRA", "published:fpet-lora")
    assert [one.entry.name for one in found.rows] == ["LoRA", "FPET-LoRA"]
    assert found.rows[1].means.flat.mean == pytest.approx(0.7336, abs=5e-5)
    assert found.rows[1].means.group.mean == pytest.approx(0.7553, abs=5e-5)
    assert found.rows[1].entry.trained == 300_000
    assert "the test images were used to choose for LoRA and FPET-LoRA" in trap(found, "selection")
    assert "mean 0 0 0, std 1 1 1 for LoRA and FPET-LoRA" in trap(found, "normalisation")
    assert "lossy pictures for LoRA and FPET-LoRA" in trap(found, "lossy data")
    assert trap(found, "average") == ""


def test_a_table_that_mixes_two_means_is_a_trap_and_both_are_computed_anew():
    found = compared("published:sparse-tuning-II", force=True)
    assert "the group mean is printed for Full fine-tuning (68.96) and Linear (57.64)" in trap(found, "average")
    assert "the flat mean is printed for Adapter (71.44)" in trap(found, "average")
    full = found.rows[0]
    assert (full.means.flat.mean, full.means.group.mean) == pytest.approx((0.6557, 0.6897), abs=5e-5)
    assert {one.entry.name for one in found.rows if not one.unlike} == {"Full fine-tuning", "Linear", "BitFit", "VPT"}


def test_rows_of_different_protocols_are_refused_without_force():
    with pytest.raises(UsageError, match=r"preprocessing.mean is .*\[0.0, 0.0, 0.0\] in FPET-LoRA"):
        compared("published:fpet-2:NOAH", "published:fpet-2:FPET-LoRA")


def test_every_published_row_has_one_protocol():
    for name in ROWS:
        assert all(protocol_of(name, mean.row) for mean in tables()[name].means)


def test_own_results_stand_beside_published_ones_by_force_only(ledger):
    entries = read_entries(["published:sparse-tuning-II:LoRA"], published_entries)
    own = [
        row("mine", seed=seed, test=0.7, task="digits") | {"task": task, "group": group, "suite": "vtab1k"}
        for task, group in entries[0].groups.items()
        for seed in (0, 1)
    ]
    path = ledger(*own)
    with pytest.raises(UsageError, match=r"published:sparse-tuning-II LoRA does not state .*backbone.fingerprint"):
        compared("published:sparse-tuning-II:LoRA", path)
    found = compared("published:sparse-tuning-II:LoRA", path, force=True)
    assert found.rows[1].difference.flat.mean == pytest.approx(0.7 - 0.7225, abs=5e-5)
    assert told(found.notes, "mine minus LoRA is a difference of means")
    assert "the flat mean is printed for LoRA (72.25)" in trap(found, "average")


# ------------------------------------------------------------------------------------------------------ the command


def cli(*args):
    return CliRunner().invoke(app, ["compare", *map(str, args)])


def test_the_table_names_both_means_and_the_differences_in_points(both):
    text = cli(both, "--tasks").stdout
    assert "accuracy in %, differences in points; ± 95% interval over seeds" in text
    header = next(line for line in text.splitlines() if "flat mean" in line)
    assert all(name in header for name in ("MMACs", "flat mean ± CI", "group mean ± CI", "flat minus lora", "natural"))
    lora = means(scores(LORA), TASKS)
    apart = difference(scores(FULL), scores(LORA), TASKS)
    for share in (lora.flat, lora.group):
        assert f"{100 * share.mean:.2f} ± {100 * share.half:.2f}" in text
    assert f"{100 * apart.flat.mean:+.2f} ± {100 * apart.flat.half:.2f}" in text
    assert any(line.split()[:2] == ["tissue", "specialised"] for line in text.splitlines())


def test_json_holds_the_numbers_and_the_sentences(both):
    found = json.loads(cli(both, "--baseline", "full", "--json").stdout)
    assert found["baseline"] == "full"
    first, second = found["rows"]
    assert second["to_baseline"] is None
    assert first["to_baseline"]["flat"]["mean"] == pytest.approx(
        -difference(scores(FULL), scores(LORA), TASKS).flat.mean
    )
    assert first["to_baseline"]["record"] == [0, 0, 3]
    assert (first["seeds"], first["means"]["flat"]["n"]) == ([0, 1, 2], 3)
    assert found["differences"] == []


def test_a_refusal_is_one_sentence_and_exit_code_2_and_force_is_loud(ledger):
    path = ledger(*rows("lora", LORA), *rows("full", FULL, protocol__epoch="last"))
    refused = cli(path)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert 'protocol.epoch is "best on val200" in lora, "last" in full' in refused.stderr
    forced = cli(path, "--force")
    assert forced.exit_code == 0
    assert "PROTOCOLS DIFFER: protocol.epoch is" in forced.stdout
    assert "full !" in forced.stdout
    assert cli(path, "--force", "--json", "--markdown").exit_code == 2


def test_the_same_weights_fetched_and_from_a_file_are_one_backbone(ledger):
    path = ledger(*rows("lora", LORA), *rows("full", FULL, backbone__source="file"))
    assert compared(path).differences == ()
    assert key(row(backbone__source="file")) == key(row())


def test_the_page_says_how_the_numbers_came_about(ledger):
    path = ledger(*rows("lora", LORA), *rows("full", FULL, date="2026-12-01", data__lossy="lossy"))
    page = markdown(compared(path, force=True), tasks=True, command="paretune compare so")
    assert "Written by `paretune compare so`." in page
    assert "| lora | 36,864 | 98.7 | 65 |" in page
    assert "| task | group | lora | full ! |" in page
    assert "- PROTOCOLS DIFFER: data.lossy of all tasks" in page
    assert "18 results in 0.2 h, their settings chosen among 12 candidates" in page
    assert "2026-11-21 to 2026-12-01" in page
    assert "CPU X (cpu)" in page
    assert "**seeds**: 0 1 2." in page
    assert page.count("**protocol**") == 1


def test_a_protocol_in_words_leaves_nothing_out():
    protocol = row()["protocol"] | {"augment": "none", "tuning_seeds": [0, 1]}
    assert protocol_in_words(protocol) == (
        "offline: trained on train800; chosen on val200 from lr 0.001 0.003; epoch: best on val200; test used once; "
        "augment none, tuning seeds 0 1; epochs 10, batch size 32; input size 3 32 32, mean 0.5 0.5 0.5, "
        "std 0.5 0.5 0.5"
    )
    assert "nothing is chosen" in protocol_in_words(protocol | {"selection": "none"})


# --------------------------------------------------------------------------------------------------------- the plot


def test_the_plot_is_complete_and_the_same_every_time(both, tmp_path):
    for name in ("one.svg", "two.svg", "three.png"):
        done = cli(both, "--plot", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert f"drawn: {tmp_path / name}" in done.stdout
    text = (tmp_path / "one.svg").read_text()
    assert (tmp_path / "two.svg").read_text() == text
    for word in ("lora", "full", "MMACs per image", "flat mean of 3 tasks", "95% intervals"):
        assert f">{word}" in text or word in text, word
    assert {path.name for path in tmp_path.iterdir()} == {"one.svg", "two.svg", "three.png", "ledger.jsonl"}


def test_a_plot_needs_a_suffix_and_counts(both, tmp_path):
    assert "name a file that ends in" in cli(both, "--plot", tmp_path / "plot.txt").stderr
    refused = cli("published:fpet-2:LoRA", "--plot", tmp_path / "plot.png")
    assert "none of these has a number of multiply-accumulates" in refused.stderr
    assert not (tmp_path / "plot.png").exists()


@pytest.mark.parametrize(("source", "count"), [("published:sparse-tuning-II", 18), (OFFLINE, 9)])
def test_no_label_covers_a_point_a_bar_or_another_label(tmp_path, monkeypatch, source, count):
    from matplotlib.transforms import Bbox

    from paretune.show import tradeoff

    seen = []
    monkeypatch.setattr(tradeoff, "save", lambda figure, path: seen.append(figure))
    tradeoff.draw(compared(source, force=True), tmp_path / "plot.png")
    (axes,) = seen[0].axes
    labels = [text for text in axes.texts if text.xycoords == "data" and text.get_text()]
    assert len(labels) == count
    boxes = [label.get_window_extent() for label in labels]
    covered = [(i, j) for i, one in enumerate(boxes) for j, other in enumerate(boxes) if i < j and one.overlaps(other)]
    assert covered == []
    points = axes.transData.transform([label.xy for label in labels])
    ends = [segment for bars in axes.containers for lines in bars.lines[2] for segment in lines.get_segments()]
    bars = [Bbox(axes.transData.transform(pair)).padded(1) for pair in ends]
    assert len(bars) == (0 if source.startswith("published") else count)
    assert not [1 for box in boxes for x, y in points if box.overlaps(Bbox.from_bounds(x - 5, y - 5, 10, 10))]
    assert not [1 for box in boxes for bar in bars if box.overlaps(bar)]
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_a_label_among_many_takes_free_room_and_is_led_to():
    crowd = [(50 + 3 * i, 50.0) for i in range(6)]
    found = placed(crowd, [(40, 10)] * 6, (0, 0, 200, 100), bars=[(60, 20, 62, 80)])
    boxes = [one.box for one in found]
    apart = [a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a in boxes for b in boxes if a != b]
    assert all(apart)
    assert all(box[2] <= 60 or box[0] >= 62 or box[3] <= 20 or box[1] >= 80 for box in boxes)
    assert any(one.led for one in found)
    assert not placed([(50, 50)], [(40, 10)], (0, 0, 200, 100))[0].led


# ------------------------------------------------------------------------------------------------------- the report


def test_a_report_has_a_row_per_recipe_with_both_means_and_how_they_came_about(both):
    from paretune.show.sources import read_source

    found = read_source(both)
    lora, full = found.rows
    expected = means(scores(LORA), TASKS)
    assert (lora.name, full.name) == ("lora", "full")
    assert lora.figures["accuracy"] == pytest.approx(expected.flat.mean)
    assert lora.figures["group_mean"] == pytest.approx(expected.group.mean)
    assert lora.figures["macs"] == 98_700_000
    assert lora.scored == "3 tasks of offline, flat mean"
    assert dict(found.facts)["seeds"] == "0 1 2"


def test_a_report_refuses_a_ledger_of_two_protocols(ledger):
    from paretune.show.sources import read_source

    with pytest.raises(UsageError, match=r"protocol.epoch is"):
        read_source(ledger(*rows("lora", LORA), *rows("full", FULL, protocol__epoch="last")))


def test_every_published_row_that_the_docs_name_is_there():
    docs = Path(__file__).parents[1] / "docs"
    named = re.findall(r"published:([\w.-]+:[\w.-]+)", (docs / "suite.md").read_text(encoding="utf-8"))
    assert named
    for name in named:
        assert published_entries(name)


def test_the_results_in_the_docs_are_those_of_the_ledger(monkeypatch):
    root = Path(__file__).parents[1]
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    (command,) = re.findall("Written by `paretune compare (.*)`", page)
    monkeypatch.chdir(root)
    assert cli(*shlex.split(command)).stdout == page, f"run: paretune compare {command} > docs/results.md"
