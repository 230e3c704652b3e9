"""Tables of an ablation: pure readers of ``results.jsonl``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.data.folder import CLASSES
from classifier.evaluation import DECISION
from classifier.regimes import REGIMES

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure of the table: its key, its title, where it is in a trial's row, and its title in the short table if it is there."""

    key: str
    title: str
    path: tuple[str, ...]
    short: str = ""


def _decisions(suffix: str, at: str, words: str, short: dict[str, str]) -> list[Column]:
    """The decision metrics at one threshold."""
    titles = {"f1": "F1"}
    return [
        Column(m + suffix, f"{titles.get(m, m.replace('_', ' '))} {words}", ("test", at, m), short.get(m, ""))
        for m in DECISION
    ]


COLUMNS = (
    Column("auroc", "AUROC", ("test", "auroc"), "AUROC"),
    Column("auprc", "AUPRC", ("test", "auprc")),
    Column("val_auroc", "validation AUROC", ("val", "auroc"), "val AUROC"),
    Column("val_balanced_accuracy", "validation balanced accuracy @.5", ("val", "at_half", "balanced_accuracy")),
    Column("brier", "Brier", ("test", "brier")),
    Column("ece", "ECE", ("test", "ece")),
    Column("nll", "NLL", ("test", "nll")),
    *_decisions("", "at_half", "@.5", {"accuracy": "acc @.5", "sensitivity": "sens @.5", "specificity": "spec @.5"}),
    *_decisions(
        "_val_threshold", "at_threshold", "@val", {"accuracy": "acc @val", "balanced_accuracy": "bal.acc @val"}
    ),
)
BLOCKS = (
    COLUMNS[:7],
    COLUMNS[7:13],
    COLUMNS[13:],
)  # as table.md shows them: ranking, at 0.5, at validation's threshold

# Differences worth reading: the effect of synthetic images without and with augmentation, then against as many duplicates.
CONTRASTS = (
    ("gan", "baseline"),
    ("combined", "augment"),
    ("gan", "duplicate"),
    ("combined", "duplicate_augment"),
    ("augment", "baseline"),
    ("combined", "baseline"),
    ("duplicate", "baseline"),
    ("weighted", "baseline"),
)


def regimes_in(rows: Iterable[Row]) -> list[str]:
    """Names of the regimes that have a trial, in the registry's order."""
    present = {row["regime"] for row in rows}
    return [name for name in REGIMES if name in present]


def values(rows: Iterable[Row], regime: str, path: Sequence[str]) -> dict[int, float]:
    """One figure of a regime by trial seed."""
    found = {}
    for row in rows:
        if row["regime"] == regime:
            value: Any = row
            for part in path:
                value = value[part]
            found[int(row["trial_seed"])] = float(value)
    return found


def mean_sd(sample: Sequence[float]) -> tuple[float, float | None]:
    """Mean and SD over seeds (n - 1); one seed has no SD."""
    return float(np.mean(sample)), float(np.std(sample, ddof=1)) if len(sample) > 1 else None


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """One entry per regime: counts, and mean and SD over trial seeds of every column."""
    entries = []
    for regime in regimes_in(rows):
        first = next(r for r in rows if r["regime"] == regime)
        entry: dict[str, Any] = {
            "regime": regime,
            "seeds": len(values(rows, regime, ("test", "auroc"))),
            "n_train": first["n_train"],
            "added": first["added"],
            "passes_over_real": first["passes_over_real"],
            "n_val": first["val"]["n"],
            "n_test": first["test"]["n"],
        }
        for column in COLUMNS:
            mean, sd = mean_sd(list(values(rows, regime, column.path).values()))
            entry[column.key] = {"mean": mean, "sd": sd}
        entries.append(entry)
    return entries


def paired_differences(rows: list[Row], path: Sequence[str] = ("test", "auroc")) -> list[dict[str, Any]]:
    """The contrasts whose regimes are both there, seed by seed: mean, SD, number of pairs. No interval, no test."""
    found = []
    for regime, against in CONTRASTS:
        own, reference = values(rows, regime, path), values(rows, against, path)
        pairs = sorted(own.keys() & reference.keys())
        if pairs:
            mean, sd = mean_sd([own[s] - reference[s] for s in pairs])
            found.append({"regime": regime, "against": against, "mean": mean, "sd": sd, "pairs": len(pairs)})
    return found


