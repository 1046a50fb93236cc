"""The papers' tables against paretune: the verdicts, what they are made of, and the page in the docs."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from test_contract import third
from typer.testing import CliRunner

import paretune as pt
from paretune.adapters import ADAPTERS
from paretune.cli.main import app
from paretune.measure import fake_memory as shadow
from paretune.measure import memory
from paretune.measure.growth import weightless
from paretune.methods import absent
from paretune.papers.check import check, read_bench, tables
from paretune.papers.computed import MAC_READINGS, Workshop
from paretune.papers.means import Mean, means
from paretune.papers.tables import MEASURED, UNITS, Printed, PrintedMean, Setting, spread, table
from paretune.papers.tables import tables as published
from paretune.papers.text import computed, markdown, missing
from paretune.papers.verdict import CANNOT, DIFFERS, REPRODUCED, best, contradiction, judge
from paretune.reducers import REDUCERS

PAGE = Path(__file__).parents[1] / "docs" / "papers.md"
TINY = Setting("paretune_tiny", ({"kind": "LoRA", "rank": 4},), None)
TRAINED = 12 * 4 * 96 * 4  # of TINY
NUMBERS = [(key, number) for key, one in published().items() for number in one.numbers]


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def printed(value, setting=TINY, **about):
    about = {"row": "a row", "column": "a column", "quantity": "parameters", "unit": "M", **about}
    return Printed(value=value, setting=setting, **about)


def judged(number, bench=None, **heads):
    return judge(number, heads, bench, Workshop())


@pytest.fixture(scope="module")
def workshop():
    """One for the whole file, so that nothing is built twice."""
    return Workshop()


# ------------------------------------------------------------------------------------------------------------ rounding


@pytest.mark.parametrize(
    ("value", "shown", "fits"),
    [
        ("11.745", "11.74", True),  # a tie may have been rounded either way
        ("11.745", "11.75", True),
        ("11.7451", "11.74", False),
        ("11.7449", "11.75", False),
        ("4.795", "4.80", True),
        ("4.7949", "4.80", False),
        ("0", "0", True),
        ("0.2", "0", False),  # none is none
        ("-0.04", "+0.0", True),
        ("0.06", "-0.0", False),
    ],
)
def test_a_value_is_reproduced_if_it_rounds_to_the_printed_digits(value, shown, fits):
    assert best(shown, [("plain", Fraction(value))])[2] is fits


def test_the_first_reading_that_fits_is_named_and_else_the_nearest():
    readings = [("far", Fraction(9)), ("near", Fraction("1.4")), ("fits", Fraction("1.04")), ("too", Fraction(1))]
    assert best("1.0", readings) == ("fits", Fraction("1.04"), True)
    assert best("1.0", readings[:2]) == ("near", Fraction("1.4"), False)


def test_digits_end_where_they_are_printed():
    assert [float(edge) for edge in spread("85.80")] == [85.795, 85.805]
    assert [float(edge) for edge in spread("85.8")] == [85.75, 85.85]
    assert [float(edge) for edge in spread("-24.4")] == [-24.45, -24.35]


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_counts_are_compared_in_the_unit_of_the_table():
    assert TRAINED == 18432
    right = judged(printed("0.018"))
    assert (right.verdict, right.how, right.ours, right.difference) == (REPRODUCED, "without the head", "0.0184 M", "")
    wrong = judged(printed("0.020"))
    assert (wrong.verdict, wrong.difference) == (DIFFERS, "-0.0016")


def test_a_head_that_the_table_names_is_a_reading_and_so_is_a_mean_head():
    assert judged(printed("0.0194"), **{"ten classes": (10,)}).how == "with ten classes"  # 18,432 + 97 * 10
    assert judged(printed("0.0204"), **{"two heads": (10, 30)}).how == "with two heads"


def test_macs_are_read_with_and_without_layernorm_and_with_folded_leaves(workshop):
    plain, folded, normed = (workshop.macs(TINY, MAC_READINGS[i]) for i in (0, 2, 1))
    assert plain - folded == 12 * 65 * TRAINED / 12
    assert normed - plain == 5 * 25 * 65 * 96
    both = folded + normed - plain
    for value, how in ((plain, "plain"), (folded, "leaves folded"), (both, "leaves folded, LayerNorm x5")):
        number = printed(f"{value / 1e9:.6f}", quantity="MACs", unit="G")
        assert judge(number, {}, None, workshop).how == how


def test_a_change_of_macs_is_read_from_whole_counts_and_from_rounded_ones(workshop):
    half, all_of_it = (Setting("paretune_tiny", (), reducer) for reducer in ({"kind": "FPET", "block": 6}, None))
    ratio = Fraction(workshop.macs(half, MAC_READINGS[0]), workshop.macs(all_of_it, MAC_READINGS[0]))
    whole = printed("0.10", all_of_it, quantity="MACs", unit="G", row="whole")
    for change, how in ((f"{float(100 * ratio - 100):.3f}", "plain"), ("-30.0", "plain, from rounded counts")):
        found = judge(printed(None, half, quantity="MACs", unit="G", against=whole, change=change), {}, None, workshop)
        assert (found.verdict, found.how, found.to) == (REPRODUCED, how, "whole")  # 0.07 of 0.10 in the second


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (Setting("paretune_tiny", ({"kind": "Telepathy", "width": 3},), None), "paretune has no Telepathy."),
        (Setting("paretune_tiny", (), {"kind": "Oblivion"}), "paretune has no Oblivion."),
        (Setting("paretune_tiny", ({"kind": "LoRA", "ranc": 3},), None), "unknown setting of LoRA 'ranc'"),
        (Setting("paretune_tiny", (), {"kind": "EViT", "keep": 7}), "EViT keep=7"),
        (Setting("vit_telepathic", (), None), "unknown model 'vit_telepathic'"),
    ],
)
@pytest.mark.parametrize("quantity", ["parameters", "training memory"])
def test_what_paretune_does_not_have_is_said_and_nothing_breaks(setting, says, quantity):
    whole = printed("2.0", quantity=quantity, unit="GB")
    found = judged(printed("1.0", setting, quantity=quantity, unit="M", against=whole))
    assert found.verdict == CANNOT
    assert says in found.why
    assert found.printed == "1.0 M"


def test_a_row_without_a_setting_says_why():
    found = judged(printed("7.1", None, reason="measured on the moon", note="Twice.", unit="G", quantity="MACs"))
    assert (found.verdict, found.why) == (CANNOT, "measured on the moon. Twice.")


def test_memory_is_compared_as_a_ratio_of_two_rows(workshop):
    full = Setting("paretune_tiny", ({"kind": "Full"},), None)
    ours = workshop.saved_bytes(TINY, 64) / workshop.saved_bytes(full, 64)
    whole = printed("10.0", full, quantity="training memory", unit="GB", row="Full")
    near, far = (
        judge(printed(f"{10 * ours * x:.3f}", quantity="training memory", unit="GB", against=whole), {}, None, workshop)
        for x in (1.04, 1.3)
    )
    assert (near.verdict, near.how) == (REPRODUCED, "saved for the backward, batch 64")
    assert far.verdict == DIFFERS
    assert (far.ours, far.to) == (f"{ours:.3f} x", "Full")
    alone = judge(whole, {}, None, workshop)
    assert (alone.verdict, alone.printed) == (CANNOT, "10.0 GB")
    assert "only ratios" in alone.why


def test_a_printed_difference_is_a_ratio_through_its_base(workshop):
    whole = printed("0", quantity="training memory", unit="GB", base="8.0")
    number = printed("-0.2", quantity="training memory", unit="GB", base="8.0", against=whole)
    assert judge(number, {}, None, workshop).printed == "0.97 x"  # 7.8 of 8.0


def test_a_change_that_contradicts_its_own_numbers_is_told():
    whole = printed("1.13", quantity="inference time", unit="ms")
    number = printed("0.94", quantity="inference time", unit="ms", against=whole, change="-20.7")
    assert contradiction(number) == "-20.7 % is printed, but 0.94 is -16.8 % of 1.13."
    assert contradiction(printed("0.94", quantity="inference time", unit="ms", against=whole, change="-16.4")) == ""


# --------------------------------------------------------------------------------------------------------------- bench


def row(settings, batch, forward, step=None, peak=None):
    timed = {"forward": {"median": forward}, "step": step and {"median": step}}
    memory = {"cuda_peak_forward": peak, "cuda_peak_step": peak}
    return {"recipe": "x", "batch": batch, "settings": settings, **timed, "memory": memory}


LORA4 = {"adapters": [{"kind": "LoRA", "rank": 4, "scale": 1.0}], "reducer": None}
FULLY = {"adapters": [{"kind": "Full"}], "reducer": None}
BENCH = {
    "kind": "bench",
    "model": "paretune_tiny",
    "machine": {"name": "an abacus"},
    "rows": [
        row(None, 8, 4.0),
        row(FULLY, 8, 7.0),
        row(LORA4, 8, 2.0),
        row(None, 64, 10.0, 30.0),
        row(LORA4, 64, 8.0, 12.0),
    ],
}
FULL = printed(
    "100", Setting("paretune_tiny", ({"kind": "Full"},), None), quantity="inference time", unit="ms", row="F"
)


def timing(value, quantity, batch=None):
    return printed(value, quantity=quantity, unit="s", batch=batch, against=FULL)


def test_a_bench_file_gives_the_ratios_of_times():
    found = judged(timing("81", "inference time"), BENCH)
    assert (found.verdict, found.ours) == (REPRODUCED, "0.800 x")  # 8 of 10 at the largest batch
    assert found.how == "measured on an abacus, batch 64"
    assert judged(timing("81", "inference time", batch=8), BENCH).ours == "0.500 x"
    assert judged(timing("81", "training time"), BENCH).ours == "0.400 x"
    assert judged(timing("81", "throughput"), BENCH).ours == "1.250 x"


def test_without_what_is_needed_in_the_bench_file_there_is_no_ratio():
    assert "pass --bench" in judged(timing("81", "inference time")).why
    for bench in ({**BENCH, "model": "vit_base_patch16_224"}, {**BENCH, "rows": BENCH["rows"][:1]}):
        assert "has no inference time of this row or of F" in judged(timing("81", "inference time"), bench).why
    assert "has no inference memory" in judged(timing("81", "inference memory"), BENCH).why
    on_gpu = {**BENCH, "rows": [row(None, 64, 1, peak=100), row(LORA4, 64, 1, peak=75)]}
    assert judged(timing("81", "inference memory"), on_gpu).ours == "0.750 x"


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "bench", "rows": []}', '{"kind": "demo", "rows": [{}]}'])
def test_a_file_that_is_no_bench_is_refused(text, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(pt.UsageError, match=r"bench\.json"):
        read_bench(path)
    done = cli("paper", "fpet-4", "--bench", path)
    assert done.exit_code == 2
    assert "bench.json" in done.stderr


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", third(pt.recipes(), pytest.mark.slow))
def test_shadows_keep_what_tensors_with_numbers_keep(name):
    recipe = pt.recipe(name)
    model = pt.adapt("paretune_tiny", recipe.adapters, recipe.reducer, 10)
    shape = weightless("paretune_tiny", recipe.adapters, recipe.reducer, 10)
    assert shadow.saved_bytes(shape, 2) == memory.saved_bytes(model, torch.zeros(2, 3, 32, 32))


# --------------------------------------------------------------------------------------------------------------- means


@pytest.mark.parametrize(
    ("key", "name", "group", "flat", "which"),
    [
        ("sparse-tuning-II", "Full fine-tuning", 68.97, 65.57, "group mean"),
        ("sparse-tuning-II", "Linear", 57.64, 52.94, "group mean"),
        ("sparse-tuning-II", "PYRA [50]", 74.70, 72.43, "flat mean"),
        ("sparse-tuning-II", "SSF [47]", 75.69, 73.10, "flat mean"),
        ("sparse-tuning-II", "DyT [33], r = 0.7", 77.58, 75.33, "flat mean"),
        ("sparse-tuning-II", "Sparse-Tuning, keep 0.7", 77.89, 75.64, "flat mean"),
        ("fpet-2", "Full", 68.97, 65.57, "group mean"),
        ("fpet-2", "FPET-LoRA", 75.53, 73.36, "group mean"),
        ("fpet-2", "FPET-AdaptFormer", 76.21, 73.94, "group mean"),
        ("fpet-2", "Bi-AdaptFormer [16]", 76.98, 74.73, "group mean"),
        ("fpet-2", "FPET-Bi-AdaptFormer", 76.95, 74.72, "group mean"),
    ],
)
def test_both_means_of_the_19_tasks_and_which_one_is_printed(key, name, group, flat, which):
    (found,) = [means(mean) for mean in table(key).means if mean.row == name]
    assert (round(found.group, 2), round(found.flat, 2), found.which) == (group, flat, which)


def test_every_mean_of_fpet_is_the_group_mean_and_only_two_of_sparse_tuning_are():
    assert {means(m).which for m in table("fpet-2").means if m.of} == {"group mean"}
    grouped = [m.row for m in table("sparse-tuning-II").means if means(m).which == "group mean"]
    assert grouped == ["Full fine-tuning", "Linear"]


def test_a_mean_that_is_none_of_both_or_cannot_be_computed_is_told():
    assert means(PrintedMean("r", "sets", "60.35", (75.48, 75.22))).which == "neither"
    assert means(PrintedMean("r", "sets", "75.35", (75.48, 75.22))).which == "flat mean"
    assert means(PrintedMean("r", "tasks", "1.0", None, "lost")) == Mean("r", "tasks", "1.0", None, None, "lost")


# ---------------------------------------------------------------------------------------------------------------- data


def test_every_entry_names_what_it_is():
    assert len(NUMBERS) > 300
    for key, number in NUMBERS:
        assert number.row, key
        assert number.quantity in ("parameters", "MACs", *MEASURED), (key, number)
        assert number.unit in UNITS or number.quantity in MEASURED, (key, number)
        assert number.value is not None or number.change is not None, (key, number)
        assert (number.setting is None) == bool(number.reason), (key, number)
        assert number.change is None or number.against is not None, (key, number)


@pytest.mark.slow
def test_every_setting_is_one_that_paretune_reads(workshop):
    settings = {number.setting.key(): number.setting for _, number in NUMBERS if number.setting is not None}
    assert len(settings) > 40
    for setting in settings.values():
        if not absent(setting.adapters, setting.reducer):
            workshop.model(setting)  # raises UsageError for a setting that no longer exists


def test_the_tables_of_both_papers_are_there():
    roman = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII")
    assert tables() == [f"fpet-{n}" for n in (1, 2, 3, 4, 5, "figure-3")] + [f"sparse-tuning-{n}" for n in roman]
    assert table("SPARSE-tuning-iii").key == "sparse-tuning-III"


def test_every_accuracy_that_is_printed_for_vtab_has_its_19_numbers_or_a_reason():
    for mean in (*table("fpet-2").means, *table("sparse-tuning-II").means):
        assert mean.reason if mean.of is None else len(mean.of) == 19


# ------------------------------------------------------------------------------------------- what is known to come out


def found(key, name, quantity, workshop, to=""):
    (one,) = [f for f in check(key, None, workshop).findings if (f.row, f.quantity, f.to) == (name, quantity, to)]
    return one


@pytest.mark.slow
def test_the_widths_of_table_x_have_the_printed_parameters_with_the_head_of_svhn(workshop):
    verdicts = [f for f in check("sparse-tuning-X", None, workshop).findings if f.quantity == "parameters"]
    assert [(f.verdict, f.how) for f in verdicts] == [(REPRODUCED, "with a head of 10 classes (SVHN)")] * 5
    slope = [f for f in check("sparse-tuning-X", None, workshop).findings if f.quantity == "MACs"]
    assert {f.difference for f in slope} <= {"+0.040", "+0.041", "+0.042", "+0.043", "+0.044", "+0.045"}


def test_a_row_that_stands_there_twice_keeps_the_setting_of_each():
    """Macs are those of the formula as printed, memory that of what paretune runs."""
    rows = [number for number in table("sparse-tuning-III").numbers if number.row == "Sparse-Tuning"]
    carried = {(n.quantity, n.setting.adapters[0].get("carry")) for n in rows}
    assert {("MACs", "output"), ("parameters", "output"), ("training memory", None)} <= carried
    assert ("MACs", None) not in carried


@pytest.mark.slow
def test_the_full_models_cost_what_is_printed_once_layernorm_counts(workshop):
    base = found("sparse-tuning-V", "(a) neither", "MACs", workshop)
    assert (base.verdict, base.how, base.ours) == (REPRODUCED, "LayerNorm x5", "17.582 G")
    large = found("sparse-tuning-XIII", "Full fine-tuning", "MACs", workshop)
    assert (large.verdict, large.how) == (REPRODUCED, "LayerNorm x5")
    assert found("sparse-tuning-XIII", "Full fine-tuning", "parameters", workshop).verdict == REPRODUCED


@pytest.mark.slow
def test_fpet_figure_3_is_arithmetic_on_rounded_counts(workshop):
    checked = check("fpet-figure-3", None, workshop)
    assert checked.counts() == {REPRODUCED: 4, DIFFERS: 0, CANNOT: 0}
    assert [f.how.endswith("from rounded counts") for f in checked.findings] == [False, True, True, True]


@pytest.mark.slow
def test_what_contradicts_itself_differs_and_says_so(workshop):
    vtab = found("sparse-tuning-II", "Sparse-Tuning, keep 0.7", "parameters", workshop)
    assert vtab.verdict == DIFFERS
    assert "Table X gives Dense Adapters of that width 0.29 M" in vtab.why
    assert found("sparse-tuning-II", "Full fine-tuning", "parameters", workshop).how.startswith("with the mean head")


# --------------------------------------------------------------------------------------------------------- as a command


@pytest.mark.slow
def test_a_table_is_printed_within_120_columns_and_without_escape_codes():
    done = cli("paper", "sparse-tuning-X")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "\x1b" not in done.stdout
    for part in ("11.60 G", "+0.042", "reproduced: with a head of 10 classes (SVHN)", "neither", "92.47"):
        assert part in done.stdout


def test_json_gives_every_finding():
    given = json.loads(cli("paper", "fpet-4", "--json").stdout)
    assert given["key"] == "fpet-4"
    assert {f["column"] for f in given["findings"]} == {"Training time (s/it)"}
    assert given["counts"] == {REPRODUCED: 0, DIFFERS: 0, CANNOT: 4}
    assert [f["printed"] for f in given["findings"]][1] == "4.52 s/it (-19.57 %)"


def test_wrong_requests_end_in_one_sentence():
    for args, says in (
        (("sparse-tuning-V1",), "did you mean sparse-tuning-V"),
        (("fpet-4", "--bench", "nowhere.json"), "nowhere.json"),
        (("fpet-4", "--markdown", "--json"), "give only one of them"),
    ):
        done = cli("paper", *args)
        assert done.exit_code == 2
        assert says in done.stderr
        assert "Traceback" not in done.output


def test_what_cannot_be_reproduced_is_gathered_by_reason(workshop):
    findings = check("fpet-4", None, workshop).findings
    assert computed(findings) == []
    reasons = dict(missing(findings))
    assert reasons["seconds on their GPU; pass --bench to compare ratios."] == (
        "FPET-AdaptFormer: training time 4.52 s/it (-19.57 %); FPET-LoRA: training time 5.03 s/it (-19.39 %)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("key", list(tables())[::3])
def test_a_third_of_the_tables_in_the_docs_is_what_the_command_computes(key, workshop):
    """The whole page takes a minute and runs by `make exhaustive`."""
    start = f"\n## {key}\n"
    section = markdown([check(key, None, workshop)]).partition(start)[2]
    there = PAGE.read_text(encoding="utf-8").partition(start)[2].partition("\n## ")[0]
    assert there.strip() == section.strip(), "run: paretune paper all --markdown > docs/papers.md"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_page_in_the_docs_is_what_the_command_computes(workshop):
    now = markdown([check(key, None, workshop) for key in tables()])
    assert PAGE.read_text(encoding="utf-8") == now, "run: paretune paper all --markdown > docs/papers.md"


def test_methods_are_known_by_the_registers_alone():
    assert absent([{"kind": kind.__name__} for kind in ADAPTERS], {"kind": REDUCERS[0].__name__}) == []
    assert absent([{"kind": "LoRA"}, {"kind": "Nobody"}], {"kind": "Nothing"}) == ["Nobody", "Nothing"]
