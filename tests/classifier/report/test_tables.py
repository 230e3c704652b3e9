"""Tables: recomputed from the trials with numpy, formatted as promised."""

import csv
import io
import re
import shutil
import statistics
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import fake_trial
from hypothesis import given
from hypothesis import strategies as st

from classifier.analysis.analyse import Analysis, RegimeSummary
from classifier.analysis.contrasts import Contrast, ContrastResult
from classifier.analysis.results import MetricSummary, StudyResults, TrialResult, summarise_seeds
from classifier.analysis.statistics import Estimate
from classifier.evaluation.fold_metrics import BinaryMetrics, CalibrationMetrics, DecisionMetrics
from classifier.report import tables
from classifier.training.regimes import REGIMES

HALF = DecisionMetrics(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, (5, 5, 5, 5))


def trial(regime: str, seed: int, auroc: float, **changes: Any) -> TrialResult:
    test = BinaryMetrics(
        n=20,
        auroc=auroc,
        auprc=auroc / 2,
        nll=1.5,
        brier=0.2,
        ece=0.1,
        uncalibrated=CalibrationMetrics(1.6, 0.3, 0.2),
        temperature=1.0,
        at_half=replace(HALF, accuracy=auroc / 4),
        at_threshold=HALF,
        threshold=0.4,
        uncalibrated_threshold=0.4,
    )
    own = {"n_train": {"NORMAL": 30, "PNEUMONIA": 40}, "added": 3, "passes_over_real": 2.5}
    folds = {"test": test, "val": replace(test, n=10, auroc=0.75)}
    return fake_trial(regime, seed, **{"synthetic_set": None, "dose": None, **own, **folds, **changes})


def study(trials: list[TrialResult]) -> StudyResults:
    return StudyResults.of(trials, [])


def contrast(name: str, family: str, value: float, p: float | None = 0.03, mde: float | None = 0.014) -> ContrastResult:
    left, _, right = name.partition(" - ")
    estimate = Estimate(value, 0.005, 9, value - 0.01, value + 0.01, 0.03, 3, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ((1.0, 9),))
    p_holm = 0.06 if family == "confirmatory" else None
    return ContrastResult(Contrast(name, family, {}, left, right), estimate, p, p_holm, mde, "not settled")


AUROCS = {"combined": [0.9, 0.8, 0.85], "baseline": [0.7, 0.75, 0.71], "augment": [0.72, 0.7, 0.9]}
TRIALS = [trial(regime, seed, v) for regime, several in AUROCS.items() for seed, v in enumerate(several)]
ANALYSIS = Analysis(
    n_test=20,
    n_patients=12,
    test_counts={},
    trial_seeds=[0, 1, 2],
    gan_seeds=1,
    resamples=0,
    regimes=[
        RegimeSummary("baseline", 3, 3, 0, {"auroc": MetricSummary(0.72, 0.026, 0.6, 0.805)}),
        RegimeSummary("combined", 3, 3, 1, {"auroc": MetricSummary(0.85, 0.05, 0.75, 0.915)}),
    ],
    contrasts=[
        contrast("augment - baseline", "exploratory", -0.0004, p=0.0002),
        contrast("combined - augment", "confirmatory", 0.012),
        contrast("interaction", "factorial", 0.25, p=None, mde=None),
    ],
    verdict="",
    notes=[],
)
ROWS = tables.regime_rows(study(TRIALS), ANALYSIS)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_mean_and_sample_sd(sample: list[float]) -> None:
    summary = summarise_seeds(sample)
    assert summary.mean == pytest.approx(statistics.fmean(sample), abs=1e-9)
    if len(sample) == 1:
        assert summary.sd is None
    else:
        assert summary.sd == pytest.approx(statistics.stdev(sample), abs=1e-9)


