"""`classifier components`: what each component of a system brings, by training the system without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from balancer.core.config import validate
from balancer.core.files import JsonObject, write_text
from balancer.core.run import RunDir
from balancer.core.sealed import write_json
from balancer.core.settings import AblateConfig, ComponentsConfig
from balancer.metrics.resampling import RESAMPLES
from balancer.reporting.document import Document, Section, Table, csv_text, part_notes
from balancer.reporting.numbers import DASH, bounds, mean_sd, plural, signed
from balancer.reporting.pages import write_document
from classifier.analysis.analyse import ResampledStudy, was_tested
from classifier.analysis.results import MetricSummary, StudyResults, TrialResult
from classifier.analysis.statistics import FEWEST_TRIAL_SEEDS
from classifier.analysis.verdicts import over_seeds
from classifier.experiments.jobs import Workers
from classifier.experiments.study import computing_notes
from classifier.experiments.substudies import Substudy, check_same_data, resume_note_of, run_substudy
from classifier.models import OWN_MODELS
from classifier.report.tables import COLUMNS
from classifier.training.regimes import REGIMES

FULL = "full"
_DECISIONS = ("balanced_accuracy", "accuracy", "sensitivity", "specificity")
METRICS = ("auroc", *(f"{metric}_val_threshold" for metric in _DECISIONS))


@dataclass(frozen=True)
class Switch:
    """A component of a system that can be turned off by itself."""

    name: str
    applies: Callable[[ComponentsConfig], bool]  # whether the system has the component
    off: Callable[[ComponentsConfig], dict[str, Any]]  # the settings without it
    lacking: str  # why it does not apply, if the system does not have it; empty: nothing is said
    retrain: bool = True  # False: computed from the predictions of the full system
    note: str = ""  # what else changes with it


@dataclass(frozen=True)
class Difference:
    """The full system minus a variant, paired by trial seed and by resample of test patients."""

    value: float
    low: float
    high: float
    p: float | None  # None with one or two seeds, which do not show how seeds scatter


@dataclass(frozen=True)
class VariantResult:
    """The test metrics of the full system or of a variant, by the keys of :data:`METRICS`."""

    variant: str
    figures: dict[str, MetricSummary]
    full_minus_this: dict[str, Difference]  # empty for the full system
    trial_seeds: int


def _regime_without(config: ComponentsConfig, **switches: bool) -> str:
    """Return the regime that differs in these switches alone; the regime itself if it has them so."""
    target = replace(REGIMES[config.regime], **switches)  # type: ignore[arg-type]  # the other fields are no switches
    return next(name for name, regime in REGIMES.items() if replace(target, name=name, group=regime.group) == regime)


def _from_scratch(config: ComponentsConfig) -> dict[str, Any]:
    """Return settings with random weights, all of which learn.

    A system may freeze transferred layers, but layers frozen at random values would only measure random features. The
    input's normalisation follows the weights, so it is fixed here and does not change with them.
    """
    stages = [
        stage.model_dump(mode="json") | ({} if stage.trainable is None else {"trainable": "all"})
        for stage in config.stages
    ]
    return {"weights": "none", "normalisation": config.input_normalisation, "trainable": "all", "stages": stages}


SWITCHES = (
    Switch(
        "class weighting",
        # A weighted regime weighs the classes whatever class_weights is.
        lambda c: c.class_weights != "none" or REGIMES[c.regime].weighted,
        lambda c: {"class_weights": "none", "regime": _regime_without(c, weighted=False)},
        "class_weights is none, and the regime weighs no class",
    ),
    Switch(
        "augmentation",
        lambda c: REGIMES[c.regime].augment,
        lambda c: {"regime": _regime_without(c, augment=False)},
        "the regime does not augment",
    ),
    Switch(
        "batch norm",
        lambda c: c.model in OWN_MODELS and c.batch_norm,
        lambda _: {"batch_norm": False},
        "a torchvision network keeps its own, or batch_norm is off",
    ),
    Switch(
        "transfer",
        lambda c: c.weights != "none",
        _from_scratch,
        "weights is none: nothing is transferred",
        note="all layers learn in every stage, since layers frozen at random values would say nothing about transfer",
    ),
    Switch(
        "self-supervision",
        lambda c: c.pretrain.method != "none",
        lambda _: {"pretrain": {}},
        "",  # the usual case
    ),
    Switch(
        "threshold",
        lambda c: c.threshold != "half",
        lambda _: {"threshold": "half"},
        "the threshold is .5",
        retrain=False,
    ),
)


@dataclass(frozen=True)
class Components:
    """What each component of a system brings."""

    entries: list[VariantResult]
    left_out: dict[str, str]  # why a switch does not apply, by its name
    notes: list[str]
    path: Path

    def to_json(self) -> JsonObject:
        """Return the metrics, and what is left out."""
        return {"entries": [asdict(entry) for entry in self.entries], "left_out": self.left_out}

    def describe(self) -> str:
        """Return the table and the notes, for a terminal."""
        return "\n".join([metric_table(self.entries).to_text(), "", *self.notes])


def components(config: ComponentsConfig, run: RunDir, workers: Workers) -> Components:
    """Train the full system and the system without each component; write ``table.{md,csv,json}``.

    Raises:
        BalancerError: if data, weights or synthetic images are missing, or a trial failed.
        Interrupted: if a signal came; finished trials are kept.
    """
    with resume_note_of(run.path):
        substudies = {
            name: run_substudy(run / folder_of(name), variant.model_copy, workers, with_report=False)
            for name, variant in variants_of(config).items()
        }
    entries = compare(config, substudies)
    result = Components(entries, left_out(config), _notes(config, entries, substudies), run / "table.md")
    system = f"{config.model}, regime {config.regime}, without one component at a time."
    warnings, notes = part_notes(result.notes)
    section = Section("Test metrics", table=metric_table(entries), bullets=notes)
    page = Document("What each component brings", warnings, verdict(entries), headlines(entries), [section], [system])
    write_document(page, run.path, result.path.stem, {})
    write_text(run / "table.csv", _csv(entries))
    write_json(run / "table.json", {**result.to_json(), "notes": result.notes})
    return result


def verdict(entries: Sequence[VariantResult]) -> str:
    """Return which components change the test AUROC, as far as the intervals tell."""
    changes = {e.variant: e.full_minus_this["auroc"] for e in entries if e.full_minus_this}
    scattering = {name: d for name, d in changes.items() if d.low < d.high}  # a threshold changes no AUROC
    if not scattering:
        return "No component of this system could be compared by AUROC."
    seeds = min(entry.trial_seeds for entry in entries)
    if any(d.p is None for d in scattering.values()):
        return f"Not settled: no claim can rest on {plural(seeds, 'trial seed')}, a verdict takes {FEWEST_TRIAL_SEEDS}."
    helping = [name for name, d in scattering.items() if d.low > 0]
    hurting = [name for name, d in scattering.items() if d.high < 0]
    shown = [f"{', '.join(of)} {does}" for of, does in ((helping, "raises"), (hurting, "lowers")) if of]
    if not shown:
        return "No component is shown to change the test AUROC at this n."
    return f"Test AUROC: {'; '.join(shown)} it, by intervals that are not adjusted for their number."


def headlines(entries: Sequence[VariantResult]) -> list[str]:
    """Return for each component what the full system has more of test AUROC than the system without it."""
    changes = [(e.variant, e.full_minus_this["auroc"]) for e in entries if e.full_minus_this]
    return [f"{name}: {signed(d.value)} AUROC {bounds(d.low, d.high)}" for name, d in changes if d.low < d.high]


def variants_of(config: ComponentsConfig) -> dict[str, AblateConfig]:
    """Return the full system and the system without each component that needs a training: ablations of one regime."""
    off = {s.name: s.off(config) for s in SWITCHES if s.retrain and s.applies(config)}
    return {name: _study_settings(config, change) for name, change in {FULL: {}, **off}.items()}


def _study_settings(config: ComponentsConfig, change: dict[str, Any]) -> AblateConfig:
    values = {**config.model_dump(mode="json"), **change}
    values["regimes"] = [values.pop("regime")]
    return validate(AblateConfig, values)


def folder_of(variant: str) -> str:
    """Return the folder of a variant: ``without-batch-norm``, or ``full``."""
    return variant if variant == FULL else f"without-{variant.replace(' ', '-')}"


def left_out(config: ComponentsConfig) -> dict[str, str]:
    """Return the switches that do not apply, and why."""
    return {s.name: s.lacking for s in SWITCHES if s.lacking and not s.applies(config)}


def compare(config: ComponentsConfig, substudies: Mapping[str, Substudy]) -> list[VariantResult]:
    """Return the metrics of each variant, and the difference to the full system.

    Raises:
        BalancerError: if the variants were not trained on the same data and split.
    """
    check_same_data(list(substudies.values()), ("data_fingerprint", "split_hash"))
    full = substudies[FULL].results
    arms = {name: substudy.results.trials for name, substudy in substudies.items()}
    for switch in (s for s in SWITCHES if not s.retrain and s.applies(config)):
        arms[switch.name] = [_at_half(trial) for trial in full.trials]
    study = ResampledStudy(StudyResults(arms, full.patients), RESAMPLES, config.seed)
    return [_result(variant, study, of_the_same_scores=variant not in substudies) for variant in arms]


def _at_half(trial: TrialResult) -> TrialResult:
    """Return the trial with decisions at the threshold .5."""
    return replace(trial, predictions={fold: replace(p, threshold=0.5) for fold, p in trial.predictions.items()})


def _result(variant: str, study: ResampledStudy, of_the_same_scores: bool) -> VariantResult:
    """Return a variant's metrics and differences; a variant ``of_the_same_scores`` decides otherwise, and no more."""
    metrics, differences = {}, {}
    for metric in METRICS:
        summary, difference = study.summary(variant, metric), study.estimate({FULL: 1.0, variant: -1.0}, metric)
        assert summary is not None, "every variant has all trial seeds"
        metrics[metric] = summary
        if variant != FULL:
            assert difference is not None, "every variant has the full system's trial seeds"
            p = difference.p if was_tested(difference) else None
            differences[metric] = Difference(difference.value, difference.low, difference.high, p)
            if of_the_same_scores and metric == "auroc":
                differences[metric] = Difference(0.0, 0.0, 0.0, p)  # no scatter that is unknown: it cannot differ
    return VariantResult(variant, metrics, differences, len(study.results.cells(variant)))


