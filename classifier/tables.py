"""Tables of an ablation: pure readers of ``results.jsonl``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.data.folder import CLASSES
from classifier.regimes import REGIMES

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure of the table: where it is in a trial's row, and its title."""

    key: str
    title: str
    path: tuple[str, ...]


COLUMNS = (
    Column("auroc", "AUROC", ("test", "auroc")),
    Column("auprc", "AUPRC", ("test", "auprc")),
    Column("accuracy", "accuracy at 0.5", ("test", "at_half", "accuracy")),
    Column("balanced_accuracy", "balanced accuracy at 0.5", ("test", "at_half", "balanced_accuracy")),
    Column("sensitivity", "sensitivity at 0.5", ("test", "at_half", "sensitivity")),
    Column("specificity", "specificity at 0.5", ("test", "at_half", "specificity")),
    Column("precision", "precision at 0.5", ("test", "at_half", "precision")),
    Column("f1", "F1 at 0.5", ("test", "at_half", "f1")),
    Column(
        "balanced_accuracy_val_threshold",
        "balanced accuracy at validation's threshold",
        ("test", "at_threshold", "balanced_accuracy"),
    ),
    Column("accuracy_val_threshold", "accuracy at validation's threshold", ("test", "at_threshold", "accuracy")),
    Column(
        "sensitivity_val_threshold", "sensitivity at validation's threshold", ("test", "at_threshold", "sensitivity")
    ),
    Column(
        "specificity_val_threshold", "specificity at validation's threshold", ("test", "at_threshold", "specificity")
    ),
    Column("brier", "Brier", ("test", "brier")),
    Column("ece", "ECE", ("test", "ece")),
    Column("nll", "NLL", ("test", "nll")),
    Column("val_auroc", "validation AUROC", ("val", "auroc")),
    Column("val_balanced_accuracy", "validation balanced accuracy at 0.5", ("val", "at_half", "balanced_accuracy")),
)
SHORT = (
    "auroc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "balanced_accuracy_val_threshold",
    "val_auroc",
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


def paired_differences(
    rows: list[Row], path: Sequence[str] = ("test", "auroc"), against: str = "baseline"
) -> list[dict[str, Any]]:
    """Differences to one regime, seed by seed: mean, SD and the number of pairs. Descriptive: no interval, no test."""
    reference = values(rows, against, path)
    found = []
    for regime in regimes_in(rows):
        own = values(rows, regime, path)
        pairs = sorted(own.keys() & reference.keys())
        if regime != against and pairs:
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


def markdown_table(entries: list[dict[str, Any]], keys: Sequence[str]) -> str:
    """Regimes down, figures across."""
    titles = {c.key: c.title for c in COLUMNS}
    head = ["regime", f"train {' + '.join(CLASSES)}", *(titles[k] for k in keys)]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * len(keys)]
    for e in entries:
        train = " + ".join(str(e["n_train"][c]) for c in CLASSES)
        lines.append("| " + " | ".join([e["regime"], train, *(cell(e[k]) for k in keys)]) + " |")
    return "\n".join(lines)


def text_table(entries: list[dict[str, Any]]) -> str:
    """The short table, aligned for a terminal."""
    titles = ("AUROC", "acc @.5", "bal.acc @.5", "sens @.5", "spec @.5", "bal.acc @val", "val AUROC")
    table = [["regime", "train N+P", *titles]]
    for e in entries:
        table.append([e["regime"], "+".join(str(e["n_train"][c]) for c in CLASSES), *(cell(e[k]) for k in SHORT)])
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
        "@.5: threshold 0.5; @val: threshold chosen on validation. Test was opened once per trial, after training, "
        "selection and threshold were fixed."
    )


def differences_text(rows: list[Row]) -> str:
    """The paired AUROC differences, one a line."""
    lines = []
    for against in ("baseline", "augment"):
        for d in paired_differences(rows, against=against):
            if against == "baseline" or d["regime"] == "combined":
                sd = "n/a" if d["sd"] is None else f"{d['sd']:.3f}"
                lines.append(
                    f"{d['regime']} - {against}: {d['mean']:+.3f} AUROC, SD of the paired differences {sd}, {d['pairs']} pair(s)"
                )
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
