"""`classifier ablate` and `classifier train`: run the missing trials, keep each as it ends, write the outputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from balancer.audit.findings import audit, leaks_beyond_copies, notes_beyond_copies, strongest_shortcut
from balancer.audit.findings import estimate_seconds as auditing_seconds
from balancer.audit.report import read_audit, write_audit
from balancer.audit.results import Audit
from balancer.core import progress
from balancer.core.config import flatten
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject, remove, remove_other_kind, write_text
from balancer.core.jsonl import append_jsonl
from balancer.core.marker import MARKER, check_stated
from balancer.core.run import RunDir
from balancer.core.sealed import DamagedFile, read_json, read_with_sum, write_json
from balancer.core.signals import deferred_signals
from balancer.core.speed import slowness
from balancer.core.tracking import TrackedTrial
from balancer.data.manifest import reports_of
from balancer.data.records import sampling_unit
from balancer.metrics.resampling import patients_per_class
from balancer.reporting.document import Link
from balancer.reporting.links import link_to
from balancer.reporting.numbers import listed, plural
from balancer.reporting.pages import without_links
from classifier.analysis import pretraining
from classifier.analysis.analyse import Analysis, analyse
from classifier.analysis.reading import SPLIT, drop_replaced, recover_trials
from classifier.analysis.results import PREDICTIONS, RESULTS, StudyResults, TrialResult
from classifier.experiments.jobs import Kept, Workers, run_in_this_process, run_trials, with_resume_note
from classifier.experiments.plan import Trial
from classifier.experiments.selections import check_selections
from classifier.experiments.study import Study, check_channels, check_provenance, code_hash, computing_notes
from classifier.experiments.trial import (
    Interrupt,
    TrainedTrial,
    measure_again,
    needs_measuring,
    run_trial,
    save_trial,
    write_predictions,
)
from classifier.report import page as report
from classifier.report import tables
from classifier.report.card_facts import Kinds, facts_of
from classifier.report.model_card import CARD, write_model_card
from classifier.report.samples import reported_class
from classifier.training.checkpoint import CHECKPOINT

log = logging.getLogger("balancer")
AUDIT = "audit"  # the folder of the audit of the data
SECONDS = 6.0  # of an estimate: the report, on one core of the reference machine
# Settings of a trial that trackers keep; the others are those of the run.
TRACKED = ("regime", "trial_seed", "synthetic_set", "dose", "n_train", "added", "steps", "recipe_hash", "code_hash")


@dataclass(frozen=True)
class AblationResult:
    """The analysis of an ablation, and its report."""

    analysis: Analysis
    notes: list[str]
    table: str  # for a terminal
    report: Path

    def to_json(self) -> JsonObject:
        """Return the analysis and the notes."""
        return {**self.analysis.to_json(), "notes": self.notes}

    def describe(self) -> str:
        """Return the verdict, the table and what follows from it, then the notes."""
        return "\n".join([self.analysis.verdict, "", self.table, "", *self.analysis.headline, "", *self.notes])


def check(study: Study) -> None:
    """Refuse, before hours of training, a test set that allows no interval.

    Raises:
        BalancerError: if a class of the test set has fewer than two patients.
    """
    test, classes = study.data.indices("test"), study.data.classes
    groups = [study.data.groups[i] for i in test]
    counts = patients_per_class(study.data.labels[test], groups, len(classes))
    if min(counts) < 2:
        unit = sampling_unit(groups)
        few = listed([f"{plural(n, unit)} of {name}" for n, name in zip(counts, classes, strict=True)])
        raise BalancerError(f"the test set has {few}; an interval needs two or more of each")


def finished_trials(study: Study, run: RunDir) -> list[TrialResult]:
    """Return the trials that an earlier command finished, with their predictions; damaged ones are to be run again.

    Raises:
        BalancerError: if they come from other data, another split, other settings or other synthetic sets.
    """

    def check(trials: Sequence[TrialResult]) -> None:
        check_provenance(trials, study, str(run / RESULTS))
        if trials and run.resumed:
            check_channels(run.path, study.data)

    return recover_trials(run / RESULTS, check)


def ablate(study: Study, run: RunDir, workers: Workers) -> StudyResults:
    """Run the trials that ``results.jsonl`` does not hold yet; return all trials in the order of the plan.

    Finished trials whose shortcut meter an earlier version measured with fewer controls are measured again.

    Raises:
        Interrupted: if a signal came; finished trials are kept.
        BalancerError: if the finished trials of a resumed run do not belong to this study, or a trial failed.
    """
    planned = study.trials
    results = {trial.key: trial for trial in finished_trials(study, run)}
    missing = [trial for trial in planned if trial.key not in results]
    again = [trial for trial in planned if trial.key in results and needs_measuring(study, results[trial.key])]
    if missing or again:
        (run / MARKER).unlink(missing_ok=True)  # of a finished run that lost a trial, or is measured again
    write_split(study, run, expected=bool(results))
    for trial in results.values():
        run.tracker.trial(tracked(trial, run.path))  # kept before, unless the run was not tracked then
    check_selections(study, results.values(), str(run / RESULTS))
    if results:
        log.info("%d of %d trials were done before", len(planned) - len(missing), len(planned))

    def write(trained: TrainedTrial) -> None:
        trial = save_trial(trained, run.path, run / "trials" / trained.trial.name)
        append_jsonl(run / RESULTS, trial.to_json())
        results[trial.key] = trial
        run.tracker.trial(tracked(trial, run.path))
        log.info(
            "[%d/%d] %s: validation NLL %.4f at step %d, %.0f s",
            len(results),
            len(planned),
            trained.trial.name,
            trial.val.nll,
            trial.selected_step,
            trial.seconds,
        )

    _measure_again(study, again, results, run, workers)
    run_trials(study, missing, workers, write, Kept(run.path, run / RESULTS))
    return StudyResults.of([results[t.key] for t in planned], study.data.groups)


def _measure_again(
    study: Study,
    trials: Sequence[Trial],
    results: dict[tuple[str, int, str | None, float | None], TrialResult],
    run: RunDir,
    workers: Workers,
) -> None:
    """Measure the shortcut meter of finished trials anew; their new lines stand in place of the old ones.

    Raises:
        Interrupted: if a signal came; what was measured is kept.
    """
    if not trials:
        return
    log.info("the shortcut meter of %s is measured again, with more controls", plural(len(trials), "finished trial"))
    device = workers.local_device

    def measured(trial: Trial, _: Interrupt) -> TrialResult:
        return measure_again(study, trial, results[trial.key], run.path, device)

    with with_resume_note(Kept(run.path, run / RESULTS)), progress.bar(len(trials), "shortcut meter", "trial") as bar:
        for result in run_in_this_process(measured, trials):
            # The line first: a trial whose scores are still the old ones is measured again after a kill.
            append_jsonl(run / RESULTS, result.to_json())
            write_predictions(result, run.path)
            results[result.key] = result
            bar.update()
    drop_replaced(run / RESULTS)


def write_split(study: Study, run: RunDir, expected: bool) -> None:
    """Write ``split.csv``; say so if a sound one was ``expected`` and is not there."""
    try:
        read_with_sum(run / SPLIT)
        check_stated(run / SPLIT)
    except (FileNotFoundError, DamagedFile) as error:
        if expected:
            problem = error.problem if isinstance(error, DamagedFile) else "it is missing"
            log.warning("%s is damaged: %s: it is written again from the data", run / SPLIT, problem)
    remove_other_kind(run / SPLIT, is_folder=False)
    study.data.write_split(run / SPLIT)


def tracked(trial: TrialResult, run: Path) -> TrackedTrial:
    """Return a trial as trackers keep it: settings, curves, metrics on validation and test, model and predictions."""
    settings = {key: str(value) for key, value in vars(trial).items() if key in TRACKED and value is not None}
    metrics = {fold: flatten(getattr(trial, fold).to_json()) for fold in ("val", "test")}
    figures = {f"{fold}.{key}": v for fold, of in metrics.items() for key, v in of.items() if isinstance(v, float)}
    folder = run / trial.folder
    rows = [asdict(validation) for validation in trial.history]
    return TrackedTrial(folder.name, settings, rows, figures, [folder / CHECKPOINT, folder / PREDICTIONS])


def state_notes(study: Study, run: RunDir) -> None:
    """Write the notes of the data into ``env.json``, with what a filter left out: pages of several runs read them."""
    environment = read_json(run / "env.json", "start a new run")
    if environment["data"]["notes"] != study.data.notes:
        environment["data"]["notes"] = study.data.notes
        write_json(run / "env.json", environment)


def write_ablation(results: StudyResults, study: Study, run: RunDir, findings: Audit) -> AblationResult:
    """Write analysis, tables, figures and report; ``findings`` are those of :func:`write_data_audit`."""
    data = study.data
    analysis = analyse(results, seed=study.config.seed)
    notes = [*data.notes, *notes_beyond_copies(findings), *study.meter_notes]
    notes += [*pretraining.notes(results.trials), *analysis.notes, *computing_notes(results.trials)]
    sources = study.synthetic_sources
    note = (
        f"Data `{data.source}`, split `{data.split_hash}`; synthetic sets: {', '.join(sources) or 'none'}; "
        f"recipe `{results.trials[0].recipe_hash}`, code `{code_hash()}`."
    )
    table = tables.text_table(tables.regime_rows(results, analysis))
    result = AblationResult(analysis, notes, table, run / "report.html")
    write_json(run / "analysis.json", result.to_json())
    run.tracker.figures({f"{r.regime}.auroc": r.metrics["auroc"].mean for r in analysis.regimes if r.metrics})
    run.tracker.figures({c.name: c.estimate.value for c in analysis.contrasts})
    run.tracker.text("verdict", analysis.verdict)
    links = [
        Link("audit of the data", f"{AUDIT}/audit.html"),
        *copy_synthesis_reports([s.paths for s in study.synthetic], run.path),
        Link("model card", CARD),
    ]
    report.write_outputs(results, analysis, data, run.path, note, notes, study.synthetic, links)
    write_model_card(
        run.path, facts_of(run.path, study.config, results, Kinds.of(data), notes, study.graded_sources, analysis)
    )
    return result


def report_seconds(study: Study) -> float:
    """Return the rough time of the audit beside an ablation and of the report."""
    return auditing_seconds(study.data) + SECONDS * slowness()


def write_data_audit(study: Study, run: RunDir) -> Audit:
    """Write the audit of the data beside the ablation, once, before the first trial; return what it finds."""
    if (run / AUDIT / "audit.html").exists():  # written last, by the command that is resumed
        try:
            return read_audit(run / AUDIT)
        except DamagedFile as error:
            log.warning("%s; the data are audited again", error)
    findings = audit(study.data, study.config.data)
    for leak in leaks_beyond_copies(findings):
        log.warning("leak in the data: %s", leak)
    if shortcut := strongest_shortcut(findings):
        log.info("shortcut in the data: %s", shortcut)
    write_audit(run / AUDIT, study.data, study.config.data, findings)
    return findings


def copy_synthesis_reports(sets: Sequence[Sequence[Path]], run: Path) -> list[Link]:
    """Copy the reports on each synthetic set into the run, so that the page's links hold wherever the run goes.

    The copy has no links of its own, which would end nowhere. The run that it was copied from is linked as well where
    it lies in the same folder of runs. A set without a report, such as one of another generator, has no link.
    """
    links = []
    for i, folders in enumerate(sets):
        reports = [report for folder in folders for report in reports_of(folder)]
        for j, original in enumerate(reports):
            more, part = (f"-{j}", f", {reported_class(original)}") if len(reports) > 1 else ("", "")
            copy = run / "synthetic" / f"set-{i}{more}.html"
            if not copy.exists() and original.exists():
                copy.parent.mkdir(exist_ok=True)
                write_text(copy, without_links(original.read_text(encoding="utf-8")))
            if copy.exists():
                links.append(Link(f"report on synthetic set {i}{part}", f"synthetic/{copy.name}"))
            links += link_to(f"run of synthetic set {i}{part}", original, run)
    return links


def train_one(study: Study, run: RunDir, device: torch.device) -> TrialResult:
    """Run the single trial of `classifier train`, in the run directory itself."""
    with deferred_signals() as interrupt:
        trial = save_trial(run_trial(study, study.trials[0], device, interrupt), run.path, run.path)
    remove(run / "metrics.jsonl")  # of a training that was interrupted before its card was written
    for validation in trial.history:
        run.metrics(asdict(validation))
    write_json(run / "result.json", trial.to_json())
    run.tracker.figures(tracked(trial, run.path).figures)
    results = StudyResults.of([trial], study.data.groups)
    kinds, notes = Kinds.of(study.data), study.data.notes
    write_model_card(run.path, facts_of(run.path, study.config, results, kinds, notes, study.graded_sources))
    return trial
