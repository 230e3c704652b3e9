"""Several studies under one run directory, each in a folder of its own that is the run directory of an ablation.

So every command that reads an ablation (thresholds, ensemble, evaluate) reads a substudy too, and a substudy can be
resumed by itself.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.core.config import validate
from balancer.core.environment import environment
from balancer.core.errors import Interrupted
from balancer.core.files import write_json
from balancer.core.run import RunRequest, open_run, resumed_config, saved_config
from balancer.core.settings import AblateConfig
from classifier.analysis.analyse import Analysis, analyse
from classifier.analysis.results import (
    RESULTS,
    StudyResults,
    check_same_images,
    read_patients,
    read_trials,
    with_predictions,
)
from classifier.experiments import ablation
from classifier.experiments.jobs import Workers
from classifier.experiments.study import open_study


@dataclass(frozen=True)
class Substudy:
    """A finished study in its folder."""

    folder: Path
    config: AblateConfig
    env: dict[str, Any]  # of env.json: device, data, versions
    results: StudyResults

    def analysis(self) -> Analysis:
        """Return the result of :func:`classifier.analysis.analyse.analyse`."""
        return analyse(self.results, seed=self.config.seed)


def run_substudy(
    folder: Path, configure: Callable[[], AblateConfig], workers: Workers, with_report: bool, smoke_notice: str = ""
) -> Substudy:
    """Run the trials of a study that its folder does not hold yet; read a finished study.

    Args:
        folder: the run directory of the study.
        configure: returns the settings of a new study; a started one keeps its own.
        workers: what runs the trials.
        with_report: also write the report, the figures and the audit of an ablation, if there are several regimes.
        smoke_notice: for a smoke run, the note for env.json, so that nothing takes the study for a result.

    Raises:
        Interrupted: if a signal came; finished trials are kept.
        BalancerError: if data, weights or synthetic sets are missing, or a trial failed.
    """
    if (folder / "done").exists():
        return read_substudy(folder)
    started = (folder / "env.json").exists()
    config = resumed_config("ablate", AblateConfig, folder, {}) if started else configure()
    assert isinstance(config, AblateConfig), "resumed as what it was saved as"
    study = open_study(config)
    ablation.check(study)
    request = RunRequest(resume=str(folder)) if started else RunRequest(out=folder, force=True)
    with open_run("ablate", config, request) as run:
        data = study.data.describe()
        if smoke_notice:
            data["notes"] = [smoke_notice, *study.data.notes]
        env = environment("ablate", workers.describe(), data=data, smoke=bool(smoke_notice))
        write_json(run / "env.json", env)
        study.data.write_split(run / "split.csv")
        results = ablation.ablate(study, run, workers)
        if with_report and len(study.regimes) > 1:
            leaks = ablation.write_data_audit(study, run)
            ablation.write_outputs(results, study, run, leaks)
        run.finish()
    return Substudy(folder, config, env, results)


@contextlib.contextmanager
def resume_note_of(run: Path) -> Iterator[None]:
    """Make an interruption say how to resume the run, not the substudy that was interrupted."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(signum, f"finished trials are kept in {run}; continue with --resume {run}") from stop


def read_substudy(folder: Path) -> Substudy:
    """Read a finished study from its folder."""
    config = validate(AblateConfig, saved_config("ablate", folder))
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    trials = [with_predictions(trial, folder) for trial in read_trials(folder / RESULTS)]
    return Substudy(folder, config, env, StudyResults.of(trials, read_patients(folder)))


def check_same_data(substudies: Sequence[Substudy], keys: Sequence[str]) -> None:
    """Refuse to compare studies of different images.

    A finished study is only read, and the data may have changed before the others were trained.

    Args:
        substudies: the studies to compare.
        keys: hashes that must be the same in all trials.

    Raises:
        BalancerError: if the trials differ in a key, or were tested on different images.
    """
    check_same_images(
        {str(substudy.folder): substudy.results.trials for substudy in substudies},
        keys,
        folds=("test",),
        advice="expected the same data in all of them; bring the data back, remove the folder made of other data, and "
        "continue with --resume",
    )
