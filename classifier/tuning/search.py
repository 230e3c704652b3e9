"""`classifier tune`: search the settings of a classifier on validation. The test fold is not even in memory.

A trial is one point of a space (:mod:`classifier.tuning.spaces`). Its figure is the negative log-likelihood of validation after
temperature scaling, the mean over trial seeds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from joblib import delayed

from balancer.core import progress
from balancer.core.command import CommandArgs
from balancer.core.config import config_hash, flatten, merge, validate
from balancer.core.device import limit_threads, resolve_device
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.run import deferred_signals, resumed_or_new
from balancer.core.settings import TuneConfig
from balancer.data.dataset import Dataset
from classifier.evaluation.metrics import nll
from classifier.evaluation.thresholds import fit_temperature, with_temperature
from classifier.experiments.jobs import as_one_line, in_processes, listening
from classifier.experiments.study import Study, code_hash, configure, open_study, plan, provenance
from classifier.models import build_model
from classifier.training import trainer
from classifier.training.regimes import select_regimes
from classifier.tuning import storage as journal
from classifier.tuning.spaces import Choice, Range, Space, search_space
from classifier.tuning.storage import Journal, Row, TrialPruned, TrialState

log = logging.getLogger("balancer")
Array = np.ndarray
TRIALS = 50  # of a search that is no grid
LOOKS = 1000  # more than a training has: the looks of the second trial seed are numbered from here on
Report = Callable[[int, float], None]  # the number of a look and the figure so far; ends a trial that is to be pruned
Signalled = Callable[[], int | None]


@dataclass(frozen=True)
class Measured:
    """What a point is worth on validation, by trial seed."""

    nll: list[float]  # nats, after temperature scaling
    temperature: list[float]

    @property
    def value(self) -> float:
        return float(np.mean(self.nll))


@lru_cache(maxsize=1)
def opened(config: TuneConfig) -> Study:
    """The data of a search, opened once per process; the test fold is cut off.

    Raises:
        BalancerError: the data are missing or damaged, or the regime lacks its synthetic images.
    """
    study = open_study(config)
    return replace(study, data=without_test(study.data))


def without_test(data: Dataset) -> Dataset:
    """The training and validation folds alone."""
    kept = np.flatnonzero(data.folds != "test")
    places = kept.tolist()
    return replace(
        data,
        images=data.images[kept],
        labels=data.labels[kept],
        folds=data.folds[kept],
        records=[data.records[i] for i in places],
        groups=[data.groups[i] for i in places],
        digests=[data.digests[i] for i in places],
    )


def calibrated_nll(y_true: Array, y_score: Array) -> tuple[float, float]:
    """The negative log-likelihood of validation with the temperature that suits it best, and that temperature.

    Every classifier of this package gets a temperature anyway. Without it, label smoothing, say, would lose for making scores
    less extreme, which is mended at no cost, and not for how well it tells the classes apart.
    """
    temperature = fit_temperature(y_true, y_score)
    return nll(y_true, with_temperature(y_score, temperature)), temperature


def measure(
    base: TuneConfig, config: TuneConfig, report: Report, device: torch.device, signalled: Signalled
) -> Measured:
    """Train with the settings of a point, once per trial seed, and look at validation.

    Args:
        base: the settings of the search, which name the data.
        config: those of the point.

    Raises:
        TrialPruned: ``report`` says that it is not worth going on.
        Interrupted: when ``signalled`` says so.
        BalancerError: the loss is not finite, or the settings do not fit the data.
    """
    study = opened(base)
    data, first = study.data, plan(study)[0]
    val = data.indices("val")
    images, y_true = data.images[val], data.labels[val]
    losses, temperatures = list[float](), list[float]()
    for unit in range(config.seeds):
        trial = replace(first, seed=config.seed + unit)
        numbers = iter(range(LOOKS * unit + 1, LOOKS * (unit + 1)))

        def on_validation(_step: int, y_score: Array, numbers: Iterator[int] = numbers) -> None:
            report(next(numbers), float(np.mean([*losses, calibrated_nll(y_true, y_score)[0]])))

        train = study.training_set(trial)
        fitted = trainer.train(
            config, trial.regime, trial.seed, train, (images, y_true), device, signalled, on_validation=on_validation
        )
        loss, temperature = calibrated_nll(y_true, fitted.val_score)
        losses.append(loss)
        temperatures.append(temperature)
    return Measured(losses, temperatures)


@dataclass(frozen=True)
class Search:
    """All that a worker needs to take part in a search."""

    config: TuneConfig
    folder: Path  # holds the journal
    device: str = "auto"
    objective: Callable[[TuneConfig, TuneConfig, Report, torch.device, Signalled], Measured] = measure

    @property
    def space(self) -> Space:
        """What there is to search here."""
        return fitting_space(self.config)

    @property
    def sampler(self) -> str:
        return self.config.sampler or self.space.sampler

    @property
    def pruner(self) -> str:
        return self.config.pruner or self.space.pruner

    @property
    def trials(self) -> int:
        """How many trials the search is made of."""
        return number_of_trials(self.config)

    def journal(self) -> Journal:
        """Its journal, which is made where there is none."""
        return journal.open_journal(self.folder, self.pruner)


def configured(args: CommandArgs) -> TuneConfig:
    """The settings of a new search, or of the one to resume, whose number of trials alone may be another.

    Raises:
        UsageError: an unknown space, a setting that the space searches, or a grid over a continuous space.
    """

    def new() -> TuneConfig:
        space = search_space(str(args.explicit.get("space", TuneConfig().space)))
        return cast(TuneConfig, configure(replace(args, explicit=merge(space.needs, space.fixed, args.explicit))))

    same = {key: value for key, value in args.explicit.items() if args.resume is None or key != "trials"}
    config = cast(TuneConfig, resumed_or_new(args.command, args.resume, same, new))
    if "trials" in args.explicit:
        config = validate(TuneConfig, {**config.model_dump(), "trials": args.explicit["trials"]})
    space = fitting_space(config)
    refuse_searched(space, config, args.explicit)
    if (config.sampler or space.sampler) == "grid":
        space.grid()
    return config


def refuse_searched(space: Space, config: TuneConfig, explicit: dict[str, Any]) -> None:
    """Refuse a setting that the search would overrule, or that is of another network; the default of one that is searched may
    stand, since it says nothing.

    Raises:
        UsageError: there is such a setting.
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
        if taken := sorted(searched & stage.model_dump(exclude_none=True).keys()):
            raise UsageError(
                f"stage {i} has {', '.join(taken)} of its own, but space {space.name} searches it; leave it out, or take another space"
            )