def test_rows_by_hand() -> None:
    assert [row.regime for row in ROWS] == ["baseline", "augment", "combined"]
    for row in ROWS:
        sample = AUROCS[row.regime]
        auroc = row.metrics["auroc"]
        assert (auroc.mean, auroc.sd) == pytest.approx((np.mean(sample), np.std(sample, ddof=1)))
        assert row.metrics["accuracy"].mean == pytest.approx(np.mean(sample) / 4)
        assert row.metrics["val_auroc"] == MetricSummary(0.75, 0)
        assert (row.seeds, row.n_test, row.n_val, row.added) == (3, 20, 10, 3)
    assert ROWS[0].metrics["auroc"].interval == (0.6, 0.805)
    assert ROWS[0].to_json()["nll"] == {"mean": 1.5, "sd": 0.0, "low": None, "high": None}


def test_synthetic_sets_of_a_seed_are_averaged_before_seeds_are() -> None:
    aurocs = {(0, "0"): 0.7, (0, "1"): 0.8, (1, "0"): 0.9, (1, "1"): 0.94}
    results = study([trial("gan", seed, v, synthetic_set=s, dose=1.0) for (seed, s), v in aurocs.items()])
    assert results.values("gan", tables.AUROC) == pytest.approx({0: 0.75, 1: 0.92})
    (row,) = tables.regime_rows(results, ANALYSIS)
    auroc = row.metrics["auroc"]
    assert (auroc.mean, auroc.sd) == pytest.approx((0.835, np.std([0.75, 0.92], ddof=1)))
    assert (row.seeds, row.synthetic_sets) == (2, 2)
    assert study([trial("gan", 0, 0.5, synthetic_set=str(i)) for i in (10, 2, 0)]).sets("gan") == ["0", "2", "10"]
    assert study(TRIALS).sets("baseline") == []


def test_other_doses_stay_out_of_the_study_proper() -> None:
    dosed = [trial("gan", 0, 0.1, dose=0.5), trial("gan", 0, 0.9, dose=1.0), trial("gan", 0, 0.2, dose=2.0)]
    results = study([*TRIALS, *dosed])
    assert results.main.trials == [*TRIALS, dosed[1]]
    assert tables.regime_rows(results, ANALYSIS)[-2].metrics["auroc"].mean == 0.9


def test_every_column_reads_what_it_says() -> None:
    decisions = {f.name for f in fields(DecisionMetrics)}
    for key, column in tables.COLUMNS.items():
        at = "at_threshold" if "threshold" in key else "at_half"
        metric = key.removesuffix("_val_threshold").removeprefix("val_")
        place = f"{at}.{metric}" if metric in decisions else metric
        assert column.path == f"{'val' if key.startswith('val_') else 'test'}.{place}"
        assert 0 <= TRIALS[0].metric(column.path) <= 1.5
    assert len({c.title for c in tables.COLUMNS.values()}) == len(tables.COLUMNS)
    assert sum(len(columns) for columns in tables.TWO_CLASSES.blocks.values()) == len(tables.COLUMNS)


def test_intervals_stand_below_metrics_that_have_one() -> None:
    table = tables.regime_table(ROWS, [tables.COLUMNS["auroc"], tables.COLUMNS["nll"]])
    assert table.header == ["regime", "AUROC", "NLL"]
    assert table.rows == [
        ["baseline", ".720 ± .026\n[.600, .805]", "1.500 ± .000"],
        ["augment", ".773 ± .110", "1.500 ± .000"],
        ["combined", ".850 ± .050\n[.750, .915]", "1.500 ± .000"],
    ]


def test_the_terminals_table_is_aligned() -> None:
    lines = tables.text_table(ROWS).splitlines()
    assert set(lines[1]) == {"-"}
    assert len(lines) == 5
    for title, text in (("AUROC", ".720 ± .026 [.600, .805]"), ("val AUROC", ".750 ± .000"), ("train N+P", "30+40")):
        assert lines[2].index(text) == lines[0].index(title)
    assert max(map(len, lines)) <= 130


def test_contrasts_stand_family_by_family() -> None:
    rows = tables.contrast_table(ANALYSIS).rows
    assert [row[1] for row in rows] == ["combined - augment", "interaction", "augment - baseline"]
    assert rows[0][2:] == ["+.012", "[.002, .022]", ".03", ".06", ".014", "not settled"]
    assert rows[1][4:7] == ["–", "–", "–"]
    assert rows[2][2:6] == ["+.000", "[-.010, .010]", "< .001", "–"]


