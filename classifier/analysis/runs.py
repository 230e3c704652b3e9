"""Finished runs to be compared: ablations and trainings on the same images, each named by its folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, refuse_unwritable
from balancer.core.marker import MARKER
from balancer.core.preview import Preview
from balancer.core.saved_runs import inner_runs
from balancer.core.speed import slowness
from balancer.reporting.numbers import plural
from classifier.analysis.reading import (
    RESULT,
    RunEnvironment,
    read_environment,
    read_patients,
    read_run,
    with_predictions,
)
from classifier.analysis.results import FOLDS, RESULTS, StudyResults, TrialResult, check_same_images
from classifier.training.regimes import REGIMES, select_regimes

log = logging.getLogger("balancer")


@dataclass(frozen=True)
class RunFacts:
    """What a report on runs says of them, and the folder for the report."""

    data: str
    notes: list[str]
    n_val: int
    n_test: int
    counts: str  # images and patients, in words
    folder: Path

    @classmethod
    def of(cls, study: StudyResults, folder: Path, notes: Sequence[str] = ()) -> RunFacts:
        """Return the facts of runs that were read; ``notes`` come after those on the data."""
        n_val, n_test = len(study.groups("val")), len(study.groups("test"))
        return cls(study.source, [*study.notes, *notes], n_val, n_test, study.counts(), folder)

    def to_json(self) -> JsonObject:
        """Return the first entries of the report as JSON."""
        return {"data": self.data, "notes": self.notes, "n_val": self.n_val, "n_test": self.n_test}


def output_folder(out: Path | None, runs: Sequence[Path], name: str) -> Path:
    """Return where to write what was made from runs: ``out``, or the folder ``name`` in the only run.

    Raises:
        UsageError: several runs and no ``out``.
        BalancerError: the folder is a file.
    """
    if out is None and len(runs) > 1:
        raise UsageError(f"{len(runs)} runs are named, so none of them is the place to write to; give --out DIR")
    folder = out or runs[0] / name
    if folder.exists() and not folder.is_dir():
        raise BalancerError(f"--out {folder} is a file; give a folder")
    return folder


def read_runs(runs: Sequence[Path], regimes: Sequence[str] = (), several_classes: bool = False) -> StudyResults:
    """Read the study proper of finished or interrupted ablations and trainings.

    Args:
        runs: folders of `classifier ablate` or `classifier train`, each once.
        regimes: names or groups of the regimes to read; all that are there if empty.
        several_classes: whether runs of more than two classes are read too.

    Raises:
        BalancerError: a run holds no trial, cannot be read or is a smoke run; no run has a named regime; the runs
            differ in data or split, or have more than two classes and may not.
        UsageError: an unknown regime.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise BalancerError(f"{plural(len(runs), 'run')} named, some of them the same; give each once")
    chosen = [r.name for r in select_regimes(regimes)] if regimes else list(REGIMES)
    trials = {run: _finished_trials(run, several_classes) for run in runs}
    environments = [_comparable(run, trials[run]) for run in runs]
    there = {trial.regime for of_run in trials.values() for trial in of_run}
    if regimes and (missing := [name for name in chosen if name not in there]):
        raise BalancerError(f"no trial of regime {', '.join(missing)}; there are {', '.join(sorted(there))}")
    arms: dict[str, list[TrialResult]] = {}
    for run, label in zip(runs, _labels(runs), strict=True):
        for name in chosen:
            if of_regime := [trial for trial in trials[run] if trial.regime == name]:
                arms[f"{label} {name}".strip()] = [with_predictions(trial, run) for trial in of_regime]
    check_same_images(arms)
    return StudyResults(
        arms,
        read_patients(runs[0], (trial for trials in arms.values() for trial in trials)),
        environments[0].data.source,
        list(dict.fromkeys(note for of_run in environments for note in of_run.data.notes)),
    )


def preview(
    runs: Sequence[Path], regimes: Sequence[str], folder: Path, seconds_a_score: float, settings: Mapping[str, str]
) -> Preview:
    """Return what a report on runs would read and write, and how long it would take.

    Args:
        runs: as for :func:`read_runs`.
        regimes: as for :func:`read_runs`.
        folder: for the report.
        seconds_a_score: of the report, on the reference machine, for one image of one trial.
        settings: to show.

    Raises:
        BalancerError: a run holds no trial of the regimes.
    """
    names = [r.name for r in select_regimes(regimes)] if regimes else list(REGIMES)
    trials = [trial for run in runs for trial in _finished_trials(run, False) if trial.regime in names]
    if not trials:
        raise BalancerError(f"no trial of regime {', '.join(names)} in {', '.join(map(str, runs))}")
    refuse_unwritable(folder)
    scores = sum(trial.val.n + trial.test.n for trial in trials)
    reads = f"{plural(len(trials), 'trial')} of {', '.join(map(str, runs))}"
    shown = {"regimes": ", ".join(dict.fromkeys(trial.regime for trial in trials)), **settings}
    return Preview(reads, str(folder), seconds_a_score * scores * slowness(), shown)


def _finished_trials(run: Path, several_classes: bool) -> list[TrialResult]:
    """Return the trials of the study proper of a run."""
    trials = [trial for trial in read_run(run) if trial.is_main]
    if not trials:
        raise BalancerError(
            f"{run} holds no finished trial (no {RESULTS} and no {RESULT}); "
            f"give the folder of a `classifier ablate` or `classifier train`{inner_runs(run, 'ablate', 'train')}"
        )
    if not (run / MARKER).exists():
        log.warning("%s is not finished: only the %s there so far", run, plural(len(trials), "trial"))
    for trial in trials if not several_classes else ():
        for fold in FOLDS:
            trial.binary(fold)  # refuses more than two classes
    return trials


def _labels(runs: Sequence[Path]) -> list[str]:
    """Return a label per run: nothing for one run, else the folders' names, or the paths if two names are equal."""
    names = [run.resolve().name for run in runs]
    if len(runs) == 1:
        return [""]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _comparable(run: Path, trials: Sequence[TrialResult]) -> RunEnvironment:
    """Return what ``env.json`` says of a run that may be compared.

    Raises:
        BalancerError: the file is missing, damaged or of another run, or the run is a smoke run.
    """
    environment = read_environment(run, trials)
    if environment.smoke:
        raise BalancerError(
            f"{run} is a smoke run, a few steps on drawings; expected results: give a run made without --smoke"
        )
    return environment
