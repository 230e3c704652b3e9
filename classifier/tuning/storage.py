"""The storage of a search: an Optuna study in one append-only file, shared by several processes and safe from a kill.

The file holds everything that decides the next point, so an interrupted search continues as if never stopped. Each line
carries its own SHA-256, in a key that Optuna ignores.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import filelock
from pydantic import ConfigDict

from balancer.core.errors import BalancerError
from balancer.core.extras import install
from balancer.core.sealed import KEY, DamagedFile, digest, warn_of_no_seal
from balancer.core.seeding import derive_seed
from balancer.core.shapes import parse
from classifier.tuning.spaces import Categorical, Range, Space

try:
    import optuna
except ImportError as missing:
    raise BalancerError(f"`classifier tune` needs Optuna; run {install('tune')}") from missing
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger("balancer")
GRID_POINT = "grid_id"  # Optuna's name for the attribute that tells all parameters of a point of the grid
TASK = "task"  # the attribute that tells which job of a cluster trains the point
JOURNAL = "journal.log"  # Optuna's name for such a file
REMEDY = "bring back a copy, or start a new run"
MIN_TRIALS = 10  # finished trials from which on importances mean something


@dataclass(frozen=True)
class SearchTrial:
    """A trial that has ended: a point of the space, and its value on validation."""

    trial: int
    state: str  # complete or pruned
    value: float | None  # mean of ``nll``; of a pruned trial the value at its last validation
    validations: dict[int, float]  # value by the number of the validation
    params: dict[str, Any]
    nll: list[float] | None  # by trial seed, in nats, after temperature scaling
    temperature: list[float] | None  # by trial seed
    seconds: float
    same_as: int | None  # the earlier trial with the same settings
    why: str | None  # why the point could not be trained
    code_hash: str
    threads: int | None  # that computed; None: an earlier version did not say

    @property
    def complete(self) -> bool:
        """Return whether the trial was not pruned."""
        return self.state == "complete"


@dataclass(frozen=True)
class _Facts:
    """What the storage holds of a trial that has ended, beside Optuna's own."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)
    settings: str  # the hash of the settings; empty if they do not fit each other
    code_hash: str
    seconds: float
    nll: list[float] | None = None
    temperature: list[float] | None = None
    same_as: int | None = None
    why: str | None = None
    threads: int | None = None


class _SealedJournal(JournalFileBackend):
    """Optuna's file, each line of which carries the SHA-256 of its content."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines with their seals."""
        super().append_logs([{**entry, KEY: digest(json.dumps(entry).encode())} for entry in logs])

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the content of lines without their seals.

        Raises:
            DamagedFile: a line differs from its SHA-256.
        """
        for number, entry in enumerate(super().read_logs(log_number_from), log_number_from + 1):
            seal = entry.pop(KEY, None)
            if seal is None:
                warn_of_no_seal(self._path)
            elif seal != digest(json.dumps(entry).encode()):
                raise DamagedFile(self._path, f"line {number} differs from its SHA-256", REMEDY)
            yield entry


def complete_trials(trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the trials that were not pruned, the lowest value first; of equal values the earliest."""
    return sorted((t for t in trials if t.complete), key=lambda t: (t.value, t.trial))


def _seed32(root: int, *names: str | int) -> int:
    return derive_seed(root, *names) % 2**32


class _Grid(optuna.samplers.GridSampler):
    """Optuna's sampler, but the number of trials ends the search, since a killed point comes again."""

    def after_trial(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing."""


# (space, seed of the run, number of points started before) to the sampler of the next point. grid: every point once, in
# an order shuffled by the seed. tpe: Bergstra et al. 2011 (NeurIPS 24), over all parameters jointly (Falkner et al.
# 2018, arXiv:1807.01774); points that other workers train count as bad, so that no two workers try the same. random:
# Bergstra & Bengio 2012 (JMLR 13).
SAMPLERS: dict[str, Callable[[Space, int, int], optuna.samplers.BaseSampler]] = {
    "grid": lambda space, seed, _: _Grid(space.grid(), seed=_seed32(seed, "grid")),
    "tpe": lambda _, seed, started: optuna.samplers.TPESampler(
        seed=_seed32(seed, "sampler", started), multivariate=True, constant_liar=True
    ),
    "random": lambda _, seed, started: optuna.samplers.RandomSampler(seed=_seed32(seed, "sampler", started)),
}
# The median rule (Golovin et al. 2017, doi:10.1145/3097983.3098043) ends a trial that is worse than half of the earlier
# trials were at the same validation. Halving rules (Li et al. 2020, arXiv:1810.05934) keep a third at a time. With five
# validations, and schedules whose curves cross, they would end good trials. The first validation never decides, and
# none does before five trials are complete.
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2, n_min_trials=3),
    "none": optuna.pruners.NopPruner,
}


def open_storage(folder: Path, pruner: str = "none") -> optuna.Study:
    """Return the Optuna study of a run, and make it if there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(_SealedJournal(folder / JOURNAL))
    return optuna.create_study(
        storage=storage, study_name="tune", direction="minimize", load_if_exists=True, pruner=PRUNERS[pruner]()
    )


def recover(folder: Path, parameters: Collection[str] = ()) -> None:
    """Repair what a kill left behind: a lock, a torn line, and trials that no process runs any more.

    Those trials are tried again. A point that was half drawn is drawn anew: the sampler's seed counts the points before
    it, so the same point comes. Call this only with the run directory locked, while no worker runs.

    Args:
        folder: of the run.
        parameters: names of the space's parameters, all of which a drawn point has.

    Raises:
        DamagedFile: if the file is damaged elsewhere than in its last line.
    """
    journal = folder / JOURNAL
    (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            log.warning("%s: the last line is torn and was dropped", journal)
            with journal.open("r+b") as handle:
                handle.truncate(end)
    try:
        search = open_storage(folder)
    except (BalancerError, OSError):
        raise
    except Exception as error:  # not JSON, or no operation of Optuna's, which raises many kinds
        raise DamagedFile(journal, f"{type(error).__name__}: {' '.join(str(error).split())}", REMEDY) from error
    read_trials(search)  # refuses trials of another shape before the search relies on them
    _try_again(search, search.get_trials(states=(TrialState.RUNNING,)), parameters)


def _try_again(search: optuna.Study, trials: Sequence[FrozenTrial], parameters: Collection[str]) -> None:
    """Give trials up that no process runs any more, and let their points come before any new one."""
    for trial in trials:
        search.tell(trial.number, state=TrialState.FAIL)
        if GRID_POINT not in trial.system_attrs and not trial.params.keys() >= set(parameters):
            continue
        search.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,  # holds the point of the grid
            )
        )


