"""`classifier tune`: search the settings of a classifier on validation. The test fold is not even in memory.

A trial is one point of a space (:mod:`classifier.tuning.spaces`). Its value is the negative log-likelihood of
validation after temperature scaling, averaged over trial seeds.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import delayed

from balancer.core import progress
from balancer.core.config import config_hash, flatten, merge, validate
from balancer.core.device import resolve_device
from balancer.core.errors import BalancerError, UsageError, lookup
from balancer.core.saved_runs import resumed_or_new
from balancer.core.settings import TuneConfig
from balancer.core.system_errors import is_out_of_memory
from balancer.data.dataset import Dataset
from balancer.data.split import DEVELOPMENT
from classifier.evaluation.metrics import nll
from classifier.evaluation.thresholds import fit_temperature, with_temperature
from classifier.experiments.attempts import Attempt, attempt
from classifier.experiments.cluster import in_worker
from classifier.experiments.jobs import (
    Kept,
    Workers,
    refuse_other_data,
    run_in_processes,
    run_in_this_process,
    run_on_cluster,
    with_resume_note,
)
from classifier.experiments.selections import with_selections
from classifier.experiments.study import Study, code_hash, open_study, provenance
from classifier.experiments.study import configure as study_settings
from classifier.experiments.trial import Interrupt
from classifier.models import build_model
from classifier.training import trainer
from classifier.training.pretraining import pretrained
from classifier.training.regimes import select_regimes
from classifier.tuning import storage
from classifier.tuning.spaces import SPACES, Categorical, Range, Space
from classifier.tuning.storage import SearchTrial, TrialState, complete_trials, optuna

log = logging.getLogger("balancer")
Array = np.ndarray
DEFAULT_TRIALS = 50  # of a search that is no grid
MAX_VALIDATIONS = 1000  # more than a training has: the validations of the second trial seed are numbered from here on
Report = Callable[[int, float], None]  # takes a validation's number and the value so far; ends a trial that is pruned


@dataclass(frozen=True)
class PointResult:
    """The results of a point on validation, by trial seed."""

    nll: list[float]  # nats, after temperature scaling
    temperature: list[float]

    @property
    def value(self) -> float:
        """Return the mean NLL."""
        return float(np.mean(self.nll))


@lru_cache(maxsize=1)
def open_once(config: TuneConfig, decode: bool = True) -> Study:
    """Return the study of a search without its test fold, opened once per process; ``decode`` as for open_study.

    Raises:
        BalancerError: if the data are missing or damaged, or the regime lacks its synthetic images.
    """
    study = open_study(config, decode)
    study = study if not decode else with_selections(study, None)
    return replace(study, data=without_test(study.data))


def without_test(data: Dataset) -> Dataset:
    """Return the training and validation folds alone."""
    places = np.flatnonzero(np.isin(data.folds, DEVELOPMENT)).tolist()
    return replace(
        data,
        images=data.images[places],
        labels=data.labels[places],
        folds=data.folds[places],
        records=[data.records[i] for i in places],
        groups=[data.groups[i] for i in places],
        digests=[data.digests[i] for i in places],
    )


def calibrated_nll(y_true: Array, y_score: Array) -> tuple[float, float]:
    """Return the negative log-likelihood of validation at the best temperature, in nats, and that temperature.

    Every classifier of this package gets a temperature. Without it, label smoothing would be judged by less extreme
    scores, which a temperature repairs, and not by how well the scores separate the classes.
    """
    temperature = fit_temperature(y_true, y_score)
    return nll(y_true, with_temperature(y_score, temperature)), temperature


def train_point(
    base: TuneConfig, config: TuneConfig, report: Report, device: torch.device, interrupt: Interrupt
) -> PointResult:
    """Train with the settings of a point, once per trial seed, and evaluate on validation.

    Args:
        base: the settings of the search, which name the data.
        config: the settings of the point.
        report: receives the value after each validation.
        device: where to train.
        interrupt: returns the number of a signal that came, or None.

    Raises:
        TrialPruned: if ``report`` ends the trial.
        Interrupted: if ``interrupt`` returns a signal.
        BalancerError: if the loss is not finite, or the settings do not fit the data.
    """
    study = open_once(base)
    data, first, val = study.data, study.trials[0], study.data.indices("val")
    images, y_true = data.images[val], data.labels[val]
    losses, temperatures = list[float](), list[float]()
    for unit in range(config.seeds):
        trial = replace(first, seed=config.seed + unit)
        numbers = iter(range(MAX_VALIDATIONS * unit + 1, MAX_VALIDATIONS * (unit + 1)))

        def on_validation(_step: int, y_score: Array, numbers: Iterator[int] = numbers) -> None:
            report(next(numbers), float(np.mean([*losses, calibrated_nll(y_true, y_score)[0]])))

        weights = pretrained(config, data, trial.seed + trial.regime.seed_offset, device, interrupt)
        arguments = config, trial.regime, trial.seed, study.training_set(trial), (images, y_true), device, interrupt
        fitted = trainer.train(*arguments, weights, on_validation=on_validation)
        loss, temperature = calibrated_nll(y_true, fitted.val_score)
        losses.append(loss)
        temperatures.append(temperature)
    return PointResult(losses, temperatures)


@dataclass(frozen=True)
class Search:
    """What a worker needs to take part in a search."""

    config: TuneConfig
    folder: Path  # holds the storage
    device: str = "auto"
    train: Callable[[TuneConfig, TuneConfig, Report, torch.device, Interrupt], PointResult] = train_point
    threads: int = 1
    command: str = ""  # tells the commands apart that a worker of a cluster lives through

    @property
    def space(self) -> Space:
        """Return what is searched."""
        return fitting_space(self.config)

    @property
    def sampler(self) -> str:
        """Return the name of the sampler."""
        return self.config.sampler or self.space.sampler

    @property
    def pruner(self) -> str:
        """Return the name of the pruner."""
        return self.config.pruner or self.space.pruner

    def storage(self) -> optuna.Study:
        """Return the Optuna study, and make it if there is none."""
        return storage.open_storage(self.folder, self.pruner)


def configure(explicit: Mapping[str, Any], resume: str | None = None) -> TuneConfig:
    """Return the settings of a new search, or of the search to resume; there only the number of trials may change.

    Raises:
        UsageError: if the space is unknown, a setting is one that the space searches, or a grid meets a continuous
            space.
    """

    def new(explicit: Mapping[str, Any]) -> TuneConfig:
        space = lookup(SPACES, str(explicit.get("space", TuneConfig().space)), "space")
        return study_settings(TuneConfig, merge(space.needs, space.fixed, explicit))

    same = {key: value for key, value in explicit.items() if resume is None or key != "trials"}
    config = resumed_or_new(TuneConfig, "tune", resume, same, new)
    if "trials" in explicit:
        config = validate(TuneConfig, {**config.model_dump(), "trials": explicit["trials"]})
    space = fitting_space(config)
    refuse_searched(space, config, explicit)
    if (config.sampler or space.sampler) == "grid":
        space.grid()
    return config


def refuse_searched(space: Space, config: TuneConfig, explicit: Mapping[str, Any]) -> None:
    """Raise if the user fixed a setting that the search varies, or one of another network.

    The default of such a setting may stand: it fixes nothing.

    Raises:
        UsageError: if there is such a setting.
    """
    defaults, needed = flatten(TuneConfig().model_dump(mode="json")), flatten(space.needs)
    searched = {key for parameter in space.parameters for key in parameter.keys}
    for key, value in flatten(explicit).items():
        if key in needed and value != needed[key]:
            raise UsageError(f"setting {key!r} is {value!r}, but space {space.name} is of {needed[key]}; leave it out")
        if key in searched and value != defaults.get(key):
            raise UsageError(
                f"setting {key!r} is {value!r}, but space {space.name} searches it; leave it out, or take another space"
            )
    for i, stage in enumerate(config.stages, 1):
        if fixed := sorted(searched & stage.model_dump(exclude_none=True).keys()):
            raise UsageError(
                f"stage {i} sets {', '.join(fixed)}, but space {space.name} searches it; leave it out, or take another "
                "space"
            )


@lru_cache(maxsize=8)
def fitting_space(config: TuneConfig) -> Space:
    """Return the space without parameters that the regime does not use, and without networks too deep for the images.

    Raises:
        UsageError: if no value of a parameter is left, or the space or the regime is unknown.
    """
    regime = select_regimes((config.regime,))[0]
    space = lookup(SPACES, config.space, "space").for_regime(regime.augment)
    fitting = (p if isinstance(p, Range) else _buildable(p, space, config) for p in space.parameters)
    return replace(space, parameters=tuple(fitting))


def number_of_trials(config: TuneConfig) -> int:
    """Return the number of trials of a search: at most the points of a grid."""
    space = fitting_space(config)
    points = space.size if (config.sampler or space.sampler) == "grid" else None
    trials = config.trials or points or DEFAULT_TRIALS
    return trials if points is None else min(trials, points)


def _buildable(parameter: Categorical, space: Space, config: TuneConfig) -> Categorical:
    """Return the parameter with the values whose network can be built; on the meta device, which costs no memory."""
    others = {p.name: next(iter(p.options)) if isinstance(p, Categorical) else p.low for p in space.parameters}
    options, error = {}, None
    for label, settings in parameter.options.items():
        try:
            with torch.device("meta"):
                build_model(space.config(config, {**others, parameter.name: label}))
            options[label] = settings
        except UsageError as too_deep:
            log.warning("%s %s is left out of space %s: %s", parameter.name, label, space.name, too_deep)
            error = too_deep
    if not options:
        raise UsageError(f"no {parameter.name} of space {space.name} can be built: {error}")
    return replace(parameter, options=options)


def run_next(
    search: Search,
    study: optuna.Study,
    device: torch.device,
    interrupt: Interrupt = lambda: None,
    task: str | None = None,
) -> int:
    """Train the next point of the storage and record the result; return the number of the trial.

    A cluster's ``task`` that comes again, because its first worker died, trains the point that it had.

    A point whose settings were trained before takes over that result. A point that cannot be trained is kept as pruned,
    with the reason, so that the sampler learns from it.

    Raises:
        Interrupted: if a signal came. The trial stays open in the storage, and is tried again when the search resumes.
    """
    begin = time.perf_counter()
    trial = storage.next_trial(study, search.folder, search.space, search.sampler, search.config.seed, task)
    settings_hash = ""  # until the point's settings fit each other

    def end(value: float | None, **facts: Any) -> int:
        seconds = round(time.perf_counter() - begin, 2)
        facts = {"threads": torch.get_num_threads(), **facts}
        facts |= {"settings": settings_hash, "code_hash": code_hash(), "seconds": seconds}
        trial.set_user_attr("facts", facts)  # together: every attribute is a line that is synced to disk
        study.tell(trial, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
        return trial.number

    def cannot(error: Exception) -> int:
        log.warning("trial %d cannot be trained: %s", trial.number, error)
        return end(None, why=str(error).splitlines()[0])

    def report(number: int, value: float) -> None:
        trial.report(value, number)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        config = search.space.config(search.config, trial.params)
    except UsageError as error:  # two searched settings, or a searched and a fixed one, that exclude each other
        return cannot(error)
    settings_hash = config_hash(config, exclude={"trials"})
    if (same := storage.same_settings(study, settings_hash)) is not None:
        facts = same.user_attrs["facts"]
        return end(same.value, same_as=same.number, **{k: facts.get(k) for k in ("nll", "temperature", "threads")})
    try:
        result = search.train(search.config, config, report, device, interrupt)
    except optuna.TrialPruned:
        return end(None)
    except (BalancerError, MemoryError, RuntimeError) as error:  # a rate too high, a batch too large
        if not isinstance(error, BalancerError) and not is_out_of_memory(error):
            raise
        return cannot(error)
    return end(result.value, nll=result.nll, temperature=result.temperature)


def run_search(
    search: Search,
    jobs: int = 1,
    timeout: float | None = None,
    on_trial: Callable[[SearchTrial], None] = lambda _: None,
    cluster: Workers | None = None,
) -> list[SearchTrial]:
    """Run the trials that the storage lacks; return all its trials.

    Args:
        search: what to run.
        jobs: processes of this machine that share the storage.
        timeout: seconds after which no further trial starts; None: no limit.
        on_trial: called in this process with every trial that has ended, those of earlier commands first.
        cluster: workers of other machines, in place of ``jobs``, that see the folder of the search.

    Raises:
        Interrupted: if SIGINT or SIGTERM came; finished trials are in the storage.
        BalancerError: if the storage is damaged or of other data, a worker died, or no trial could be finished.
    """
    storage.recover(search.folder, [p.name for p in search.space.parameters])
    study, begin = search.storage(), time.monotonic()
    if search.train is train_point:
        facts = provenance(open_once(search.config))
        storage.check_data(study, {key: facts[key] for key in facts if key != "config_hash"})
    before, total = storage.read_trials(study), number_of_trials(search.config)
    missing = max(total - len(before), 0)
    for trial in before:
        on_trial(trial)
    if before:
        log.info("%d of %d trials were done before", len(before), total)

    def starts() -> Iterator[int]:
        """Yield once for every trial to start; advanced when a process is free."""
        for number in range(missing):
            if timeout is not None and time.monotonic() - begin >= timeout:
                log.warning("--timeout: %d of %d trials are left out; continue with --resume", missing - number, total)
                return
            yield number

    if cluster:
        search = replace(search, command=uuid.uuid4().hex)
        ended = run_on_cluster(_attempt_there, (search for _ in starts()), cluster)
    elif jobs == 1:
        device = resolve_device(search.device)
        ended = run_in_this_process(lambda _, interrupt: run_next(search, study, device, interrupt), starts())
    else:
        workers = Workers(search.device, jobs, threads=search.threads)
        ended = run_in_processes((delayed(_attempt_next)(search) for _ in starts()), workers)
    kept = Kept(search.folder, search.folder / storage.JOURNAL)
    with with_resume_note(kept), progress.bar(missing, "trials", "trial") as bar, closing(ended):
        for number in ended:
            bar.update()
            ended_so_far = storage.read_trials(study)
            log.info("%s", storage.describe(ended_so_far, number, total))
            on_trial(next(trial for trial in ended_so_far if trial.trial == number))
    trials = storage.read_trials(study)
    if not complete_trials(trials):
        why = next((f": trial {t.trial}, {t.why}" for t in trials if t.why), "")
        raise BalancerError(
            f"no trial of {len(trials)} could be finished{why}; raise --timeout, or change the settings"
        )
    return trials


@lru_cache(maxsize=1)
def _storage_once(search: Search) -> optuna.Study:
    """Return the storage, read from its beginning once per worker and command. The data are opened anew with it."""
    open_once.cache_clear()
    return search.storage()


def _attempt_next(search: Search, interrupt: Interrupt = lambda: None, task: str | None = None) -> Attempt[int]:
    """Run the next trial in a worker, on data that must be those of the main process."""

    def prepare() -> torch.device:
        if not search.folder.is_dir():
            raise BalancerError(f"there is no {search.folder} here; on a cluster, a search needs a disk that all share")
        _ = search.space  # warns of networks left out
        study = _storage_once(search)
        if search.train is train_point:
            refuse_other_data(open_once(search.config), storage.recorded_data(study))
        return resolve_device(search.device)

    def job(device: torch.device) -> int:
        return run_next(search, _storage_once(search), device, interrupt, task)

    return attempt(search.threads, prepare, job)


def _attempt_there(search: Search) -> Attempt[int]:
    """Run the next trial in a dask worker."""
    from distributed import get_worker

    task = str(get_worker().get_current_task())
    return in_worker(lambda interrupt: _attempt_next(search, interrupt, task))
