"""Tables: recomputed from the rows with numpy, formatted as promised."""

import copy
import csv
import io
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier import tables
from classifier.regimes import REGIMES

DECISIONS = dict.fromkeys(("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1"), 0.5)


def row(regime: str, seed: int, auroc: float) -> dict[str, Any]:
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
        "n_train": {"NORMAL": 30, "PNEUMONIA": 40},
        "added": 3,
        "passes_over_real": 2.5,
        "test": fold,
        "val": dict(copy.deepcopy(fold), n=10, auroc=0.75),
    }


AUROCS = {"combined": [0.9, 0.8, 0.85], "baseline": [0.7, 0.75, 0.71], "augment": [0.72, 0.7, 0.9]}
ROWS = [row(regime, seed, v) for regime, several in AUROCS.items() for seed, v in enumerate(several)]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_mean_and_sample_sd(sample: list[float]) -> None:
    mean, sd = tables.mean_sd(sample)
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


def test_every_column_reads_what_it_says() -> None:
    """Each figure of a trial gets its own value; each column must find its own."""
    one, expected = row("gan", 0, 0.5), {}
    for i, column in enumerate(tables.COLUMNS, 1):
        place: Any = one
        for part in column.path[:-1]:
            place = place[part]
        place[column.path[-1]] = expected[column.key] = i / 100
        at = "at_threshold" if "threshold" in column.key else "at_half"
        decision = column.path[-1] in DECISIONS
        assert (at in column.path) == decision
        assert ("@val" in column.title) == (at == "at_threshold" and decision)
        assert (column.path[0] == "val") == column.key.startswith("val_")
    (entry,) = tables.summarise([one])
    assert {k: entry[k]["mean"] for k in expected} == pytest.approx(expected)
    assert sum(bool(c.short) for c in tables.COLUMNS) == 7


def test_paired_differences_by_hand() -> None:
    """Per seed first, then mean and SD: the SD of differences is not the difference of SDs."""
    found = {(d["regime"], d["against"]): d for d in tables.paired_differences(ROWS)}
    assert list(found) == [("combined", "augment"), ("augment", "baseline"), ("combined", "baseline")]
    to_baseline = found["combined", "baseline"]
    assert to_baseline["mean"] == pytest.approx((0.2 + 0.05 + 0.14) / 3)
    assert to_baseline["sd"] == pytest.approx(statistics.stdev([0.2, 0.05, 0.14]))
    assert to_baseline["pairs"] == 3
    assert found["combined", "augment"]["mean"] == pytest.approx((0.18 + 0.1 - 0.05) / 3)


def test_only_whole_pairs_count() -> None:
    rows = [row("gan", 1, 0.9), row("gan", 2, 0.8), row("baseline", 2, 0.5), row("baseline", 3, 0.4)]
    (difference,) = tables.paired_differences(rows)
    assert (difference["pairs"], difference["sd"]) == (1, None)
    assert difference["mean"] == pytest.approx(0.3)
    assert tables.paired_differences([row("gan", 1, 0.9), row("baseline", 2, 0.9)]) == []
    assert tables.paired_differences([row("gan", 1, 0.9)]) == []


def test_differences_as_text() -> None:
    lines = tables.differences_text(ROWS).splitlines()
    assert [line.split(":")[0] for line in lines] == ["combined - augment", "augment - baseline", "combined - baseline"]
    assert "+0.130 AUROC, SD of the paired differences 0.075, 3 pair(s)" in lines[2]
    worse = tables.differences_text([row("baseline", 0, 0.9), row("gan", 0, 0.6)])
    assert worse == "gan - baseline: -0.300 AUROC, SD of the paired differences n/a, 1 pair(s)"


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


def test_markdown_is_a_table() -> None:
    lines = tables.markdown_table(
        tables.summarise(ROWS), [c for c in tables.COLUMNS if c.key in ("auroc", "nll")]
    ).splitlines()
    assert lines[0] == "| regime | train NORMAL + PNEUMONIA | passes | AUROC | NLL |"
    assert {line.count("|") for line in lines} == {6}
    assert lines[2] == "| baseline | 30 + 40 | 2.5 | .720 ± .026 | 1.500 ± .000 |"


def test_the_terminals_table_is_aligned() -> None:
    lines = tables.text_table(tables.summarise(ROWS)).splitlines()
    assert set(lines[1]) == {"-"}
    assert len(lines) == 5
    for title, text in (("AUROC", ".720 ± .026"), ("val AUROC", ".750 ± .000"), ("train N+P", "30+40")):
        assert lines[2].index(text) == lines[0].index(title)
    assert max(map(len, lines)) <= 130


def test_csv_holds_every_figure() -> None:
    read = list(csv.DictReader(io.StringIO(tables.csv_table(tables.summarise(ROWS)))))
    assert [r["regime"] for r in read] == ["baseline", "augment", "combined"]
    assert float(read[2]["auroc_mean"]) == pytest.approx(0.85)
    assert float(read[2]["auroc_sd"]) == pytest.approx(0.05)
    assert (read[0]["train_NORMAL"], read[0]["train_PNEUMONIA"], read[0]["n_test"]) == ("30", "40", "20")
    assert {f"{c.key}_{p}" for c in tables.COLUMNS for p in ("mean", "sd")} <= read[0].keys()
    (one,) = csv.DictReader(io.StringIO(tables.csv_table(tables.summarise([row("gan", 0, 0.5)]))))
    assert one["auroc_sd"] == ""


def test_the_caption_says_n_and_what_spreads() -> None:
    assert "Test n = 20, validation n = 10; 3 trial seed(s) per regime, mean ± SD" in tables.caption(
        tables.summarise(ROWS)
    )
    one = tables.caption(tables.summarise([row("gan", 0, 0.5)]))
    assert "one trial seed: no SD" in one
    assert "±" not in one
    uneven = tables.caption(tables.summarise([*ROWS, row("gan", 0, 0.5)]))
    assert "1/3 trial seed(s)" in uneven


def test_regimes_stand_in_the_registrys_order() -> None:
    assert tables.regimes_in([{"regime": r} for r in reversed(REGIMES)]) == list(REGIMES)
