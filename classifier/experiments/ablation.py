"""`classifier ablate` and `classifier train`: run the missing trials, keep each as it ends, write the outputs."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from balancer.audit.findings import audit, leaks
from balancer.audit.report import read_leaks, write_audit
from balancer.core.files import append_jsonl, read_jsonl, write_json
from balancer.core.run import RunDir, deferred_signals
from balancer.metrics.resampling import patient_weights
from classifier.analysis.contrasts import analyse
from classifier.analysis.results import TrialResult, read_groups, read_predictions
from classifier.experiments.jobs import Workers, run_trials
from classifier.experiments.study import Study, check_provenance, code_hash, code_notes
from classifier.experiments.trial import TrainedTrial, run_trial, save_trial
from classifier.report import page as report
from classifier.report import tables

log = logging.getLogger("balancer")
RESULTS = "results.jsonl"
Row = dict[str, Any]


@dataclass(frozen=True)
class AblationResult:
    """What an ablation found."""

    analysis: dict[str, Any]
    notes: list[str]
    table: str  # for a terminal
    report: Path

    def to_json(self) -> dict[str, Any]:
        """Return the analysis and the notes."""
        return {**self.analysis, "notes": self.notes}

    def describe(self) -> str:
        """Return the notes, the table and what follows from it."""
        headline = [*self.analysis["headline"], "", self.analysis["verdict"]]
        return "\n".join([*self.notes, "", self.table, "", *headline, str(self.report)])


def check(study: Study) -> None:
    """Refuse, before hours of training, a test set that allows no interval.

    Raises:
        BalancerError: if a class of the test set has fewer than two patients.
    """
    test = study.data.indices("test")
    patient_weights(study.data.labels[test], [study.data.groups[i] for i in test], resamples=0, seed=0)


def finished_trials(study: Study, run: RunDir) -> list[Row]:
    """Return the rows of ``results.jsonl``, one per trial.

    Raises:
        BalancerError: if they come from other data, another split, other settings or other synthetic sets.
    """
    rows = read_jsonl(run / RESULTS)
    check_provenance(rows, study, str(run / RESULTS))
    return list({key_of(row): row for row in rows}.values())  # a repeated line counts once


def key_of(row: Row) -> tuple[Any, ...]:
    """Return what identifies a trial: see :attr:`classifier.experiments.plan.Trial.key`."""
    return row["regime"], row["trial_seed"], row["synthetic_set"], row["dose"]


def ablate(study: Study, run: RunDir, workers: Workers) -> list[Row]:
    """Run the trials that ``results.jsonl`` does not hold yet; return all rows in the order of the plan.

    Raises:
        Interrupted: if a signal came; finished trials are kept.
        BalancerError: if the finished trials of a resumed run do not belong to this study, or a trial failed.
    """
    trials = study.trials
    rows = finished_trials(study, run)
    done = {key_of(row) for row in rows}
    missing = [t for t in trials if t.key not in done]
    if done:
        log.info("%d of %d trials were done before", len(trials) - len(missing), len(trials))

    def write(trained: TrainedTrial) -> None:
        row = save_trial(trained, run.path, run / "trials" / trained.trial.name).to_json()
        append_jsonl(run / RESULTS, row)
        rows.append(row)
        log.info(
            "[%d/%d] %s: validation NLL %.4f at step %d, %.0f s",
            len(rows),
            len(trials),
            trained.trial.name,
            row["val"]["nll"],
            row["selected_step"],
            row["seconds"],
        )

    resume_note = f"finished trials are kept in {run / RESULTS}; continue with --resume {run.path}"
    run_trials(study, missing, workers, write, resume_note)
    position = {trial.key: i for i, trial in enumerate(trials)}
    return sorted((row for row in rows if key_of(row) in position), key=lambda row: position[key_of(row)])


def write_outputs(rows: list[Row], study: Study, run: RunDir) -> AblationResult:
    """Write analysis, tables, figures and report from the results alone."""
    data = study.data
    analysis = analyse(rows, read_predictions(rows, run.path), read_groups(run.path), seed=study.config.seed)
    notes = [*data.notes, *(f"Leak in the data: {leak}." for leak in read_leaks(run / "audit")), *analysis["notes"]]
    notes += code_notes(row["code_hash"] for row in rows)
    sources = ", ".join(f"`{s.path}` ({s.digest})" for s in study.synthetic) or "none"
    note = (
        f"Data `{data.source}`, split `{data.split_hash}`; synthetic sets: {sources}; "
        f"recipe `{rows[0]['recipe_hash']}`, code `{code_hash()}`."
    )
    table = tables.text_table(tables.summarise(rows), analysis)
    result = AblationResult(analysis, notes, table, run / "report.html")
    write_json(run / "analysis.json", result.to_json())
    report.write_outputs(rows, analysis, data, run.path, note, notes)
    return result


def write_data_audit(study: Study, run: RunDir) -> None:
    """Write the audit of the data beside the ablation: once, before the first trial."""
    if not (run / "audit" / "audit.html").exists():  # written last
        findings = audit(study.data, study.config.data)
        for leak in leaks(findings):
            log.warning("leak in the data: %s", leak)
        write_audit(run / "audit", study.data, study.config.data, findings)


def train_one(study: Study, run: RunDir, device: torch.device) -> TrialResult:
    """Run the single trial of `classifier train`, in the run directory itself."""
    with deferred_signals() as interrupt:
        trial = save_trial(run_trial(study, study.trials[0], device, interrupt), run.path, run.path)
    for validation in trial.history:
        run.metrics(asdict(validation))
    write_json(run / "result.json", trial.to_json())
    return trial