def metric_table(entries: list[VariantResult]) -> Table:
    """Return a row per variant."""
    titles = [COLUMNS[metric].title for metric in METRICS]
    header = ["without", *titles, *(f"full − this: {title}" for title in titles[:2])]
    return Table(header, [_cells(entry) for entry in entries])


def _notes(config: ComponentsConfig, results: list[VariantResult], substudies: Mapping[str, Substudy]) -> list[str]:
    """Return what a reader of the table must know."""
    full, seeds = substudies[FULL].results, results[0].trial_seeds
    spread = over_seeds(seeds)
    over = f"test {full.unit}s" + (" and trial seeds" if seeds > 1 else "")
    return [
        f"{config.model}, regime {config.regime}, on {full.source}: test n = {full.trials[0].test.n}, "
        f"{plural(seeds, 'paired trial seed')}; {spread}; in brackets 95 % intervals over {over}, unadjusted for the "
        "number of components.",
        "full − this: above 0, the component helps. @val: at the threshold chosen on validation; without threshold: at "
        ".5.",
        *(f"Without {s.name}: {s.note}." for s in SWITCHES if s.note and s.applies(config)),
        *(f"Left out, {name}: {why}." for name, why in left_out(config).items()),
        *full.notes,
        *computing_notes(trial for substudy in substudies.values() for trial in substudy.results.trials),
    ]


def _cells(result: VariantResult) -> list[str]:
    metrics = [f"{mean_sd(m.mean, m.sd)} {bounds(m.low or 0.0, m.high or 0.0)}" for m in result.figures.values()]
    differences = [f"{signed(d.value)} {bounds(d.low, d.high)}" for d in result.full_minus_this.values()]
    name = "nothing (full)" if result.variant == FULL else result.variant
    return [name, *metrics, *(differences[:2] or [DASH, DASH])]


def _csv(results: list[VariantResult]) -> str:
    """Return a row per variant; a cell is empty if there is no such value."""
    header = ["variant", "trial_seeds"]
    header += [f"figures_{metric}_{field.name}" for metric in METRICS for field in fields(MetricSummary)]
    header += [f"full_minus_this_{metric}_{field.name}" for metric in METRICS for field in fields(Difference)]
    nothing = [None] * len(fields(Difference))
    rows = [
        [
            r.variant,
            r.trial_seeds,
            *(value for metric in METRICS for value in astuple(r.figures[metric])),
            *(v for m in METRICS for v in (astuple(r.full_minus_this[m]) if r.full_minus_this else nothing)),
        ]
        for r in results
    ]
    return csv_text(header, rows)
