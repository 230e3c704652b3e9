"""A simulated federation: every trial of the comparison, kept as it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import torch

from balancer.core.device import resolve_device
from balancer.core.errors import BalancerError
from balancer.core.jsonl import append_jsonl, drop_lines, scan_jsonl
from balancer.core.marker import MARKER
from balancer.core.run import RunDir
from balancer.core.settings import FederateConfig
from balancer.core.signals import deferred_signals
from classifier.analysis.reading import recover_trials
from classifier.analysis.results import RESULTS, TrialResult
from classifier.experiments.ablation import write_split
from classifier.experiments.jobs import Interrupt, Kept, run_in_this_process, with_resume_note
from classifier.experiments.plan import Trial
from classifier.experiments.study import Study, check_provenance
from classifier.experiments.trial import run_trial, save_trial
from classifier.federation import processes
from classifier.federation.addresses import HostPort, ServerSecurity
from classifier.federation.algorithms import Algorithm, select_algorithms
from classifier.federation.coordinator import Federation, Outcome, Plan, lost_notes, read_rounds
from classifier.federation.partition import FILE, Partition, by_dirichlet, by_source, check_sites
from classifier.federation.processes import LOGS, SiteProcess
from classifier.federation.results import site_result
from classifier.federation.server import FlowerLink, listening
from classifier.federation.site import agreement_of
from classifier.federation.worker import folder_of
from classifier.training.regimes import REGIMES

log = logging.getLogger("balancer")
POOLED, ALONE = "pooled", "alone"
JOIN_SECONDS = 120.0  # for all processes of sites to start, to read the data and to join
LOOPBACK = HostPort("127.0.0.1", 0)


@dataclass(frozen=True)
class Arm:
    """One way of training, of one trial seed."""

    name: str  # pooled, alone, or an algorithm
    seed: int
    site: int | None = None  # of a site alone

    @property
    def title(self) -> str:
        """Return the name of the training: ``alone-0, site 1``."""
        return f"{self.name}-{self.seed}" + ("" if self.site is None else f", site {self.site}")


@dataclass(frozen=True)
class Simulation:
    """The data, the sites, and what is compared."""

    config: FederateConfig
    study: Study
    partition: Partition
    algorithms: list[Algorithm]

    @property
    def sites(self) -> range:
        """Return the numbers of the sites."""
        return range(len(self.partition.names))

    @property
    def arms(self) -> list[Arm]:
        """Return all trainings, seed by seed, so that pairs are complete early."""
        return [
            arm
            for seed in range(self.config.seed, self.config.seed + self.config.seeds)
            for arm in (
                Arm(POOLED, seed),
                *(Arm(ALONE, seed, site) for site in self.sites),
                *(Arm(algorithm.name, seed) for algorithm in self.algorithms),
            )
        ]

    def keys_of(self, arm: Arm) -> list[tuple[str, int, int | None]]:
        """Return the keys of the lines in ``results.jsonl`` that a training leaves: a federation, one for each site."""
        sites = [arm.site] if arm.name in (POOLED, ALONE) else list(self.sites)
        return [(arm.name, arm.seed, site) for site in sites]


@dataclass(frozen=True)
class Finished:
    """What a simulation gave."""

    trials: list[TrialResult]
    notes: list[str]  # on sites that were lost
    received: int  # bytes of all answers of this command
    outcomes: list[Outcome]  # of the federations of this command


def open_simulation(study: Study, config: FederateConfig) -> Simulation:
    """Deal out the patients, and check that every site can train.

    Raises:
        UsageError: the settings do not fit the data.
        BalancerError: a site has no images or one class.
    """
    algorithms = select_algorithms(config.algorithms)
    if config.simulate == "source":
        partition = by_source(study.data, config.sites)
    else:
        partition = by_dirichlet(study.data, config.sites, config.alpha)
    check_sites(study.data, partition, config.batch_size)
    return Simulation(config, study, partition, algorithms)


def simulate(simulation: Simulation, run: RunDir, device: str, threads: int) -> Finished:
    """Run the trainings that ``results.jsonl`` does not hold yet; return all trials.

    Raises:
        Interrupted: a signal came; finished trials are kept.
        BalancerError: a training failed, or the finished trials do not belong to these data and settings.
    """
    study, arms = simulation.study, simulation.arms
    trials = {
        _key(t): t for t in recover_trials(run / RESULTS, lambda t: check_provenance(t, study, str(run / RESULTS)))
    }
    missing = [arm for arm in arms if not trials.keys() >= set(simulation.keys_of(arm))]
    if missing:
        (run / MARKER).unlink(missing_ok=True)
    write_split(study, run, expected=bool(trials))
    simulation.partition.write(run / FILE, study.data)
    if trials:
        log.info("%d of %d trainings were done before", len(arms) - len(missing), len(arms))
    with with_resume_note(Kept(run.path, run / RESULTS, "training")), ExitStack() as stack:
        sites = Sites(simulation, run, device, threads, stack)

        def train(arm: Arm, interrupt: Interrupt) -> list[TrialResult]:
            if arm.name in (POOLED, ALONE):
                return [_centrally(arm, simulation, run, resolve_device(device), interrupt)]
            return _together(arm, simulation, run, sites, resolve_device(device), interrupt)

        trained = zip(missing, run_in_this_process(train, missing), strict=True)
        for number, (arm, made) in enumerate(trained, len(arms) - len(missing) + 1):
            with deferred_signals():
                again = trials.keys() & set(simulation.keys_of(arm))
                _forget(run, again)
                for key in again:
                    del trials[key]
                for trial in made:
                    append_jsonl(run / RESULTS, trial.to_json())
                    trials[_key(trial)] = trial
            took = f"{made[0].seconds:.0f} s" if made else "every site was lost in some round"
            log.info("[%d/%d] %s: %s", number, len(arms), arm.title, took)
    kept = [trials[key] for arm in arms for key in simulation.keys_of(arm) if key in trials]
    notes = lost_notes(read_rounds(run.path), simulation.partition.title)
    return Finished(kept, notes, sites.received, sites.outcomes)


def _forget(run: RunDir, again: Set[tuple[str, int, int | None]]) -> None:
    """Drop the lines of a federation that was trained again, since it had lost a site."""
    if again:
        rows = scan_jsonl(run / RESULTS).rows.items()
        drop_lines(
            run / RESULTS, {n for n, row in rows if (row["regime"], row["trial_seed"], row.get("site")) in again}
        )


class Sites:
    """The server and the processes of all sites: started when a federation needs them, and again if one has died."""

    def __init__(self, simulation: Simulation, run: RunDir, device: str, threads: int, stack: ExitStack) -> None:
        self._simulation, self._run, self._device, self._threads = simulation, run, device, threads
        self._stack = stack.enter_context(ExitStack())
        self._processes: list[SiteProcess] = []
        self._links: list[FlowerLink] = []
        self._federation: Federation | None = None
        self.outcomes: list[Outcome] = []

    @property
    def received(self) -> int:
        """Return the bytes of all answers."""
        return sum(link.received for link in self._links)

    def train(self, plan: Plan, interrupt: Interrupt) -> Outcome:
        """Train together.

        Raises:
            BalancerError: a site cannot start, or none is left.
        """
        federation = self._federation
        if federation is None or any(process.ended for process in self._processes):
            federation = self._federation = self._start(interrupt)
        self._links[-1].interrupt = interrupt
        self.outcomes.append(federation.train(plan, self._simulation.config.steps))
        return self.outcomes[-1]

    def _start(self, interrupt: Interrupt) -> Federation:
        """Start the server and a process for each site, which only these processes may join; end earlier ones."""
        self._stack.close()
        config, data, partition = self._simulation.config, self._simulation.study.data, self._simulation.partition
        pairs = [processes.new_key() for _ in self._simulation.sites]
        known = {partition.title(site): public for site, (_, public) in enumerate(pairs)}
        listener = listening(LOOPBACK, ServerSecurity(), known, config.round_seconds)
        address, link = self._stack.enter_context(listener)
        keys = [private for private, _ in pairs]
        started = processes.running(config, address, keys, self._run.path, self._device, self._threads)
        self._processes = self._stack.enter_context(started)
        self._links.append(link)
        link.interrupt = interrupt
        link.gone = lambda: [site for site, process in enumerate(self._processes) if process.ended]
        try:
            link.wait_for(len(pairs), JOIN_SECONDS)
        except BalancerError as error:
            words = [f"{p.log.name}: {p.last_words}" for p in self._processes if p.ended]
            place = f"their logs are in {self._run / LOGS}"
            raise BalancerError(f"{error}; {'; '.join(words) or place}") from error
        agreement = agreement_of(config, data.classes, data.channels)
        federation = Federation(config, agreement, link, lambda done, _: self._run.metrics(asdict(done)))
        federation.join()
        return federation


def _key(trial: TrialResult) -> tuple[str, int, int | None]:
    return trial.regime, trial.trial_seed, trial.site


def _centrally(
    arm: Arm, simulation: Simulation, run: RunDir, device: torch.device, interrupt: Interrupt
) -> TrialResult:
    """Train on pooled data or at one site alone, as `classifier train` does."""
    study, folder = simulation.study, f"{arm.name}-{arm.seed}"
    if arm.site is not None:
        folder = f"{folder}/site-{arm.site}"
        study = replace(study, data=simulation.partition.data_of(study.data, arm.site, with_test=True))
    trained = run_trial(study, Trial(REGIMES[simulation.config.regime], arm.seed), device, interrupt)
    place = run / "trials" / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    return replace(save_trial(trained, run.path, place), regime=arm.name, site=arm.site)


def _together(
    arm: Arm, simulation: Simulation, run: RunDir, sites: Sites, device: torch.device, interrupt: Interrupt
) -> list[TrialResult]:
    """Train in a federation; return a result for each site that took part to the end, by its own threshold."""
    config, begin = simulation.config, time.perf_counter()
    (algorithm,) = select_algorithms([arm.name])
    plan = Plan(algorithm, arm.seed, config.rounds, config.mu)
    outcome = sites.train(plan, interrupt)
    seconds = time.perf_counter() - begin
    results, lost = [], {site for done in outcome.rounds for site in done.lost}
    for site in (site for site in outcome.counts if site not in lost):  # a slow site comes back, and has missed rounds
        data = simulation.partition.data_of(simulation.study.data, site, with_test=True)
        folder, study = folder_of(run.path, plan.name, site), replace(simulation.study, data=data)
        results.append(
            site_result(study, config, folder, run.path, plan.algorithm.name, plan.seed, site, seconds, device)
        )
    return results
