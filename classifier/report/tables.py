"""The tables of an ablation, for a terminal, Markdown, HTML, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from balancer.core.files import JsonObject
from balancer.data.chest import is_chest
from balancer.reporting.document import Table, csv_text
from balancer.reporting.numbers import DASH, bounds, mean_sd, p_value, plural, short, signed
from classifier.analysis.analyse import Analysis, endpoint_of
from classifier.analysis.contrasts import ContrastResult
from classifier.analysis.results import MetricSummary, StudyResults, summarise_seeds
from classifier.analysis.shortcuts import MeterResult
from classifier.analysis.statistics import FEWEST_GAN_SEEDS
from classifier.analysis.verdicts import over_seeds
from classifier.evaluation.metrics import DECISION, MULTICLASS_DECISION, of_class
from classifier.report.meter import meter_columns

AUROC = "test.auroc"


@dataclass(frozen=True)
class Column:
    """A metric that the tables show."""

    key: str  # in table.csv and table.json
    title: str
    path: str  # in a TrialResult
    short: str = ""  # title in the table for a terminal, which leaves the column out if empty


@dataclass(frozen=True)
class Layout:
    """The columns of the tables."""

    columns: dict[str, Column]  # by key, in the order of table.csv
    blocks: dict[str, tuple[Column, ...]]  # the same by the title of their table
    printed: dict[str, str]  # columns of table.tex by their key, which must fit the width of a page; with titles
    printed_note: str  # on the columns of table.tex
    reading: str  # what a reader must know of the columns


def _decisions(suffix: str, at: str, words: str, short: dict[str, str]) -> tuple[Column, ...]:
    """Return the decision metrics at one threshold."""
    titles = {"f1": "F1"}
    return tuple(
        Column(m + suffix, f"{titles.get(m, m.replace('_', ' '))} {words}", f"test.{at}.{m}", short.get(m, ""))
        for m in DECISION
    )


_OVERALL = (
    Column("auroc", "AUROC", AUROC, "AUROC"),
    Column("auprc", "AUPRC", "test.auprc"),
    Column("val_auroc", "validation AUROC", "val.auroc", "val AUROC"),
    Column("val_balanced_accuracy", "validation balanced accuracy @.5", "val.at_half.balanced_accuracy"),
    Column("brier", "Brier", "test.brier"),
    Column("ece", "ECE", "test.ece"),
    Column("nll", "NLL", "test.nll"),
)
_AT_HALF = _decisions("", "at_half", "@.5", {"accuracy": "acc @.5"})
_AT_THRESHOLD = _decisions(
    "_val_threshold",
    "at_threshold",
    "@val",
    {"sensitivity": "sens @val", "specificity": "spec @val", "balanced_accuracy": "bal.acc @val"},
)
_CHOSEN = Column("threshold", "threshold", "test.threshold")  # on the calibrated probability
COLUMNS = {column.key: column for column in (*_OVERALL, *_AT_HALF, *_AT_THRESHOLD, _CHOSEN)}  # of two classes
TWO_CLASSES = Layout(
    COLUMNS,
    {
        "Ranking and calibration": _OVERALL,
        "Decisions at the threshold chosen on validation": (_CHOSEN, *_AT_THRESHOLD),
        "Decisions at .5": _AT_HALF,
    },
    {
        "val_auroc": "val. AUROC",
        "auroc": "test AUROC [95 %]",
        "sensitivity_val_threshold": "sensitivity",
        "specificity_val_threshold": "specificity",
    },
    "Sensitivity and specificity are at the threshold chosen on validation.",
    "@val: at the threshold chosen on validation; @.5: at .5. Regimes differ in class prior, which by itself moves "
    "every metric @.5 and Brier, ECE and NLL. So compare AUROC, and metrics @val. Thresholds are on the calibrated "
    "probability, as `classifier predict` takes them.",
)


@lru_cache(maxsize=8)
def layout_of(classes: tuple[str, ...]) -> Layout:
    """Return the columns for these classes."""
    if len(classes) == 2:
        return TWO_CLASSES
    endpoint = endpoint_of(classes)
    pneumonia = (Column("auroc_pneumonia", "AUROC, any pneumonia", "test.auroc_pneumonia"),)
    overall = (
        Column("auroc", endpoint, AUROC, endpoint),
        Column("auprc", "macro AUPRC", "test.auprc"),
        *(pneumonia if is_chest(classes) else ()),
        Column("val_auroc", f"validation {endpoint}", "val.auroc", f"val {endpoint}"),
        Column("val_balanced_accuracy", "validation balanced accuracy", "val.most_likely.balanced_accuracy"),
        *_OVERALL[-3:],
    )
    titles, short = {"f1": "macro F1"}, {"accuracy": "accuracy", "balanced_accuracy": "bal.acc"}
    decisions = tuple(
        Column(m, titles.get(m, m.replace("_", " ")), f"test.most_likely.{m}", short.get(m, ""))
        for m in MULTICLASS_DECISION
    )
    by_class = {
        (metric, words): tuple(
            Column(of_class(metric, name), f"{words} of {name}", f"test.{path}.{k}") for k, name in enumerate(classes)
        )
        for metric, words, path in (
            ("auroc", "AUROC", "auroc_of_class"),
            ("recall", "recall", "most_likely.sensitivity"),
        )
    }
    blocks = {
        "Ranking and calibration": overall,
        "Each class against the rest": by_class["auroc", "AUROC"],
        "Decisions for the most likely class": (*decisions, *by_class["recall", "recall"]),
    }
    return Layout(
        {column.key: column for block in blocks.values() for column in block},
        blocks,
        {
            "val_auroc": f"val. {endpoint}",
            "auroc": f"test {endpoint} [95 %]",
            "balanced_accuracy": "balanced accuracy",
            "f1": "macro F1",
        },
        "Macro: each class against the rest, averaged over classes. Decisions are for the most likely class.",
        "Macro: each class against the rest, averaged over classes. Decisions are for the most likely class, and the "
        "recall of a class is the share of its images that are called so. Regimes differ in class prior, which by "
        f"itself moves decisions and Brier, ECE and NLL. So compare {endpoint}.",
    )


FAMILIES = {
    "confirmatory": "Confirmatory, Holm-adjusted",
    "shortcut": "Where being synthetic tells little of the class, Holm-adjusted by itself",
    "factorial": "2 x 2 design: main effects and interaction",
    "exploratory": "Exploratory, unadjusted",
    "check": "Checks of the study itself",
    "dose": "Other doses, exploratory",
}


@dataclass(frozen=True)
class RegimeRow:
    """A regime's row of the tables."""

    regime: str
    seeds: int
    synthetic_sets: int
    n_train: dict[str, int]  # images by class
    added: int  # synthetic images or duplicates
    passes_over_real: float
    n_val: int  # images
    n_test: int  # images
    metrics: dict[str, MetricSummary]  # by the keys of the layout's columns; validation metrics have no interval

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(self.n_train)

    @property
    def layout(self) -> Layout:
        """Return the columns of the tables."""
        return layout_of(self.classes)

    def to_json(self) -> JsonObject:
        """Return the row as it stands in ``table.json``."""
        row = asdict(self)
        return row | row.pop("metrics")


