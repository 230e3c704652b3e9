"""`classifier components`: what each part of a system brings, by training it again with that part alone turned off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from balancer.core.config import validate
from balancer.core.files import write_json, write_text
from balancer.core.run import RunDir
from balancer.core.settings import AblateConfig, ComponentsConfig
from balancer.metrics.resampling import RESAMPLES
from balancer.reporting.document import aligned, csv_text
from balancer.reporting.numbers import bounds, plural, signed
from classifier.analysis.analyse import ResampledStudy
from classifier.analysis.results import SAME_SPLIT, MetricSummary, StudyResults, TrialResult
from classifier.analysis.statistics import Estimate
from classifier.experiments.jobs import Workers
from classifier.experiments.study import code_notes
from classifier.experiments.substudies import Substudy, check_same_data, resume_note_of, run_substudy
from classifier.models import OWN_MODELS
from classifier.report import tables
from classifier.training.regimes import REGIMES

Entry = dict[str, Any]
FULL = "full"
METRICS = (
    "auroc",
    "balanced_accuracy_val_threshold",
    "accuracy_val_threshold",
    "sensitivity_val_threshold",
    "specificity_val_threshold",
)


@dataclass(frozen=True)
class Switch:
    """A part of a system that can be turned off by itself."""

    name: str
    there: Callable[[ComponentsConfig], bool]  # whether the system has it
    off: Callable[[ComponentsConfig], dict[str, Any]]  # the settings without it
    lacking: str  # why it does not apply, where the system does not have it
    retrain: bool = True  # False: read off the predictions of the full system
    note: str = ""  # what else changes with it


def _regime_without(config: ComponentsConfig, **switches: bool) -> str:
    """The regime that differs in nothing but these switches; the regime itself where it has them so."""
    wanted = replace(REGIMES[config.regime], **switches)  # type: ignore[arg-type]  # the other fields are no switches
    return next(name for name, regime in REGIMES.items() if replace(wanted, name=name, group=regime.group) == regime)


def _from_scratch(config: ComponentsConfig) -> dict[str, Any]:
    """Random weights, all of which learn: a system may freeze what it transfers, but layers frozen at random values would
    tell what random features are worth. What the input is normalised to follows the weights: it must not change with them.
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
        note="all layers learn in every stage, since layers frozen at random values would tell nothing of transfer",
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
    """What each part of a system brings."""

    entries: list[Entry]
    left_out: dict[str, str]  # why, by the name of the switch
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the entries and what is left out."""
        return {"entries": self.entries, "left_out": self.left_out}

    def describe(self) -> str:
        """Return the table for a terminal."""
        return self.text


def components(config: ComponentsConfig, run: RunDir, workers: Workers) -> Components:
    """Train the full system and each one without a part; write ``table.{md,csv,json}``.

    Raises:
        BalancerError: the data, weights or synthetic images cannot be had, or a trial failed.
        Interrupted: a signal came; finished trials are kept.
    """
    with resume_note_of(run.path):
        parts = {
            name: run_substudy(run / folder_of(name), variant.model_copy, workers, with_report=False)
            for name, variant in variants_of(config).items()
        }
    entries = compare(config, parts)
    return Components(entries, left_out(config), write_outputs(config, entries, parts, run))


def variants_of(config: ComponentsConfig) -> dict[str, AblateConfig]:
    """The full system and, for each switch that needs a training, the system without it: ablations of one regime."""
    off = {s.name: s.off(config) for s in SWITCHES if s.retrain and s.there(config)}
    return {name: _study_settings(config, change) for name, change in {FULL: {}, **off}.items()}


def _study_settings(config: ComponentsConfig, change: dict[str, Any]) -> AblateConfig:
    values = {**config.model_dump(mode="json"), **change}
    values["regimes"] = [values.pop("regime")]
    return validate(AblateConfig, values)


def folder_of(name: str) -> str:
    """``without-batch-norm``; the full system is ``full``."""
    return name if name == FULL else f"without-{name.replace(' ', '-')}"


def left_out(config: ComponentsConfig) -> dict[str, str]:
    """The switches that do not apply, and why."""
    return {s.name: s.lacking for s in SWITCHES if not s.there(config)}


def compare(config: ComponentsConfig, parts: dict[str, Substudy]) -> list[Entry]:
    """Per variant its figures and, beside them, how much better the full system is, seed by seed.

    Differences are paired: the same trial seed on both sides, and the same resamples of test patients.

    Raises:
        BalancerError: the variants were not trained on the same data and split.
    """
    check_same_data(list(parts.values()), SAME_SPLIT)
    arms = {name: part.results.trials for name, part in parts.items()}
    for switch in (s for s in SWITCHES if not s.retrain and s.there(config)):
        arms[switch.name] = [_at_half(trial) for trial in arms[FULL]]
    study = ResampledStudy(StudyResults(arms, parts[FULL].results.patients), RESAMPLES, config.seed)
    return [_entry(name, study) for name in arms]


def _at_half(trial: TrialResult) -> TrialResult:
    """Return the trial with the threshold 0.5 in its predictions."""
    predictions = {fold: replace(p, threshold=0.5) for fold, p in trial.predictions.items()}
    return replace(trial, predictions=predictions)


def _entry(name: str, study: ResampledStudy) -> Entry:
    entry: Entry = {"variant": name, "figures": {}, "full_minus_this": {}}
    for metric in METRICS:
        summary = study.summary(name, metric)
        assert summary is not None, "every variant has all trial seeds"
        entry["figures"][metric] = asdict(summary)
        entry["trial_seeds"] = len(study.results.cells(name))
        if name != FULL:
            entry["full_minus_this"][metric] = _difference(study.estimate({FULL: 1.0, name: -1.0}, metric))
    return entry


def _difference(estimate: Estimate | None) -> dict[str, Any]:
    """The paired difference; with one seed it has no p, since nothing shows how seeds scatter."""
    assert estimate is not None, "every variant has the full system's trial seeds"
    e = estimate
    return {"value": e.value, "low": e.low, "high": e.high, "p": e.p if e.n_trial_seeds > 1 else None}


def write_outputs(config: ComponentsConfig, entries: list[Entry], parts: dict[str, Substudy], run: RunDir) -> str:
    """``table.md``, ``table.csv`` and ``table.json``; returns what the command prints."""
    titles = [tables.COLUMNS[metric].title for metric in METRICS]
    header = ["without", *titles, *(f"full − this: {title}" for title in titles[:2])]
    cells = [_cells(entry) for entry in entries]
    notes = _notes(config, entries, parts)
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells)]
    write_text(run / "table.md", "\n".join(["# What each part brings", "", *lines, "", *(f"- {n}" for n in notes), ""]))
    write_text(run / "table.csv", _csv(entries))
    write_json(run / "table.json", {"entries": entries, "left_out": left_out(config), "notes": notes})
    return "\n".join([aligned(header, cells), "", *notes, str(run / "table.md")])


def _notes(config: ComponentsConfig, entries: list[Entry], parts: dict[str, Substudy]) -> list[str]:
    """What a reader of the table must know."""
    full, seeds = parts[FULL], entries[0]["trial_seeds"]
    n_test, data = full.results.trials[0].test.n, full.env["data"]
    spread = "mean ± SD over trial seeds" if seeds > 1 else "one trial seed: no SD, and no claim can rest on it"
    over = "test patients and trial seeds" if seeds > 1 else "test patients"
    return [
        f"{config.model}, regime {config.regime}, on {data['source']}: test n = {n_test}, {plural(seeds, 'paired trial seed')}; "
        f"{spread}; in brackets 95 % intervals over {over}, unadjusted for the number of parts.",
        "full − this: above 0, the part helps. @val: at the threshold chosen on validation; without threshold: at .5.",
        *(f"Without {s.name}: {s.note}." for s in SWITCHES if s.note and s.there(config)),
        *(f"Left out, {name}: {why}." for name, why in left_out(config).items()),
        *data["notes"],
        *code_notes(trial.code_hash for part in parts.values() for trial in part.results.trials),
    ]


def _cells(entry: Entry) -> list[str]:
    shown = [tables.cell(MetricSummary(**f)) for f in entry["figures"].values()]
    differences = [f"{signed(d['value'])} {bounds(d['low'], d['high'])}" for d in entry["full_minus_this"].values()]
    name = "nothing (full)" if entry["variant"] == FULL else entry["variant"]
    return [name, *shown, *(differences[:2] or ["–", "–"])]


def _csv(entries: list[Entry]) -> str:
    parts = [("figures", ("mean", "sd", "low", "high")), ("full_minus_this", ("value", "low", "high", "p"))]
    columns = [(group, metric, key) for group, keys in parts for metric in METRICS for key in keys]
    rows = [
        [e["variant"], e["trial_seeds"], *(e[group].get(metric, {}).get(key) for group, metric, key in columns)]
        for e in entries
    ]
    return csv_text(["variant", "trial_seeds", *("_".join(c) for c in columns)], rows)
