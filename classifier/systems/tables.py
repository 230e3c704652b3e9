"""Tables of the reproduced systems: the published metrics, the systems' own outputs, and our results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from balancer.core.device import peak_memory_mb, resolve_device
from balancer.core.files import JsonObject
from balancer.reporting.document import Document, Section, Table, csv_text, part_notes
from balancer.reporting.links import documentation
from balancer.reporting.numbers import DASH, bounds, fixed, mean_sd, plural
from classifier.analysis.analyse import analyse
from classifier.analysis.results import MetricSummary
from classifier.analysis.verdicts import too_few_seeds
from classifier.experiments.study import code_notes
from classifier.experiments.substudies import Substudy
from classifier.systems import smoke
from classifier.systems.registry import SHORT, Reported, System

METRICS = {  # keys of the analysis, with their titles
    "accuracy": "acc @.5",
    "accuracy_val_threshold": "acc @val",
    "balanced_accuracy": "bal.acc @.5",
    "balanced_accuracy_val_threshold": "bal.acc @val",
    "auroc": "AUROC",
}
PRINTED = ("accuracy", "accuracy_val_threshold", "balanced_accuracy_val_threshold", "auroc")
METHOD = (
    "Ours: mean ± SD over trial seeds and 95 % interval over the test set (and seeds, if there are several). The split "
    "is by patient where patients are known, and everything was chosen on validation. @val: at the threshold chosen "
    "there; @.5: at .5. Published metrics are of one run each, without an interval, on the images named beside them. A "
    "choice made on the test set makes them too good."
)


@dataclass(frozen=True)
class Entry:
    """A system, and one regime of it. A system that could not be run has one entry, with the error."""

    system: str
    title: str
    regime: str | None = None
    error: str | None = None

    def to_json(self) -> JsonObject:
        """Return the entry of table.json."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RunEntry(Entry):
    """A regime of a system that was run."""

    model: str
    image_size: int
    data: str
    split_hash: str
    data_notes: list[str]
    device: str
    code_hashes: list[str]
    folder: str
    note: str
    steps: list[int]  # different numbers of optimiser steps over the trials
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SmokeEntry(RunEntry):
    """A regime of a smoke run: no metric."""

    peak_mb: int | None  # most memory so far; None where the platform does not tell


@dataclass(frozen=True, kw_only=True)
class ResultEntry(RunEntry):
    """A regime with our results, beside what the system reported."""

    published: Reported | None
    outputs: Reported | None
    ours: dict[str, MetricSummary]  # by the keys of METRICS
    trial_seeds: int
    gan_seeds: int
    n_test: int
    n_patients: int | None  # None where no patient is known
    passes_over_real: float
    threshold: float
    changed: list[str]  # where the run departs from the system's file

    def to_json(self) -> JsonObject:
        """Return the entry of table.json."""
        reported = {"published": self.published, "outputs": self.outputs}
        return {**asdict(self), **{key: value and value.to_json() for key, value in reported.items()}}


def result_entries(system: System, substudy: Substudy, changed: list[str]) -> list[ResultEntry]:
    """Return an entry per regime of a system's study; ``changed`` says where it departs from the system's file."""
    analysis = analyse(substudy.results, seed=substudy.config.seed)
    entries = []
    for regime in analysis.regimes:
        trials, claim = substudy.results.arms[regime.regime], system.claim(regime.regime)
        entries.append(
            ResultEntry(
                **_run(system, substudy),
                regime=regime.regime,
                published=claim.published if claim else None,
                outputs=claim.outputs if claim else None,
                ours={key: regime.metrics[key] for key in METRICS},
                trial_seeds=regime.trial_seeds,
                gan_seeds=regime.gan_seeds,
                n_test=analysis.n_test,
                n_patients=analysis.n_patients,
                steps=sorted({trial.steps for trial in trials}),
                passes_over_real=float(np.mean([trial.passes_over_real for trial in trials])),
                threshold=float(np.mean([trial.binary("test").threshold for trial in trials])),
                seconds=round(sum(trial.seconds for trial in trials), 1),
                changed=changed,
            )
        )
    return entries


def smoke_entries(system: System, substudy: Substudy) -> list[SmokeEntry]:
    """Return an entry per regime: that the regime ran, how long it took, and the most memory so far."""
    peak, run = peak_memory_mb(resolve_device("auto")), _run(system, substudy)
    rounded = None if peak is None else round(peak)
    return [
        SmokeEntry(**run, regime=trial.regime, steps=[trial.steps], seconds=trial.seconds, peak_mb=rounded)
        for trial in substudy.results.trials
    ]