def regime_rows(results: StudyResults, analysis: Analysis) -> list[RegimeRow]:
    """Return a row per regime of the study proper: mean and SD over trial seeds, with the interval of the analysis."""
    rows = []
    for regime in results.regimes:
        first = results.arms[regime][0]
        metrics = {}
        for key, column in layout_of(results.classes).columns.items():
            summary = summarise_seeds(list(results.values(regime, column.path).values()))
            interval = analysis.metric(regime, key) or summary
            metrics[key] = MetricSummary(summary.mean, summary.sd, interval.low, interval.high)
        seeds, sets, passes = len(results.values(regime, AUROC)), len(results.sets(regime)), first.passes_over_real
        rows.append(
            RegimeRow(regime, seeds, sets, first.n_train, first.added, passes, first.val.n, first.test.n, metrics)
        )
    return rows


def cell(summary: MetricSummary, gap: str = " ") -> str:
    """Return ``.934 ± .012 [.910, .950]`` or, if there is no interval, ``.934 ± .012``; ``gap`` parts the two."""
    text = mean_sd(summary.mean, summary.sd)
    return f"{text}{gap}{bounds(*summary.interval)}" if summary.interval else text


def regime_table(rows: Sequence[RegimeRow], columns: Sequence[Column]) -> Table:
    """Return the regimes down and metrics across, each with its interval below it."""
    cells = [[row.regime, *(cell(row.metrics[c.key], "\n") for c in columns)] for row in rows]
    return Table(["regime", *(c.title for c in columns)], cells)


