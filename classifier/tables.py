"""Tables of an ablation: pure readers of ``results.jsonl`` and of what :func:`classifier.analysis.analyse` made of it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.data.folder import CLASSES
from classifier.evaluation import DECISION
from classifier.listing import aligned
from classifier.regimes import REGIMES
from classifier.statistics import FEWEST_GAN_SEEDS

Row = dict[str, Any]
Analysis = dict[str, Any]
Cells = tuple[list[str], list[list[str]]]  # the header and the rows; a line break parts a figure from its interval


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


AUROC = ("test", "auroc")
_OVERALL = (
    Column("auroc", "AUROC", AUROC, "AUROC"),
    Column("auprc", "AUPRC", ("test", "auprc")),
    Column("val_auroc", "validation AUROC", ("val", "auroc"), "val AUROC"),
    Column("val_balanced_accuracy", "validation balanced accuracy @.5", ("val", "at_half", "balanced_accuracy")),
    Column("brier", "Brier", ("test", "brier")),
    Column("ece", "ECE", ("test", "ece")),
    Column("nll", "NLL", ("test", "nll")),
)
_AT_HALF = _decisions("", "at_half", "@.5", {"accuracy": "acc @.5"})
_AT_THRESHOLD = _decisions(
    "_val_threshold",
    "at_threshold",
    "@val",
    {"sensitivity": "sens @val", "specificity": "spec @val", "balanced_accuracy": "bal.acc @val"},
)
COLUMNS = (*_OVERALL, *_AT_HALF, *_AT_THRESHOLD)
_BY_KEY = {column.key: column for column in COLUMNS}
BLOCKS = {
    "Ranking and calibration": _OVERALL,
    "Decisions at the threshold chosen on validation": _AT_THRESHOLD,
    "Decisions at .5": _AT_HALF,
}
PRINTED = {  # columns of table.tex, which must fit the width of a page
    "val_auroc": "val.\\ AUROC",
    "auroc": "test AUROC [95\\,\\%]",
    "sensitivity_val_threshold": "sensitivity",
    "specificity_val_threshold": "specificity",
}
FAMILIES = {
    "confirmatory": "Confirmatory, Holm-adjusted",
    "factorial": "2 x 2 design: main effects and interaction",
    "exploratory": "Exploratory, unadjusted",
    "check": "Checks of the study itself",
    "dose": "Other doses, exploratory",
}


def main_rows(rows: Iterable[Row]) -> list[Row]:
    """The trials of the study proper; those with another dose than the deficit belong to the dose-response alone."""
    return [row for row in rows if row.get("dose") in (None, 1.0)]


def regimes_in(rows: Iterable[Row]) -> list[str]:
    """Names of the regimes that have a trial, in the registry's order."""
    present = {row["regime"] for row in rows}
    return [name for name in REGIMES if name in present]


def lookup(row: Row, path: Sequence[str]) -> float:
    """One figure of a trial."""
    value: Any = row
    for part in path:
        value = value[part]
    return float(value)


def values(rows: Iterable[Row], regime: str, path: Sequence[str]) -> dict[int, float]:
    """One figure of a regime by trial seed, averaged over its synthetic sets."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["regime"] == regime:
            found.setdefault(int(row["trial_seed"]), []).append(lookup(row, path))
    return {seed: float(np.mean(of_sets)) for seed, of_sets in found.items()}


def sets_of(rows: Iterable[Row], regime: str) -> list[str]:
    """The synthetic sets that a regime was tried with, none for one that uses none."""
    found = {row.get("synthetic_set") for row in rows if row["regime"] == regime}
    return sorted((name for name in found if name is not None), key=lambda name: (len(name), name))


def mean_sd(sample: Sequence[float]) -> tuple[float, float | None]:
    """Mean and SD over seeds (n - 1); one seed has no SD."""
    return float(np.mean(sample)), float(np.std(sample, ddof=1)) if len(sample) > 1 else None


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """One entry per regime of the study proper: counts, and mean and SD over trial seeds of every column."""
    rows, entries = main_rows(rows), []
    for regime in regimes_in(rows):
        mine = [r for r in rows if r["regime"] == regime]
        entry: dict[str, Any] = {
            "regime": regime,
            "seeds": len(values(mine, regime, AUROC)),
            "synthetic_sets": len(sets_of(mine, regime)),
            "n_train": mine[0]["n_train"],
            "added": mine[0]["added"],
            "passes_over_real": mine[0]["passes_over_real"],
            "n_val": mine[0]["val"]["n"],
            "n_test": mine[0]["test"]["n"],
        }
        for column in COLUMNS:
            mean, sd = mean_sd(list(values(mine, regime, column.path).values()))
            entry[column.key] = {"mean": mean, "sd": sd}
        entries.append(entry)
    return entries


def interval(analysis: Analysis, regime: str, key: str) -> tuple[float, float] | None:
    """The 95 % interval of a regime's figure; None for what has none, as figures of validation."""
    for entry in analysis["regimes"]:
        if entry["regime"] == regime and (found := entry["metrics"].get(key)) and found["low"] is not None:
            return found["low"], found["high"]
    return None


