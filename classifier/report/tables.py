"""Tables of an ablation: pure readers of ``results.jsonl`` and of what :func:`classifier.analysis.contrasts.analyse` made of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from balancer.data.folder import CLASSES
from balancer.reporting.document import aligned, latex, latex_table
from balancer.reporting.numbers import bounds, p_value, plural, short, signed
from classifier.analysis.results import main_rows, mean_sd, regimes_in, sets_of, values
from classifier.analysis.statistics import FEWEST_GAN_SEEDS
from classifier.evaluation.metrics import DECISION

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
    regimes = latex_table(["regime", *PRINTED.values()], figures, first, "regimes")
    return regimes + (latex_table(header, shown, second, "differences") if shown else "")