def training_table(rows: Sequence[RegimeRow]) -> Table:
    """Return what each regime was trained on."""
    classes = rows[0].classes
    header = ["regime", *(f"train {c}" for c in classes), "added", "passes over real images", "trial seeds", "sets"]
    cells = [
        [
            row.regime,
            *(str(row.n_train[c]) for c in classes),
            str(row.added),
            f"{row.passes_over_real:.1f}",
            str(row.seeds),
            str(row.synthetic_sets or DASH),
        ]
        for row in rows
    ]
    return Table(header, cells)


def calibration_table(results: StudyResults, arms: Sequence[str]) -> Table:
    """Return the temperature, and ECE and NLL on test before and after the temperature, averaged over trials."""
    paths = ("temperature", "uncalibrated.ece", "ece", "uncalibrated.nll", "nll")
    cells = []
    for name in arms:
        temperature, *errors = (
            summarise_seeds(list(results.values(name, f"test.{path}").values())).mean for path in paths
        )
        cells.append([name, f"{temperature:.2f}", *map(short, errors)])
    return Table(["regime", "temperature", "ECE before", "ECE after", "NLL before", "NLL after"], cells)


def contrast_table(analysis: Analysis) -> Table:
    """Return every contrast, family by family."""
    difference = f"difference in test {endpoint_of(analysis.classes)}"
    header = ["family", difference, "estimate", "95 % interval", "p", "Holm p", "detectable", "verdict"]
    cells = [[c.contrast.family, c.name, *_cells(c)] for c in by_family(analysis)]
    return Table(header, cells, numeric=2, words=True)


def _cells(c: ContrastResult) -> list[str]:
    """Return estimate, interval, p, Holm p, detectable effect and verdict."""
    e = c.estimate
    return [signed(e.value), bounds(e.low, e.high), p_value(c.p), p_value(c.p_holm), short(c.mde), c.verdict]


def by_family(analysis: Analysis) -> list[ContrastResult]:
    """Return the contrasts in the order of :data:`FAMILIES`."""
    return [c for family in FAMILIES for c in analysis.contrasts if c.contrast.family == family]


def text_table(rows: Sequence[RegimeRow]) -> str:
    """Return the short table for a terminal; the first metric with its 95 % interval."""
    classes, columns = rows[0].classes, [c for c in rows[0].layout.columns.values() if c.short]
    cells = []
    for row in rows:
        metrics = [mean_sd(m.mean, m.sd) for m in (row.metrics[c.key] for c in columns)]
        metrics[0] = cell(row.metrics[columns[0].key])
        n_train = "+".join(str(row.n_train[c]) for c in classes)
        cells.append([row.regime, n_train, f"{row.passes_over_real:.1f}", *metrics])
    initials = [name[:1].upper() for name in classes]
    train = "train " + ("+".join(initials) if len(set(initials)) == len(classes) else "images")
    return Table(["regime", train, "passes", *(c.short for c in columns)], cells).to_text()


