"""Tables: recomputed from the rows with numpy, formatted as promised."""

import copy
import csv
import io
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.reporting.numbers import p_value, signed
from classifier.analysis.results import main_rows, mean_sd, regimes_in, sets_of, values
from classifier.report import tables
from classifier.training.regimes import REGIMES

DECISIONS = dict.fromkeys(("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1"), 0.5)


def row(regime: str, seed: int, auroc: float, **more: Any) -> dict[str, Any]:
    fold = {
        "n": 20,
        "auroc": auroc,
        "auprc": auroc / 2,
        "nll": 1.5,
        "brier": 0.2,
        "ece": 0.1,
        "at_half": dict(DECISIONS, accuracy=auroc / 4),
        "at_threshold": dict(DECISIONS),
    }
    return {
        "regime": regime,
        "trial_seed": seed,
        "synthetic_set": None,
        "dose": None,
        "n_train": {"NORMAL": 30, "PNEUMONIA": 40},
        "added": 3,
        "passes_over_real": 2.5,
        "test": fold,
        "val": dict(copy.deepcopy(fold), n=10, auroc=0.75),
    } | more


def contrast(name: str, family: str, estimate: float, **more: Any) -> dict[str, Any]:
    left, _, right = name.partition(" - ")
    return {
        "name": name,
        "left": left,
        "right": right,
        "family": family,
        "estimate": estimate,
        "low": estimate - 0.01,
        "high": estimate + 0.01,
        "p": 0.03,
        "p_holm": 0.06 if family == "confirmatory" else None,
        "mde": 0.014,
        "verdict": "not settled",
    } | more


AUROCS = {"combined": [0.9, 0.8, 0.85], "baseline": [0.7, 0.75, 0.71], "augment": [0.72, 0.7, 0.9]}
ROWS = [row(regime, seed, v) for regime, several in AUROCS.items() for seed, v in enumerate(several)]
ANALYSIS: dict[str, Any] = {
    "n_test": 20,
    "n_patients": 12,
    "trial_seeds": [0, 1, 2],
    "gan_seeds": 1,
    "regimes": [
        {"regime": "baseline", "metrics": {"auroc": {"mean": 0.72, "sd": 0.026, "low": 0.6, "high": 0.805}}},
        {"regime": "combined", "metrics": {"auroc": {"mean": 0.85, "sd": 0.05, "low": 0.75, "high": 0.915}}},
    ],
    "contrasts": [
        contrast("augment - baseline", "exploratory", -0.0004, p=0.0002),
        contrast("combined - augment", "confirmatory", 0.012),
        contrast("interaction", "factorial", 0.25, p=None, mde=None),
    ],
}


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_mean_and_sample_sd(sample: list[float]) -> None:
    mean, sd = mean_sd(sample)
    assert mean == pytest.approx(statistics.fmean(sample), abs=1e-9)
    if len(sample) == 1:
        assert sd is None
    else:
        assert sd == pytest.approx(statistics.stdev(sample), abs=1e-9)


def test_summaries_by_hand() -> None:
    entries = tables.summarise(ROWS)
    assert [e["regime"] for e in entries] == ["baseline", "augment", "combined"]
    for e in entries:
        sample = AUROCS[e["regime"]]
        assert e["auroc"] == pytest.approx({"mean": np.mean(sample), "sd": np.std(sample, ddof=1)})
        assert e["accuracy"]["mean"] == pytest.approx(np.mean(sample) / 4)
        assert e["val_auroc"] == pytest.approx({"mean": 0.75, "sd": 0})
        assert (e["seeds"], e["n_test"], e["n_val"], e["added"]) == (3, 20, 10, 3)


def test_synthetic_sets_of_a_seed_are_averaged_before_seeds_are() -> None:
    scores = {(0, "0"): 0.7, (0, "1"): 0.8, (1, "0"): 0.9, (1, "1"): 0.94}
    rows = [row("gan", seed, v, synthetic_set=s, dose=1.0) for (seed, s), v in scores.items()]
    assert values(rows, "gan", tables.AUROC) == pytest.approx({0: 0.75, 1: 0.92})
    (entry,) = tables.summarise(rows)
    assert entry["auroc"] == pytest.approx({"mean": 0.835, "sd": np.std([0.75, 0.92], ddof=1)})
    assert (entry["seeds"], entry["synthetic_sets"]) == (2, 2)
    assert sets_of([row("gan", 0, 0.5, synthetic_set=str(i)) for i in (10, 2, 0)], "gan") == ["0", "2", "10"]
    assert sets_of(ROWS, "baseline") == []


