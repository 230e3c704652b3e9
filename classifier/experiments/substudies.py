"""Several studies under one run directory: each in a folder of its own, which is that of an ablation.

So what is made for the run of an ablation (thresholds, ensembles, evaluation) works on every part, and a part can be
continued by itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.core.config import validate
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.run import RunRequest, environment, open_run, read_jsonl, resumed_config, saved_config, write_json
from balancer.core.settings import AblateConfig
from classifier.analysis.contrasts import analyse
from classifier.analysis.results import Predictions, read_groups, read_predictions
from classifier.experiments import ablation
from classifier.experiments.jobs import Workers
from classifier.experiments.study import open_study

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A finished study, as its folder tells it."""

    folder: Path
    config: AblateConfig
    env: dict[str, Any]  # of env.json: device, data, versions
    rows: list[Row]  # of results.jsonl, each trial once

    def predictions(self) -> dict[str, Predictions]:
        """What each trial said of the test set, by its folder."""
        return read_predictions(self.rows, self.folder)

    def analysis(self) -> dict[str, Any]:
        """What :func:`classifier.analysis.contrasts.analyse` makes of it."""
        return analyse(self.rows, self.predictions(), read_groups(self.folder), seed=self.config.seed)


def run_part(
    folder: Path, configure: Callable[[], AblateConfig], workers: Workers, report: bool, smoke_notice: str = ""
) -> Part:
    """Run the trials of a study that its folder does not hold yet; a finished one is only read.

    Args:
        configure: gives the settings of a study that was not begun; a begun one keeps its own.
        report: also write the report, the figures and the audit of an ablation, where several regimes are compared.
        smoke_notice: of a smoke run: env.json is marked with it, so that nothing takes the part for a result.

    Raises:
        Interrupted: a signal came; finished trials are kept.
        BalancerError: the data, the weights or the synthetic sets cannot be had, or a trial failed.
    """
    if (folder / "done").exists():
        return read_part(folder)
    begun = (folder / "env.json").exists()
    config = resumed_config("ablate", AblateConfig, folder, {}) if begun else configure()
    assert isinstance(config, AblateConfig), "resumed as what it was saved as"
    study = open_study(config)
    ablation.check(study)
    request = RunRequest(resume=str(folder)) if begun else RunRequest(out=folder, force=True)
    with open_run("ablate", config, request) as run:
        data = study.data.describe()
        if smoke_notice:
            data["notes"] = [smoke_notice, *study.data.notes]
        env = environment("ablate", workers.describe(), data=data, smoke=bool(smoke_notice))
        write_json(run / "env.json", env)
        study.data.write_split(run / "split.csv")
        rows = ablation.ablate(study, run, workers)
        if report and len(study.regimes) > 1:
            ablation.write_data_audit(study, run)
            ablation.write_outputs(rows, study, run)
        run.finish()
    return read_part(folder)


@contextlib.contextmanager
def continued_at(run: Path) -> Iterator[None]:
    """An interruption tells how to go on with the whole run, not with the part that it came in."""
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.signum, f"finished trials are kept in {run}; continue with --resume {run}") from stop


def read_part(folder: Path) -> Part:
    """What a finished study left behind."""
    config = validate(AblateConfig, saved_config("ablate", folder))
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    rows = {ablation.key_of(row): row for row in read_jsonl(folder / ablation.RESULTS)}
    return Part(folder, config, env, list(rows.values()))


def check_same_data(parts: Sequence[Part], keys: Sequence[str]) -> None:
    """Refuse to put studies side by side that were not made of the same images: a finished one is only read, and the data
    may have changed before the others were trained.

    Args:
        keys: of the rows, that must be the same in all trials.

    Raises:
        BalancerError: the trials differ in one of them, or were tested on other images.
    """
    first = parts[0]
    row, tested = first.rows[0], next(iter(first.predictions().values()))
    remedy = "bring the data back, remove the folder that was made of others, and continue with --resume"
    for part in parts:
        for key in keys:
            if others := {str(r.get(key)) for r in part.rows} - {str(row.get(key))}:
                raise BalancerError(
                    f"{part.folder} has {key} {'/'.join(sorted(others))}, {first.folder} {row.get(key)}: expected the same data "
                    f"in all parts; {remedy}"
                )
        for p in part.predictions().values():
            if not p.same_images(tested):
                raise BalancerError(
                    f"{part.folder} and {first.folder} were tested on different images: expected the same in all parts; {remedy}"
                )