def cell(entry: dict[str, Any]) -> str:
    """``.934 ± .012``, without a zero before the point; ``n/a`` stands for the SD of a single seed."""
    sd = entry["sd"]
    return f"{_short(entry['mean'])} ± {'n/a' if sd is None else _short(sd)}"


def _short(value: float) -> str:
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def markdown_table(entries: list[dict[str, Any]], columns: Sequence[Column]) -> str:
    """Regimes down, figures across."""
    head = ["regime", f"train {' + '.join(CLASSES)}", "passes", *(c.title for c in columns)]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | ---: |" + " ---: |" * len(columns)]
    for e in entries:
        train = " + ".join(str(e["n_train"][c]) for c in CLASSES)
        cells = [e["regime"], train, f"{e['passes_over_real']:.1f}", *(cell(e[c.key]) for c in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text_table(entries: list[dict[str, Any]]) -> str:
    """The short table, aligned for a terminal."""
    columns = [c for c in COLUMNS if c.short]
    table = [["regime", "train N+P", "passes", *(c.short for c in columns)]]
    for e in entries:
        counts = "+".join(str(e["n_train"][c]) for c in CLASSES)
        table.append([e["regime"], counts, f"{e['passes_over_real']:.1f}", *(cell(e[c.key]) for c in columns)])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def caption(entries: list[dict[str, Any]]) -> str:
    """What a reader must know to read the table."""
    first = entries[0]
    seeds = sorted({e["seeds"] for e in entries})
    spread = "mean ± SD over trial seeds" if max(seeds) > 1 else "one trial seed: no SD, and no claim can rest on it"
    return (
        f"Test n = {first['n_test']}, validation n = {first['n_val']}; {'/'.join(map(str, seeds))} trial seed(s) per regime, {spread}. "
        "Passes: how often each real training image was seen, at equal optimiser steps. @.5: threshold 0.5; @val: threshold chosen on "
        "validation. Regimes differ in class prior, which moves every figure @.5 and Brier, ECE and NLL by itself: compare AUROC, and "
        "@val. Test was opened once per trial, after training, selection and threshold were fixed."
    )


def caveat(entries: list[dict[str, Any]]) -> str:
    """What the differences do not show; the sampling error is the normal approximation for a share of n images."""
    accuracy, n = entries[0]["accuracy"]["mean"], entries[0]["n_test"]
    points = 196 * (accuracy * (1 - accuracy) / n) ** 0.5
    one_set = any(e["regime"] in ("gan", "combined") for e in entries)
    return (
        f"Differences are described, not tested: the SDs leave out the sampling of test images, which at n = {n} alone is worth about "
        f"{points:.1f} points of accuracy either way."
        + (" They speak for this synthetic set (one GAN seed), not for the GAN." if one_set else "")
    )


def differences_text(rows: list[Row]) -> str:
    """The paired AUROC differences, one a line."""
    lines = []
    for d in paired_differences(rows):
        sd = "n/a" if d["sd"] is None else f"{d['sd']:.3f}"
        what = f"{d['regime']} - {d['against']}: {d['mean']:+.3f} AUROC"
        lines.append(f"{what}, SD of the paired differences {sd}, {d['pairs']} pair(s)")
    return "\n".join(lines)


def csv_table(entries: list[dict[str, Any]]) -> str:
    """Everything, one row per regime."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fixed = ["regime", "seeds", *(f"train_{c}" for c in CLASSES), "added", "passes_over_real", "n_val", "n_test"]
    writer.writerow([*fixed, *(f"{c.key}_{part}" for c in COLUMNS for part in ("mean", "sd"))])
    for e in entries:
        counts = [e["n_train"][c] for c in CLASSES]
        row = [e["regime"], e["seeds"], *counts, e["added"], e["passes_over_real"], e["n_val"], e["n_test"]]
        for c in COLUMNS:
            row += [f"{e[c.key]['mean']:.6f}", "" if e[c.key]["sd"] is None else f"{e[c.key]['sd']:.6f}"]
        writer.writerow(row)
    return buffer.getvalue()