def test_other_doses_stay_out_of_the_study_proper() -> None:
    dosed = [row("gan", 0, 0.1, dose=0.5), row("gan", 0, 0.9, dose=1.0), row("gan", 0, 0.2, dose=2.0)]
    assert main_rows([*ROWS, *dosed]) == [*ROWS, dosed[1]]
    assert tables.summarise([*ROWS, *dosed])[-2]["auroc"]["mean"] == 0.9


def test_every_column_reads_what_it_says() -> None:
    """Each figure of a trial gets its own value; each column must find its own."""
    one, expected = row("gan", 0, 0.5), {}
    for i, column in enumerate(tables.COLUMNS, 1):
        place: Any = one
        for part in column.path[:-1]:
            place = place[part]
        place[column.path[-1]] = expected[column.key] = i / 100
        at = "at_threshold" if "threshold" in column.key else "at_half"
        decision = column.key.removesuffix("_val_threshold").removeprefix("val_")
        if decision in DECISIONS:
            assert column.path[1:] == (at, decision)
        else:
            assert column.path == ("val" if "val_" in column.key else "test", decision)
    (entry,) = tables.summarise([one])
    assert {key: entry[key]["mean"] for key in expected} == expected
    assert len({c.title for c in tables.COLUMNS}) == len(tables.COLUMNS)
    assert sum(len(columns) for columns in tables.BLOCKS.values()) == len(tables.COLUMNS)


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.9341, 0.0116, ".934 ± .012"),
        (1.0, 0.0, "1.000 ± .000"),
        (0.0, None, ".000 ± n/a"),
        (-0.25, 0.1, "-.250 ± .100"),
        (10.05, 10.5, "10.050 ± 10.500"),
        (-10.25, 1.0, "-10.250 ± 1.000"),
        (0.99996, 0.5, "1.000 ± .500"),
    ],
)
def test_cells(mean: float, sd: float | None, text: str) -> None:
    assert tables.cell({"mean": mean, "sd": sd}) == text


@pytest.mark.parametrize(("value", "text"), [(0.012, "+.012"), (-0.0004, "+.000"), (-0.0006, "-.001"), (0, "+.000")])
def test_differences_have_a_sign_and_none_is_minus_zero(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (1.0, "1.00"), (0.0312, ".03"), (0.0099, ".010"), (0.004, ".004"), (0.0009, "< .001")]
)
def test_p_values(p: float | None, text: str) -> None:
    assert p_value(p) == text


def test_intervals_stand_below_figures_that_have_one() -> None:
    columns = [c for c in tables.COLUMNS if c.key in ("auroc", "nll")]
    header, rows = tables.regime_table(tables.summarise(ROWS), ANALYSIS, columns)
    assert header == ["regime", "AUROC", "NLL"]
    assert rows == [
        ["baseline", ".720 ± .026\n[.600, .805]", "1.500 ± .000"],
        ["augment", ".773 ± .110", "1.500 ± .000"],
        ["combined", ".850 ± .050\n[.750, .915]", "1.500 ± .000"],
    ]
    bounded = tables.with_intervals(tables.summarise(ROWS), ANALYSIS)
    assert (bounded[0]["auroc"]["low"], bounded[0]["auroc"]["high"]) == (0.6, 0.805)
    assert bounded[0]["nll"]["low"] is None


def test_the_terminals_table_is_aligned() -> None:
    lines = tables.text_table(tables.summarise(ROWS), ANALYSIS).splitlines()
    assert set(lines[1]) == {"-"}
    assert len(lines) == 5
    for title, text in (("AUROC", ".720 ± .026 [.600, .805]"), ("val AUROC", ".750 ± .000"), ("train N+P", "30+40")):
        assert lines[2].index(text) == lines[0].index(title)
    assert max(map(len, lines)) <= 130


