"""The page of a simulated federation: the answer, the differences, the sites, and all that left a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from balancer.core.files import JsonObject, write_text
from balancer.core.run import RunDir
from balancer.core.sealed import write_json
from balancer.reporting.document import Document, Figure, Section, Table, csv_text, part_notes, to_markdown
from balancer.reporting.links import documentation
from balancer.reporting.numbers import DASH, p_value, plural, short
from balancer.reporting.pages import to_html
from balancer.reporting.plots import save_figure
from classifier.analysis.verdicts import over_seeds, short_margin
from classifier.experiments.study import computing_notes
from classifier.federation import figures
from classifier.federation.algorithms import ALGORITHMS
from classifier.federation.comparison import ArmSummary, Comparison, difference
from classifier.federation.flower import REFUSAL
from classifier.federation.messages import ARRAYS, COUNTS, REFUSALS
from classifier.federation.simulation import ALONE, Finished, Simulation
from classifier.report.page import PICTURES
from classifier.report.tables import cell, layout_of

SHOWN = ("auroc", "balanced_accuracy_val_threshold", "sensitivity_val_threshold", "specificity_val_threshold")
SHOWN_OF_SEVERAL = ("auroc", "balanced_accuracy", "accuracy")
WHY = f"0, or a number from 1 to {max(REFUSALS)}: why the site refuses what the server asks"
GAN = "The GAN and its images are not part of a federation: a federated GAN is out of scope."


@dataclass(frozen=True)
class FederationResult:
    """A finished simulation and its page."""

    comparison: Comparison
    sites: list[dict[str, object]]  # name, and images and patients of each fold
    notes: list[str]
    table: str
    page: Path

    def to_json(self) -> JsonObject:
        """Return the content of federation.json."""
        return {**self.comparison.to_json(), "sites": self.sites, "notes": self.notes}

    def describe(self) -> str:
        """Return the answer, the table and the reasons, for a terminal."""
        return "\n".join(
            [self.comparison.verdict, "", self.table, "", *self.comparison.headline, "", *self.notes]
        ).rstrip()


def write_federation(
    comparison: Comparison, simulation: Simulation, finished: Finished, run: RunDir
) -> FederationResult:
    """Write federation.json, table.csv, report.md and report.html with its figures."""
    data = simulation.study.data
    trials = finished.trials
    notes = [*data.notes, *finished.notes, *comparison.notes, *computing_notes(trials)]
    sites = _sites(simulation)
    table = _arm_table(comparison, data.classes)
    result = FederationResult(comparison, sites, notes, table.to_text(), run / "report.html")
    warnings, caveats = part_notes(notes)
    (run / PICTURES).mkdir(exist_ok=True)
    drawn = {"sites": figures.by_site(comparison), "differences": figures.differences(comparison)}
    pictures = {name: save_figure(figure, run / PICTURES, name) for name, figure in drawn.items()}
    document = Document(
        f"Training together without pooling: {plural(len(sites), 'site')} of {Path(data.source).name}",
        warnings,
        comparison.verdict,
        comparison.headline,
        _sections(comparison, simulation, table, finished),
        links=documentation("federated", "statistics"),
        caveats=caveats,
    )
    write_text(run / "report.md", to_markdown(document, PICTURES))
    write_text(run / "report.html", to_html(document, pictures, {n: f"{PICTURES}/{n}.svg" for n in pictures}))
    write_text(run / "table.csv", _csv(comparison))
    write_json(run / "federation.json", result.to_json())
    run.tracker.figures({f"{a.arm}.auroc": a.metrics["auroc"].mean for a in comparison.arms if a.metrics})
    run.tracker.text("verdict", comparison.verdict)
    return result


def _sections(comparison: Comparison, simulation: Simulation, table: Table, finished: Finished) -> list[Section]:
    config, name = simulation.config, comparison.endpoint
    seeds = min(arm.trial_seeds for arm in comparison.arms if arm.metrics)
    test = ", ".join(f"{n:,} {cls}" for cls, n in comparison.test_counts.items())
    steps = (
        f"Every way of training makes {config.steps:,} optimiser steps of {config.batch_size} images: a federation"
        f" makes them in {config.rounds} rounds at every site, a site alone and pooled data in one go."
    )
    return [
        Section(
            "Test metrics",
            [
                f"{_capital(over_seeds(seeds))}; in brackets 95 % intervals over test patients and trial seeds. All"
                f" are measured on one test set ({test}), which no site sees. The figures of {ALONE} and of each"
                " algorithm are means over the sites, each with the threshold that its own validation gives.",
                steps,
            ],
            table,
            Figure(
                "sites", "Diamonds: the mean over trial seeds at each site.", f"Test {name} of each way of training"
            ),
        ),
        Section(
            "Differences",
            [
                f"Differences in test {name}, paired by trial seed and by resample of test patients. Holm's correction"
                f" is over the {len(comparison.planned)} planned tests. Margin: ±{short_margin()}, below which a"
                " difference is of no use."
            ],
            _contrast_table(comparison),
            Figure("differences", "Blue: planned. Grey: exploratory.", f"Differences in test {name}"),
        ),
        Section(
            "What each site gains",
            [
                f"Test {name} of each site alone, and how far each other way of training lies from it. All are measured"
                " on the same test set, not on patients of the site. These differences are exploratory: no p-value is"
                " corrected for their number."
            ],
            _gains_table(comparison),
        ),
        Section("The sites", [_split(simulation)], _site_table(simulation)),
        Section("The algorithms", bullets=_algorithms(simulation)),
        Section(
            "What left the sites",
            [
                "Weights and counts, and nothing else. The list is complete: a site refuses to send anything that is"
                f" not on the list. {_traffic(finished)}"
            ],
            Table(["what", "it is"], [[f"`{k}`", v] for k, v in {**ARRAYS, **COUNTS, REFUSAL: WHY}.items()], numeric=2),
        ),
        Section(
            "Limits", bullets=[GAN, "Weights are not anonymous: they can tell of single images (docs/federated.md)."]
        ),
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _arm_table(comparison: Comparison, classes: tuple[str, ...]) -> Table:
    columns = layout_of(classes).columns
    shown = [key for key in (SHOWN if len(classes) == 2 else SHOWN_OF_SEVERAL) if key in columns]
    rows = [
        [arm.arm, *(cell(arm.metrics[key]) if key in arm.metrics else DASH for key in shown)] for arm in comparison.arms
    ]
    return Table(["training", *(columns[key].title for key in shown)], rows)


def _contrast_table(comparison: Comparison) -> Table:
    rows = [
        [
            c.name,
            difference(c),
            p_value(c.p),
            p_value(c.p_holm) if c.contrast.is_adjusted else DASH,
            short(c.mde) if c.mde is not None else DASH,
            c.verdict,
        ]
        for c in comparison.contrasts
    ]
    return Table(["difference", "estimate, 95 % interval", "p", "Holm p", "detectable", "verdict"], rows, words=True)


def _gains_table(comparison: Comparison) -> Table:
    alone = {site: s for arm in comparison.arms if arm.arm == ALONE for site, s in arm.by_site.items()}
    others = [arm.arm for arm in comparison.arms if arm.arm != ALONE]
    rows = []
    for site, contrasts in comparison.at_sites.items():
        gains = {c.name: difference(c) for c in contrasts}
        found = (gains.get(f"{name} - {ALONE} at site {site}", DASH) for name in others)
        rows.append([f"site {site}", cell(alone[site]) if site in alone else DASH, *found])
    return Table(["", ALONE, *(f"{name} - {ALONE}" for name in others)], rows)


def _split(simulation: Simulation) -> str:
    config = simulation.config
    if config.simulate == "source":
        return "The training and the validation fold are split by the source of the images, whole patients together."
    return (
        f"The training and the validation fold are split with label skew: shares of the classes from Dirichlet"
        f" ({config.alpha:g} p), whole patients together (Hsu et al. 2019, arXiv:1909.06335)."
    )


def _sites(simulation: Simulation) -> list[dict[str, object]]:
    """Return the name of each site, with its images of each class and its patients, by fold."""
    rows: list[dict[str, object]] = []
    for site, name in enumerate(simulation.partition.names):
        data = simulation.partition.data_of(simulation.study.data, site)
        row: dict[str, object] = {"site": site, "name": name}
        for fold in ("train", "val"):
            row[fold] = dict(zip(data.classes, data.counts(fold), strict=True))
            row[f"{fold}_patients"] = len({data.groups[i] for i in data.indices(fold)})
        rows.append(row)
    return rows


def _site_table(simulation: Simulation) -> Table:
    data, partition = simulation.study.data, simulation.partition
    rows = []
    for site, name in enumerate(partition.names):
        mine = partition.data_of(data, site)
        patients = len({data.groups[i] for i in mine.indices("train")})
        counts = [f"{n:,}" for fold in ("train", "val") for n in mine.counts(fold)]
        rows.append([f"{site}: {name}", f"{patients:,}", *counts])
    header = [f"{fold} {cls}" for fold in ("training", "validation") for cls in data.classes]
    return Table(["site", "weight: training patients", *header], rows)


def _algorithms(simulation: Simulation) -> list[str]:
    mu = simulation.config.mu
    return [
        f"{name}: {ALGORITHMS[name].source}{f', mu = {mu:g}' if ALGORITHMS[name].proximal else ''}."
        for name in dict.fromkeys(a.name for a in simulation.algorithms)
    ]


def _traffic(finished: Finished) -> str:
    if not finished.outcomes:
        return "No federation was trained by this command, which found all trials."
    rounds = sum(len(outcome.rounds) for outcome in finished.outcomes)
    return f"In {plural(rounds, 'round')} the sites sent {finished.received / 1e6:,.1f} MB in all."


def _csv(comparison: Comparison) -> str:
    keys = list(comparison.arms[0].metrics)
    header = ["training", "trial_seeds", *(f"{key}_{part}" for key in keys for part in ("mean", "sd", "low", "high"))]
    rows = [[arm.arm, arm.trial_seeds, *_values(arm, keys)] for arm in comparison.arms]
    return csv_text(header, rows)


def _values(arm: ArmSummary, keys: Sequence[str]) -> list[float | None]:
    summaries = (arm.metrics.get(key) for key in keys)
    return [v for s in summaries for v in ((None,) * 4 if s is None else (s.mean, s.sd, s.low, s.high))]