def _run(system: System, substudy: Substudy) -> dict[str, Any]:
    """Return the fields that all entries of a system share."""
    return {
        "system": system.name,
        "title": system.title,
        "model": substudy.config.model,
        "image_size": substudy.config.data.image_size,
        "data": substudy.results.source,
        "split_hash": substudy.split_hash,
        "data_notes": substudy.results.notes,
        "device": substudy.device,
        "code_hashes": sorted({str(trial.code_hash) for trial in substudy.results.trials}),
        "folder": str(substudy.folder),
        "note": system.note,
    }


def _of_patients(entry: ResultEntry) -> str:
    return "" if entry.n_patients is None else f" of {plural(entry.n_patients, 'patient')}"


def document(entries: Sequence[Entry]) -> Document:
    """Return the table, the departures from the systems' files, and the failures."""
    done = [e for e in entries if isinstance(e, ResultEntry)]
    header = ["system", "regime", "published", "its own outputs", *(f"ours: {METRICS[key]} [95 %]" for key in PRINTED)]
    table = Table([*header, "seeds", "px", "steps"], [_cells(e) for e in done], numeric=4) if done else None
    sources = {f"{e.data}, test n = {e.n_test}{_of_patients(e)}, {e.device}" for e in done}
    measured = [f"{METHOD} Measured on: {'; '.join(sorted(sources))}."] if done else []
    notes = [f"{e.system}: {'; '.join(texts)}." for e in done if (texts := _notes(e))]
    notes += [note for e in done for note in e.data_notes]
    notes += code_notes(code for e in done for code in e.code_hashes)
    notes += [f"{e.system} was not run: {e.error}" for e in entries if e.error]
    ran = len({e.system for e in done})
    warnings, others = part_notes(list(dict.fromkeys(notes)))
    return Document(
        "Published systems under one protocol",
        warnings,
        f"{plural(ran, 'system')} ran on our protocol.",
        sections=[Section("Results", measured, table, bullets=others)],
        links=documentation("systems"),
    )


def _notes(entry: ResultEntry) -> list[str]:
    notes = [entry.note, too_few_seeds(entry.trial_seeds), *(f"changed: {text}" for text in entry.changed)]
    return [note for note in notes if note]


def _cells(entry: ResultEntry) -> list[str]:
    theirs = [DASH if reported is None else str(reported) for reported in (entry.published, entry.outputs)]
    metrics = (entry.ours[key] for key in PRINTED)
    ours = [f"{mean_sd(m.mean, m.sd)} {bounds(m.low or 0.0, m.high or 0.0)}" for m in metrics]
    steps = DASH.join(str(s) for s in sorted({min(entry.steps), max(entry.steps)}))
    size = f"{entry.image_size}{'*' if entry.changed else ''}"
    return [entry.system, str(entry.regime), *theirs, *ours, str(entry.trial_seeds), size, steps]


def smoke_document(entries: Sequence[Entry]) -> Document:
    """Return what ran in a smoke run."""
    rows = [
        [e.system, str(e.regime), e.model, str(e.steps[0]), str(e.seconds), fixed(e.peak_mb, 0)]
        if isinstance(e, SmokeEntry)
        else [e.system, DASH, DASH, "failed", DASH, DASH]
        for e in entries
    ]
    table = Table(["SMOKE", "regime", "network", "steps", "seconds", "peak MB so far"], rows, numeric=3)
    failed = [f"{e.system} failed: {e.error}" for e in entries if e.error]
    return Document("SMOKE", [], smoke.NOTICE, sections=[Section("Runs", table=table, bullets=failed)])


def csv_table(entries: Sequence[Entry], is_smoke: bool) -> str:
    """Return one row per system and regime; a cell is empty if there is no such value."""
    plain = ["system", "regime", "model", "image_size", "data", "split_hash", "device", "n_test", "n_patients"]
    plain += ["trial_seeds", "passes_over_real", "threshold", "seconds", "error"]
    reported = [(who, key) for who in ("published", "outputs") for key in (*SHORT, "on")]
    ours = [(key, part) for key in METRICS for part in ("mean", "sd", "low", "high")]
    rows = []
    for entry in entries:
        values = entry.to_json()
        theirs = [(values.get(who) or {}).get(key) for who, key in reported]
        measured = [values.get("ours", {}).get(key, {}).get(part) for key, part in ours]
        listed = ["/".join(str(s) for s in values.get("steps", ())), "; ".join(values.get("changed", ()))]
        rows.append(["yes" if is_smoke else "no", *(values.get(key) for key in plain), *listed, *theirs, *measured])
    header = ["smoke", *plain, "steps", "changed", *("_".join(k) for k in reported), *("_".join(k) for k in ours)]
    return csv_text(header, rows)