def test_contrasts_stand_family_by_family() -> None:
    header, rows = tables.contrast_table(ANALYSIS)
    assert [dict(zip(header, r, strict=True))["difference in test AUROC"] for r in rows] == [
        "combined - augment",
        "interaction",
        "augment - baseline",
    ]
    assert rows[0][2:] == ["+.012", "[.002, .022]", ".03", ".06", ".014", "not settled"]
    assert rows[1][4:7] == ["–", "–", "–"]
    assert rows[2][2:6] == ["+.000", "[-.010, .010]", "< .001", "–"]


def test_csv_holds_every_figure() -> None:
    read = list(csv.DictReader(io.StringIO(tables.csv_table(tables.summarise(ROWS), ANALYSIS))))
    assert [r["regime"] for r in read] == ["baseline", "augment", "combined"]
    assert [float(read[2][f"auroc_{part}"]) for part in ("mean", "sd", "low", "high")] == [0.85, 0.05, 0.75, 0.915]
    assert (read[0]["train_NORMAL"], read[0]["train_PNEUMONIA"], read[0]["n_test"]) == ("30", "40", "20")
    assert {f"{c.key}_{p}" for c in tables.COLUMNS for p in ("mean", "sd", "low", "high")} <= read[0].keys()
    assert read[1]["auroc_low"] == read[0]["nll_high"] == ""
    (one,) = csv.DictReader(io.StringIO(tables.csv_table(tables.summarise([row("gan", 0, 0.5)]), ANALYSIS)))
    assert one["auroc_sd"] == ""


def test_the_caption_says_n_and_what_spreads() -> None:
    entries = tables.summarise(ROWS)
    several = tables.caption(entries, ANALYSIS)
    assert several.startswith(
        "Test n = 20 images of 12 patients; 3 trial seeds; 1 synthetic set; validation n = 10. Mean ± SD"
    )
    assert "intervals over patients and trial seeds." in several
    assert "over patients, trial seeds and GAN seeds." in tables.caption(entries, ANALYSIS | {"gan_seeds": 3})
    one = tables.caption(entries, ANALYSIS | {"trial_seeds": [0], "gan_seeds": 0})
    assert "1 trial seed; validation n = 10. One trial seed: no SD" in one
    assert "intervals over patients." in one
    assert "±" not in one


def latex_rows(text: str) -> list[list[str]]:
    return [line.removesuffix(" \\\\").split(" & ") for line in text.splitlines() if line.endswith(" \\\\")]


def test_latex_escapes_names_and_keeps_its_columns() -> None:
    analysis = copy.deepcopy(ANALYSIS)
    analysis["contrasts"].append(contrast("combined - duplicate_augment", "confirmatory", -0.003))
    rows = [*ROWS, *(row("duplicate_augment", seed, 0.8) for seed in range(3))]
    text = tables.latex_tables(tables.summarise(rows), analysis)
    regimes, differences = (latex_rows(part) for part in text.split("\\end{table}")[:2])
    assert {len(r) for r in regimes} == {5}
    assert {len(r) for r in differences} == {6}
    assert regimes[1][:3] == ["baseline", ".750 $\\pm$ .000", ".720 $\\pm$ .026 [.600, .805]"]
    assert regimes[-1][0] == "duplicate\\_augment"
    assert differences[-1][:2] == ["combined $-$ duplicate\\_augment", "$-$.003 [$-$.013, .007]"]
    assert not re.search(r"(?<!\\)[_%#]", text)
    assert "Test n = 20 images of 12 patients; 3 trial seeds" in text
    assert text.count("{") == text.count("}")
    without = tables.latex_tables(tables.summarise(rows), analysis | {"contrasts": []})
    assert without.count("\\begin{table}") == 1


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed; the tests above check the table without it"
)
def test_latex_compiles_in_a_document_that_loads_booktabs(tmp_path: Path) -> None:
    rows = [row(name, seed, 0.9, synthetic_set="0") for name in REGIMES for seed in range(3)]
    (tmp_path / "table.tex").write_text(tables.latex_tables(tables.summarise(rows), ANALYSIS), encoding="utf-8")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table.tex}\\end{document}"
    (tmp_path / "doc.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "doc.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_regimes_stand_in_the_registrys_order() -> None:
    assert regimes_in([{"regime": r} for r in reversed(REGIMES)]) == list(REGIMES)