def check_data(search: optuna.Study, provenance: dict[str, str]) -> None:
    """Record the data that the trials are trained on, and refuse other data.

    Raises:
        BalancerError: if earlier trials were trained on other data.
    """
    before = search.user_attrs.get("data", provenance)
    if changed := [f"{k} {before.get(k)}, now {v}" for k, v in provenance.items() if before.get(k) != v]:
        raise BalancerError(
            f"{JOURNAL} holds trials on other data ({'; '.join(changed)}); bring them back, or start a new run"
        )
    search.set_user_attr("data", provenance)


def recorded_data(search: optuna.Study) -> dict[str, str]:
    """Return the data of the process that runs the search, as :func:`check_data` has recorded them."""
    return dict(search.user_attrs["data"])


def next_trial(
    search: optuna.Study, folder: Path, space: Space, sampler: str, seed: int, task: str | None = None
) -> optuna.Trial:
    """Return the next trial; a point that a kill stopped comes before any new one.

    One process asks at a time, so that no point of a grid is tried twice. The sampler is seeded by the run's seed and
    the number of points started before. So no two workers draw the same, and a resumed search draws as it would have.

    Dask gives the ``task`` of a worker that died to another worker, which finds the point by the task.
    """
    with filelock.FileLock(folder / ".ask.lock"):
        if task is not None:
            running = search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            lost = [trial for trial in running if trial.user_attrs.get(TASK) == task]
            _try_again(search, lost, [parameter.name for parameter in space.parameters])
        started = sum(t.state != TrialState.FAIL for t in search.get_trials(deepcopy=False))
        search.sampler = SAMPLERS[sampler](space, seed, started)
        trial = search.ask()
        for parameter in space.parameters:
            _suggest(trial, parameter)
        if task is not None:
            trial.set_user_attr(TASK, task)
        return trial


def _suggest(trial: optuna.Trial, parameter: Categorical | Range) -> None:
    if isinstance(parameter, Categorical):
        trial.suggest_categorical(parameter.name, list(parameter.options))
    else:
        trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def same_settings(search: optuna.Study, settings_hash: str) -> FrozenTrial | None:
    """Return a complete trial with the same settings and seeds, which is the same classifier; None if there is none."""
    complete = search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((t for t in complete if t.user_attrs["facts"]["settings"] == settings_hash), None)


def read_trials(search: optuna.Study) -> list[SearchTrial]:
    """Return the trials that have ended, in the order of their numbers.

    Raises:
        DamagedFile: the storage lacks a value of a trial, or holds one of another type.
    """
    trials = []
    for t in search.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        facts = parse(_Facts, t.user_attrs.get("facts"), Path(JOURNAL), REMEDY, f"trial {t.number}")
        of_search = {key: value for key, value in vars(facts).items() if key != "settings"}
        validations = dict(sorted(t.intermediate_values.items()))
        point = t.number, t.state.name.lower(), t.value, validations, dict(t.params)
        trials.append(SearchTrial(*point, **of_search))
    return trials


def importance_evaluator(seed: int) -> FanovaImportanceEvaluator:
    """Return the functional ANOVA on a random forest (Hutter et al. 2014, ICML 31)."""
    return FanovaImportanceEvaluator(seed=_seed32(seed, "importances"))


def importances(search: optuna.Study, seed: int) -> dict[str, float] | None:
    """Return the share of the variance of log NLL that each parameter explains, in [0, 1], the largest first.

    Return None with fewer than ten complete trials, or if all values are equal.
    """
    if len(search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < MIN_TRIALS:
        return None
    try:
        shares = get_param_importances(search, evaluator=importance_evaluator(seed), target=log_value)
    except (ValueError, RuntimeError) as error:  # all values are equal
        log.warning("no importances: %s", error)
        return None
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def log_value(trial: FrozenTrial) -> float:
    """Return the log of the value: a tenth of the NLL counts the same at .1 and at .01."""
    return math.log(max(trial.value or 0.0, 1e-9))


def describe(trials: list[SearchTrial], number: int, total: int) -> str:
    """Return a line on a trial that has ended."""
    (trial,) = (t for t in trials if t.trial == number)
    complete = complete_trials(trials)
    best = f", best {complete[0].value:.4f}" if complete else ""
    same_as = f" as trial {trial.same_as}" if trial.same_as is not None else ""
    result = f"validation NLL {trial.value:.4f}{same_as}" if trial.complete else "pruned"
    return f"[{len(trials)}/{total}] trial {number}: {result}{best}, {trial.seconds:.0f} s"
