"""Several studies under one run directory, each in a folder of its own that is the run directory of an ablation.

So every command that reads an ablation (thresholds, ensemble, evaluate) reads a substudy too, and a substudy can be
resumed by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from balancer.audit.findings import notes_beyond_copies
from balancer.audit.report import read_audit
from balancer.core.config import validate
from balancer.core.environment import environment
from balancer.core.marker import MARKER
from balancer.core.run import RunRequest, open_run
from balancer.core.saved_runs import resumed_config, saved_config
from balancer.core.sealed import DamagedFile, write_json
from balancer.core.settings import AblateConfig
from classifier.analysis.reading import read_environment, read_patients, read_trials, with_predictions
from classifier.analysis.results import StudyResults, check_same_images
from classifier.experiments import ablation
from classifier.experiments.jobs import Kept, Workers, with_resume_note
from classifier.experiments.selections import with_selections
from classifier.experiments.study import open_study, refuse_several_classes

log = logging.getLogger("balancer")


@dataclass(frozen=True)
class Substudy:
    """A finished study."""

    folder: Path
    config: AblateConfig
    device: str
    split_hash: str
    results: StudyResults


def run_substudy(
    folder: Path,
    configure: Callable[[], AblateConfig],
    workers: Workers,
    with_report: bool,
    smoke_notice: str = "",
    two_classes: bool = True,
) -> Substudy:
    """Run the trials of a study that its folder does not hold yet; read a finished study.

    Args:
        folder: the run directory of the study.
        configure: returns the settings of a new study; a started one keeps its own.
        workers: what runs the trials.
        with_report: also write the report, the figures and the audit of an ablation, if there are several regimes.
        smoke_notice: for a smoke run, the note for env.json, so that nothing takes the study for a result.
        two_classes: refuse data of more than two classes.

    Raises:
        Interrupted: if a signal came; finished trials are kept.
        BalancerError: if data, weights or synthetic sets are missing, or a trial failed.
    """
    if (folder / MARKER).exists():
        try:
            return read_substudy(folder)
        except DamagedFile as error:
            log.warning("%s is damaged: %s: the study is resumed", error.path, error.problem)
            (folder / MARKER).unlink()  # what is written again is not what the marker states
    started = (folder / "env.json").exists()
    config = resumed_config("ablate", AblateConfig, folder, {}) if started else configure()
    study = open_study(config)
    if two_classes:
        refuse_several_classes(study.data, "a comparison of systems or of their parts")
    ablation.check(study)
    request = RunRequest(resume=str(folder)) if started else RunRequest(out=folder, force=True)
    with open_run("ablate", config, request) as run:

        def write_environment(notes: Sequence[str]) -> None:
            data = {**study.data.describe(), "notes": notes}
            write_json(run / "env.json", environment("ablate", workers.describe(), data=data, smoke=bool(smoke_notice)))

        smoke = [smoke_notice] if smoke_notice else []
        write_environment([*smoke, *study.data.notes])
        study = with_selections(study, run.path)
        write_environment(notes := [*smoke, *study.data.notes])  # with what a filter left out
        results = ablation.ablate(study, run, workers)
        if with_report and len(study.regimes) > 1:
            findings = ablation.write_data_audit(study, run)
            ablation.write_ablation(results, study, run, findings)
            notes += notes_beyond_copies(findings)
        run.finish()
    results = replace(results, source=study.data.source, notes=notes)
    return Substudy(folder, config, workers.describe(), study.data.split_hash, results)


def resume_note_of(run: Path) -> AbstractContextManager[None]:
    """Make an interruption say how to resume the run, not the substudy that was interrupted."""
    return with_resume_note(Kept(run, run))


def read_substudy(folder: Path) -> Substudy:
    """Read a finished study from its folder."""
    config = validate(AblateConfig, saved_config("ablate", folder))
    trials = [with_predictions(trial, folder) for trial in read_trials(folder / ablation.RESULTS)]
    env = read_environment(folder, trials)
    results = StudyResults.of(trials, read_patients(folder, trials))
    audit = folder / ablation.AUDIT
    audited = notes_beyond_copies(read_audit(audit)) if audit.exists() else []
    results = replace(results, source=env.data.source, notes=[*env.data.notes, *audited])
    return Substudy(folder, config, env.device, env.data.split_hash, results)


def check_same_data(substudies: Sequence[Substudy], keys: Sequence[str]) -> None:
    """Refuse to compare studies of different images: the data may have changed after a study was finished.

    Raises:
        BalancerError: if two trials differ in a hash of ``keys``, or were tested on different images.
    """
    advice = "expected the same data; bring the data back, remove the folder made of other data, and --resume"
    check_same_images({str(s.folder): s.results.trials for s in substudies}, keys, ("test",), advice)