def test_csv_holds_every_metric() -> None:
    read = list(csv.DictReader(io.StringIO(tables.csv_table(ROWS))))
    assert [r["regime"] for r in read] == ["baseline", "augment", "combined"]
    assert [float(read[2][f"auroc_{part}"]) for part in ("mean", "sd", "low", "high")] == [0.85, 0.05, 0.75, 0.915]
    assert (read[0]["train_NORMAL"], read[0]["train_PNEUMONIA"], read[0]["n_test"]) == ("30", "40", "20")
    assert {f"{key}_{p}" for key in tables.COLUMNS for p in ("mean", "sd", "low", "high")} <= read[0].keys()
    assert read[1]["auroc_low"] == read[0]["nll_high"] == ""
    one = tables.regime_rows(study([trial("gan", 0, 0.5)]), ANALYSIS)
    assert next(csv.DictReader(io.StringIO(tables.csv_table(one))))["auroc_sd"] == ""


def test_the_caption_says_n_and_what_spreads() -> None:
    several = tables.caption(ROWS, ANALYSIS)
    assert several.startswith(
        "Test n = 20 images of 12 patients; 3 trial seeds; 1 synthetic set; validation n = 10. Mean ± SD"
    )
    assert "intervals over patients and trial seeds." in several
    assert "over patients, trial seeds and GAN seeds." in tables.caption(ROWS, replace(ANALYSIS, gan_seeds=3))
    unknown = tables.caption(ROWS, replace(ANALYSIS, unit="image", n_patients=None, gan_seeds=3))
    assert unknown.startswith("Test n = 20 images; 3 trial seeds")
    assert "patient" not in unknown.split("@val")[0]
    one = tables.caption(ROWS, replace(ANALYSIS, trial_seeds=[0], gan_seeds=0))
    assert "1 trial seed; validation n = 10. One trial seed: no SD" in one
    assert "intervals over patients." in one
    assert "±" not in one


def latex_rows(text: str) -> list[list[str]]:
    return [line.removesuffix(" \\\\").split(" & ") for line in text.splitlines() if line.endswith(" \\\\")]


def test_latex_escapes_names_and_keeps_its_columns() -> None:
    more = contrast("combined - duplicate_augment", "confirmatory", -0.003)
    analysis = replace(ANALYSIS, contrasts=[*ANALYSIS.contrasts, more])
    trials = [*TRIALS, *(trial("duplicate_augment", seed, 0.8) for seed in range(3))]
    rows = tables.regime_rows(study(trials), analysis)
    text = tables.latex_tables(rows, analysis)
    regimes, differences = (latex_rows(part) for part in text.split("\\end{table}")[:2])
    assert {len(r) for r in regimes} == {5}
    assert {len(r) for r in differences} == {6}
    assert regimes[1][:3] == ["baseline", ".750 $\\pm$ .000", ".720 $\\pm$ .026 [.600, .805]"]
    assert regimes[-1][0] == "duplicate\\_augment"
    assert differences[-1][:2] == ["combined $-$ duplicate\\_augment", "$-$.003 [$-$.013, .007]"]
    assert not re.search(r"(?<!\\)[_%#]", text)
    assert "Test n = 20 images of 12 patients; 3 trial seeds" in text
    assert text.count("{") == text.count("}")
    assert tables.latex_tables(rows, replace(analysis, contrasts=[])).count("\\begin{table}") == 1


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed; the tests above check the table without it"
)
def test_latex_compiles_in_a_document_that_loads_booktabs(tmp_path: Path) -> None:
    results = study([trial(name, seed, 0.9, synthetic_set="0") for name in REGIMES for seed in range(3)])
    text = tables.latex_tables(tables.regime_rows(results, ANALYSIS), ANALYSIS)
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
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
    assert study([trial(name, 0, 0.5) for name in reversed(REGIMES)]).regimes == list(REGIMES)