@lru_cache(maxsize=8)
def fitting_space(config: TuneConfig) -> Space:
    """The space of the settings, without what the regime makes no use of, and without networks that are too deep for the
    image size.

    Raises:
        UsageError: nothing is left of a parameter; an unknown space or regime.
    """
    regime = select_regimes((config.regime,))[0]
    space = search_space(config.space).for_regime(regime.augment)
    fitting = (p if isinstance(p, Range) else _buildable(p, space, config) for p in space.parameters)
    return replace(space, parameters=tuple(fitting))


def number_of_trials(config: TuneConfig) -> int:
    """How many trials a search is made of: no more than a grid has points."""
    space = fitting_space(config)
    points = space.size if (config.sampler or space.sampler) == "grid" else None
    wanted = config.trials or points or TRIALS
    return wanted if points is None else min(wanted, points)


def _buildable(parameter: Choice, space: Space, config: TuneConfig) -> Choice:
    """The parameter with those values whose network can be built; on the meta device, which costs no memory."""
    others = {p.name: next(iter(p.options)) if isinstance(p, Choice) else p.low for p in space.parameters}
    kept, error = {}, None
    for label, settings in parameter.options.items():
        try:
            with torch.device("meta"):
                build_model(space.config(config, {**others, parameter.name: label}))
            kept[label] = settings
        except UsageError as refused:
            log.warning("%s %s is left out of space %s: %s", parameter.name, label, space.name, refused)
            error = refused
    if not kept:
        raise UsageError(f"no {parameter.name} of space {space.name} can be built: {error}")
    return replace(parameter, options=kept)


def run_next(search: Search, study: Journal, device: torch.device, signalled: Signalled = lambda: None) -> int:
    """Take a point from the journal, measure it and write down what came of it; returns the number of the trial.

    A point whose settings were measured before takes the figure over. One that cannot be trained is kept as pruned, with the
    reason, so that the sampler learns of it.

    Raises:
        Interrupted: a signal came; the trial stays open in the journal, and is tried again when the search is resumed.
    """
    begin = time.perf_counter()
    trial = journal.ask(study, search.folder, search.space, search.sampler, search.config.seed)
    config = search.space.config(search.config, trial.params)
    settings = config_hash(config, exclude={"trials"})

    facts = {"settings": settings, "code_hash": code_hash()}

    def end(value: float | None, **more: Any) -> int:
        seconds = round(time.perf_counter() - begin, 2)
        trial.set_user_attr(
            "facts", {**facts, "seconds": seconds, **more}
        )  # together: every note is a line that is synced to disk
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        study.tell(trial, value, state)
        return trial.number

    def report(look: int, value: float) -> None:
        trial.report(value, look)
        if trial.should_prune():
            raise TrialPruned

    if (twin := journal.twin(study, settings)) is not None:
        return end(twin.value, same_as=twin.number, **{k: twin.user_attrs["facts"][k] for k in ("nll", "temperature")})
    try:
        measured = search.objective(search.config, config, report, device, signalled)
    except Interrupted:
        raise
    except TrialPruned:
        return end(None)
    except (BalancerError, torch.cuda.OutOfMemoryError) as error:  # a rate too high, a batch too large
        log.warning("trial %d cannot be measured: %s", trial.number, error)
        return end(None, why=str(error).splitlines()[0])
    return end(measured.value, nll=measured.nll, temperature=measured.temperature)


