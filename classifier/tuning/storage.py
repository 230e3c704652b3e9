"""The journal of a search: an Optuna study in one append-only file, which several processes share and a kill cannot spoil.

Everything that decides the next point is in it, so a search that was interrupted goes on as it would have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from balancer.core.errors import BalancerError
from balancer.core.seeding import derive_seed
from classifier.tuning.spaces import Choice, Range, Space

try:
    import optuna
except ImportError as missing:
    raise BalancerError("`classifier tune` needs Optuna; run pip install 'xray-balancer[tune]'") from missing
from optuna import Study as Journal
from optuna import TrialPruned
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "ENDED",
    "JOURNAL",
    "Journal",
    "Row",
    "TrialPruned",
    "TrialState",
]  # Optuna's, for who imports only this module

log = logging.getLogger("balancer")
JOURNAL = "journal.log"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
NOTED = ("nll", "temperature", "seconds", "same_as", "why", "code_hash")
ENOUGH = 10  # finished trials from which on importances are worth a look
Row = dict[str, Any]


class _Grid(optuna.samplers.GridSampler):
    """Optuna's, which would end a search by itself; here the number of trials does, and a point that a kill cut short comes
    again."""

    def after_trial(self, *_args: Any, **_kwargs: Any) -> None:
        pass


def _grid(space: Space, root: int, _given: int) -> optuna.samplers.BaseSampler:
    """Every point once, in an order shuffled by the seed of the run."""
    return _Grid(space.grid(), seed=_seed32(root, "grid"))


def _tpe(_space: Space, root: int, given: int) -> optuna.samplers.BaseSampler:
    """Bergstra et al. 2011 (NeurIPS 24), all parameters together (Falkner et al. 2018, arXiv:1807.01774). Points that other
    workers are at count as bad, so that no two try the same."""
    return optuna.samplers.TPESampler(seed=_seed32(root, "sampler", given), multivariate=True, constant_liar=True)


def _random(_space: Space, root: int, given: int) -> optuna.samplers.BaseSampler:
    """Bergstra & Bengio 2012 (JMLR 13)."""
    return optuna.samplers.RandomSampler(seed=_seed32(root, "sampler", given))


def _seed32(root: int, *names: str | int) -> int:
    return derive_seed(root, *names) % 2**32


# (space, seed of the run, points given out before) to the sampler of the next point.
SAMPLERS: dict[str, Callable[[Space, int, int], optuna.samplers.BaseSampler]] = {
    "grid": _grid,
    "tpe": _tpe,
    "random": _random,
}
# The median rule (Golovin et al. 2017, doi:10.1145/3097983.3098043) ends a trial that is worse than half of those before it
# were at the same look. Halving rules (Li et al. 2020, arXiv:1810.05934) keep a third at a time: with five looks, and schedules
# whose curves cross, they would end good trials. The first look never decides, and none does before five trials are whole.
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2, n_min_trials=3),
    "none": optuna.pruners.NopPruner,
}


def open_journal(folder: Path, pruner: str = "none") -> Journal:
    """The Optuna study of a run, made where there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.create_study(
        storage=storage, study_name="tune", direction="minimize", load_if_exists=True, pruner=PRUNERS[pruner]()
    )


def recover(folder: Path) -> None:
    """Put right what a kill left behind: a lock, a torn line, and trials that nobody runs any more, which are tried again.

    Only for who holds the run directory, while no worker is at work.

    Raises:
        BalancerError: the journal is damaged elsewhere than in its last line.
    """
    journal = folder / JOURNAL
    (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            log.warning("%s: the last line is torn and was dropped", journal)
            with journal.open("r+b") as handle:
                handle.truncate(whole)
    try:
        study = open_journal(folder)
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or no operation of Optuna's
        raise BalancerError(
            f"{journal} is damaged ({type(error).__name__}: {error}); bring back a copy, or start a new run"
        ) from error
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,  # which point of the grid it is
            )
        )


def remember(study: Journal, facts: dict[str, str]) -> None:
    """Tie a journal to the data that its trials were made on.

    Raises:
        BalancerError: it was begun on other data.
    """
    before = study.user_attrs.get("data", facts)
    if changed := [f"{k} {before.get(k)}, now {v}" for k, v in facts.items() if before.get(k) != v]:
        raise BalancerError(
            f"the journal holds trials on other data ({'; '.join(changed)}); bring them back, or start a new run"
        )
    study.set_user_attr("data", facts)


def ask(study: Journal, folder: Path, space: Space, sampler: str, seed: int) -> optuna.Trial:
    """The next point, one that a kill cut short before any new one.

    One process asks at a time, so that no point of a grid is given out twice. The sampler is seeded by the run's seed and the
    number of points given out before: no two workers draw the same, and an interrupted search goes on with the same draws.
    """
    with filelock.FileLock(folder / ".ask.lock"):
        given = sum(t.state != TrialState.FAIL for t in study.get_trials(deepcopy=False))
        study.sampler = SAMPLERS[sampler](space, seed, given)
        trial = study.ask()
        for parameter in space.parameters:
            _suggest(trial, parameter)
        return trial


def _suggest(trial: optuna.Trial, parameter: Choice | Range) -> None:
    if isinstance(parameter, Choice):
        trial.suggest_categorical(parameter.name, list(parameter.options))
    else:
        trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def twin(study: Journal, settings: str) -> FrozenTrial | None:
    """A finished trial with the same settings, by their hash; trained with the same seeds, it is the same classifier."""
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((t for t in whole if t.user_attrs["facts"]["settings"] == settings), None)


def rows(study: Journal) -> list[Row]:
    """The trials in order of their numbers: ``trial``, ``state`` (complete or pruned), ``value`` (None where there is none),
    ``looks`` (figure by look), ``params``, and what :func:`classifier.tuning.search.run_next` noted."""
    return [
        {
            "trial": t.number,
            "state": t.state.name.lower(),
            "value": t.value,
            "looks": {str(look): value for look, value in sorted(t.intermediate_values.items())},
            "params": dict(t.params),
            **{key: t.user_attrs["facts"].get(key) for key in NOTED},
        }
        for t in study.get_trials(deepcopy=False, states=ENDED)
    ]


def importances(study: Journal, seed: int) -> dict[str, float] | None:
    """Share of the variance of the log figure that each parameter explains, from 0 to 1, the largest first; None with fewer
    than ten finished trials, or where all are alike. Functional ANOVA on a random forest (Hutter et al. 2014, ICML 31)."""
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(whole) < ENOUGH:
        return None
    evaluator = FanovaImportanceEvaluator(seed=_seed32(seed, "importances"))
    try:
        found = get_param_importances(study, evaluator=evaluator, target=_log_value)
    except (ValueError, RuntimeError) as error:  # every figure the same
        log.warning("no importances: %s", error)
        return None
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _log_value(trial: FrozenTrial) -> float:
    """A likelihood a tenth as good is as far away at .1 as at .01."""
    return math.log(max(trial.value or 0.0, 1e-9))