def with_intervals(entries: list[dict[str, Any]], analysis: Analysis) -> list[dict[str, Any]]:
    """The entries with ``low`` and ``high`` beside mean and SD, None where there is no interval."""
    whole = []
    for e in entries:
        bounded = {}
        for column in COLUMNS:
            low, high = interval(analysis, e["regime"], column.key) or (None, None)
            bounded[column.key] = {**e[column.key], "low": low, "high": high}
        whole.append({**e, **bounded})
    return whole


def short(value: float) -> str:
    """``.934``, without a zero before the point."""
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0 makes a rounded -0 a 0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(value: float) -> str:
    """``+.012``, as differences are written."""
    text = short(value)
    return text if text.startswith("-") else f"+{text}"


def bounds(low: float, high: float) -> str:
    """``[.004, .020]``."""
    return f"[{short(low)}, {short(high)}]"


def p_value(p: float | None) -> str:
    """``.03``, ``.004``, ``< .001``; a dash where a test was not made."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.{3 if p < 0.01 else 2}f}".removeprefix("0")


def cell(entry: dict[str, Any]) -> str:
    """``.934 ± .012``; ``n/a`` stands for the SD of a single seed."""
    return f"{short(entry['mean'])} ± {'n/a' if entry['sd'] is None else short(entry['sd'])}"


def regime_table(entries: list[dict[str, Any]], analysis: Analysis, columns: Sequence[Column]) -> Cells:
    """Regimes down, figures across, each with its interval below it."""
    rows = []
    for e in entries:
        cells = [e["regime"]]
        for column in columns:
            found = interval(analysis, e["regime"], column.key)
            cells.append(cell(e[column.key]) + (f"\n{bounds(*found)}" if found else ""))
        rows.append(cells)
    return ["regime", *(c.title for c in columns)], rows


def training_table(entries: list[dict[str, Any]]) -> Cells:
    """What each regime was trained on."""
    header = ["regime", *(f"train {c}" for c in CLASSES), "added", "passes over real images", "trial seeds", "sets"]
    rows = [
        [
            e["regime"],
            *(str(e["n_train"][c]) for c in CLASSES),
            str(e["added"]),
            f"{e['passes_over_real']:.1f}",
            str(e["seeds"]),
            str(e["synthetic_sets"] or "–"),
        ]
        for e in entries
    ]
    return header, rows


def contrast_table(analysis: Analysis) -> Cells:
    """Every difference that was looked at, family by family."""
    header = ["family", "difference in test AUROC", "estimate", "95 % interval", "p", "Holm p", "detectable", "verdict"]
    rows = [
        [
            c["family"],
            c["name"],
            signed(c["estimate"]),
            bounds(c["low"], c["high"]),
            p_value(c["p"]),
            p_value(c["p_holm"]),
            "–" if c["mde"] is None else short(c["mde"]),
            c["verdict"],
        ]
        for c in by_family(analysis)
    ]
    return header, rows


def column(key: str) -> Column:
    """The column of a figure."""
    return _BY_KEY[key]


def by_family(analysis: Analysis) -> list[dict[str, Any]]:
    """The contrasts in the order of :data:`FAMILIES`."""
    return [c for family in FAMILIES for c in analysis["contrasts"] if c["family"] == family]


def text_table(entries: list[dict[str, Any]], analysis: Analysis) -> str:
    """The short table, aligned for a terminal; AUROC with its 95 % interval."""
    columns = [c for c in COLUMNS if c.short]
    rows = []
    for e in entries:
        cells = [cell(e[c.key]) for c in columns]
        if found := interval(analysis, e["regime"], "auroc"):
            cells[0] += f" {bounds(*found)}"
        n_train = "+".join(str(e["n_train"][c]) for c in CLASSES)
        rows.append([e["regime"], n_train, f"{e['passes_over_real']:.1f}", *cells])
    return aligned(["regime", "train N+P", "passes", *(c.short for c in columns)], rows)


def counts(analysis: Analysis) -> str:
    """``test n = 624 images of 468 patients; 5 trial seeds; 3 synthetic sets``: what every figure rests on."""
    seeds, sets = len(analysis["trial_seeds"]), analysis["gan_seeds"]
    text = f"test n = {analysis['n_test']} images of {analysis['n_patients']} patients; {plural(seeds, 'trial seed')}"
    return text + (f"; {plural(sets, 'synthetic set')}" if sets else "")


def plural(n: int, noun: str) -> str:
    """``1 trial seed``, ``3 trial seeds``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def basis(entries: list[dict[str, Any]], analysis: Analysis) -> str:
    """How many images, patients and trials a table rests on, and what its spreads and intervals are over."""
    several = len(analysis["trial_seeds"]) > 1
    spread = "Mean ± SD over trial seeds" if several else "One trial seed: no SD, and no claim can rest on it"
    over = "patients and trial seeds" if several else "patients"
    if several and analysis["gan_seeds"] >= FEWEST_GAN_SEEDS:
        over = "patients, trial seeds and GAN seeds"
    whole = counts(analysis)
    return (
        f"{whole[0].upper()}{whole[1:]}; validation n = {entries[0]['n_val']}. {spread}; in brackets 95 % intervals over {over}. "
        "Test was opened once per trial, after training, selection, temperature and threshold were fixed."
    )