def run_search(search: Search, jobs: int = 1, timeout: float | None = None) -> list[Row]:
    """Run the trials that the journal lacks; returns all its rows, as :func:`classifier.tuning.storage.rows` gives them.

    Args:
        jobs: processes of this machine that share the journal.
        timeout: seconds after which no further trial is begun.

    Raises:
        Interrupted: SIGINT or SIGTERM came; finished trials are in the journal.
        BalancerError: the journal is of other data or damaged, a worker died, or no trial could be finished.
    """
    journal.recover(search.folder)
    study, begin = search.journal(), time.monotonic()
    if search.objective is measure:
        facts = provenance(opened(search.config))
        journal.remember(study, {key: facts[key] for key in facts if key != "config_hash"})
    done = len(journal.rows(study))
    missing = max(search.trials - done, 0)
    if done:
        log.info("%d of %d trials were done before", done, search.trials)

    def turns() -> Iterator[int]:
        """One for every trial to begin, args for when a process is free."""
        for turn in range(missing):
            if timeout is not None and time.monotonic() - begin >= timeout:
                log.warning(
                    "--timeout: %d of %d trials are left out; go on with --resume", missing - turn, search.trials
                )
                return
            yield turn

    hint = f"finished trials are kept in {search.folder / journal.JOURNAL}; continue with --resume {search.folder}"
    with as_one_line(hint), progress.bar(missing, "trials", "trial") as bar:
        for number in _here(search, study, turns()) if jobs == 1 else _beside(search, turns(), jobs):
            bar.update()
            log.info("%s", describe(journal.rows(study), number, search.trials))
    found = journal.rows(study)
    if not any(row["state"] == "complete" for row in found):
        why = next((f": trial {row['trial']}, {row['why']}" for row in found if row["why"]), "")
        raise BalancerError(f"no trial of {len(found)} could be finished{why}; raise --timeout, or change the settings")
    return found


def describe(found: list[Row], number: int, total: int) -> str:
    """One line on a trial that has ended."""
    row = next(row for row in found if row["trial"] == number)
    whole = [r["value"] for r in found if r["state"] == "complete"]
    best = f", best {min(whole):.4f}" if whole else ""
    like = f" as trial {row['same_as']}" if row["same_as"] is not None else ""
    came = f"validation NLL {row['value']:.4f}{like}" if row["state"] == "complete" else "pruned"
    return f"[{len(found)}/{total}] trial {number}: {came}{best}, {row['seconds']:.0f} s"


def _here(search: Search, study: Journal, turns: Iterator[int]) -> Iterator[int]:
    device = resolve_device(search.device)
    with deferred_signals() as signalled:
        for _ in turns:
            yield run_next(search, study, device, signalled)
            if (signum := signalled()) is not None:  # came after the last step
                raise Interrupted(signum, "stopped")


@dataclass(frozen=True)
class _Ended:
    """What a worker says of its trial."""

    number: int | None
    error: Exception | None
    said: list[tuple[int, str]]  # level and text of each warning


def _beside(search: Search, turns: Iterator[int], jobs: int) -> Iterator[int]:
    """In processes of this machine; after an error no further trial is begun, and it is raised at the end."""
    errors: list[Exception] = []
    calls = (delayed(_attempt)(search) for _ in turns if not errors)
    with closing(in_processes(calls, jobs)) as attempts:
        for ended in attempts:
            for level, text in ended.said:
                log.log(level, "%s", text)
            if ended.error is not None:
                errors.append(ended.error)
            else:
                yield ended.number
    if errors:
        raise errors[0]


@lru_cache(maxsize=1)
def _journal(search: Search) -> Journal:
    """The journal, read from its beginning only once per worker."""
    return search.journal()


def _attempt(search: Search) -> _Ended:
    """Run a trial in a worker, whatever comes of it."""
    listener = listening()
    try:
        limit_threads()
        _ = search.space  # says what is left out, which the process that args has said
        if search.objective is measure:
            opened(search.config)
        listener.said.clear()
        return _Ended(run_next(search, _journal(search), resolve_device(search.device)), None, listener.said)
    except Exception as error:
        return _Ended(None, error, listener.said)