def counts(analysis: Analysis) -> str:
    """Return ``test n = 624 images of 468 patients; 5 trial seeds; 3 synthetic sets``."""
    seeds, sets = len(analysis.trial_seeds), analysis.gan_seeds
    of = "" if analysis.n_patients is None else f" of {plural(analysis.n_patients, 'patient')}"
    text = f"test n = {plural(analysis.n_test, 'image')}{of}; {plural(seeds, 'trial seed')}"
    return text + (f"; {plural(sets, 'synthetic set')}" if sets else "")


def basis(rows: Sequence[RegimeRow], analysis: Analysis) -> str:
    """Return how many images, patients and trials a table rests on, and what its SDs and intervals are over."""
    seeds = len(analysis.trial_seeds)
    several = seeds > 1
    spread = over_seeds(seeds)
    spread = spread[0].upper() + spread[1:]
    over = f"{analysis.unit}s and trial seeds" if several else f"{analysis.unit}s"
    if several and analysis.gan_seeds >= FEWEST_GAN_SEEDS:
        over = f"{analysis.unit}s, trial seeds and GAN seeds"
    sizes = counts(analysis)
    return (
        f"{sizes[0].upper()}{sizes[1:]}; validation n = {rows[0].n_val}. {spread}; in brackets 95 % intervals over "
        f"{over}. Each trial opened the test set once, after training, selection, temperature and threshold were "
        "fixed."
    )


def caption(rows: Sequence[RegimeRow], analysis: Analysis) -> str:
    """Return what a reader must know to read the tables."""
    return f"{basis(rows, analysis)} {rows[0].layout.reading}"


def csv_table(rows: Sequence[RegimeRow], meter: Sequence[MeterResult] = ()) -> str:
    """Return everything as CSV, one row per regime; a cell is empty if a metric has no SD or no interval.

    What the shortcut meter measured stands in the last columns.
    """
    parts = ("mean", "sd", "low", "high")
    classes, keys = rows[0].classes, list(rows[0].layout.columns)
    header = ["regime", "seeds", "synthetic_sets", *(f"train_{c}" for c in classes)]
    header += ["added", "passes_over_real", "n_val", "n_test", *(f"{key}_{part}" for key in keys for part in parts)]
    cells: list[list[str | float | int | None]] = [
        [
            row.regime,
            row.seeds,
            row.synthetic_sets,
            *(row.n_train[c] for c in classes),
            row.added,
            row.passes_over_real,
            row.n_val,
            row.n_test,
            *(getattr(row.metrics[key], part) for key in keys for part in parts),
            *meter_columns(meter, row.regime).values(),
        ]
        for row in rows
    ]
    return csv_text([*header, *meter_columns(meter, rows[0].regime)], cells)


def latex_tables(rows: Sequence[RegimeRow], analysis: Analysis) -> str:
    r"""Return ``table.tex``: the regimes and the confirmatory differences, to ``\input`` with the package booktabs."""
    metrics, layout = [], rows[0].layout
    for row in rows:
        printed = {key: mean_sd(row.metrics[key].mean, row.metrics[key].sd) for key in layout.printed}
        metrics.append([row.regime, *(printed | {"auroc": cell(row.metrics["auroc"])}).values()])
    regimes = Table(["regime", *layout.printed.values()], metrics).to_latex(
        f"Regimes compared. {basis(rows, analysis)} {layout.printed_note}", "regimes"
    )
    confirmatory = {c.name: _cells(c) for c in analysis.contrasts if c.contrast.is_confirmatory}
    differences = [
        [name, f"{estimate} {interval}", *rest] for name, (estimate, interval, *rest) in confirmatory.items()
    ]
    if not differences:
        return regimes
    header = ["difference", "estimate [95 %]", "p", "Holm p", "detectable", "verdict"]
    caption = (
        f"Confirmatory differences in test {endpoint_of(analysis.classes)} with 95 % intervals; {counts(analysis)}. "
        "Detectable: the difference that such a study finds in 80 % of cases."
    )
    return regimes + Table(header, differences).to_latex(caption, "differences")