def caption(entries: list[dict[str, Any]], analysis: Analysis) -> str:
    """What a reader must know to read the tables."""
    return (
        f"{basis(entries, analysis)} @val: at the threshold chosen on validation; @.5: at .5. Regimes differ in class prior, which moves "
        "every figure @.5 and Brier, ECE and NLL by itself: compare AUROC, and @val."
    )


def csv_table(entries: list[dict[str, Any]], analysis: Analysis) -> str:
    """Everything, one row per regime; a cell is empty where a figure has no SD or no interval."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fixed = ["regime", "seeds", "synthetic_sets", *(f"train_{c}" for c in CLASSES)]
    plain = ["added", "passes_over_real", "n_val", "n_test"]
    writer.writerow([*fixed, *plain, *(f"{c.key}_{part}" for c in COLUMNS for part in ("mean", "sd", "low", "high"))])
    for e in entries:
        row = [
            e["regime"],
            e["seeds"],
            e["synthetic_sets"],
            *(e["n_train"][c] for c in CLASSES),
            *(e[k] for k in plain),
        ]
        for c in COLUMNS:
            found = interval(analysis, e["regime"], c.key) or (None, None)
            row += ["" if v is None else f"{v:.6f}" for v in (e[c.key]["mean"], e[c.key]["sd"], *found)]
        writer.writerow(row)
    return buffer.getvalue()


def latex_tables(entries: list[dict[str, Any]], analysis: Analysis) -> str:
    """``table.tex``: the regimes and the confirmatory differences, to ``\\input`` where the package booktabs is loaded."""
    figures = []
    for e in entries:
        cells = [e["regime"], *(cell(e[key]) for key in PRINTED)]
        if found := interval(analysis, e["regime"], "auroc"):
            cells[1 + list(PRINTED).index("auroc")] += f" {bounds(*found)}"
        figures.append(cells)
    _, contrasts = contrast_table(analysis)
    # family, name, estimate, interval, p, Holm p, detectable, verdict
    shown = [[c[1], f"{c[2]} {c[3]}", *c[4:]] for c in contrasts if c[0] == "confirmatory"]
    first = (
        f"Regimes compared. {latex(basis(entries, analysis))} Sensitivity and specificity are those at the threshold chosen on "
        "validation."
    )
    second = (
        f"Confirmatory differences in test AUROC with 95\\,\\% intervals; {latex(counts(analysis))}. Detectable: the "
        "difference that such a study finds in 80\\,\\% of cases."
    )
    header = ["difference", "estimate [95\\,\\%]", "$p$", "Holm $p$", "detectable", "verdict"]
    regimes = _latex_table(["regime", *PRINTED.values()], figures, first, "regimes")
    return regimes + (_latex_table(header, shown, second, "differences") if shown else "")


def _latex_table(header: list[str], rows: list[list[str]], text: str, label: str) -> str:
    lines = [
        "\\begin{table}",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}",
        f"\\caption{{{text}}}\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        "\\toprule",
        " & ".join(header) + " \\\\",
        "\\midrule",
        *(" & ".join(latex(c) for c in row) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ]
    return "\n".join(lines)


def latex(text: str) -> str:
    """Plain text for LaTeX: what it would take as a command is escaped, signs become maths."""
    return "".join(_LATEX.get(c, c) for c in re.sub(r"(?<!\w)-", "−", text))  # the hyphens left are within words


_LATEX = {c: f"\\{c}" for c in "_%&#${}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "+": "$+$",
    "−": "$-$",
}
