"""`classifier federate-serve`: wait for the sites, lead the rounds, keep the weights of all of them together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, write_bytes
from balancer.core.pixels import COLOUR, GREY
from balancer.core.run import RunDir
from balancer.core.sealed import DamagedFile, load_arrays, save_arrays, tensor_bytes, write_json
from balancer.core.settings import ClassifierConfig, FederateServeConfig
from balancer.reporting.numbers import percent, plural
from classifier.federation.addresses import HostPort, ServerSecurity
from classifier.federation.algorithms import check_recipe, round_ends, select_algorithms
from classifier.federation.coordinator import Federation, Outcome, Plan, Progress, Round, lost_notes, read_rounds
from classifier.federation.server import listening, site_keys
from classifier.federation.site import agreement_of
from classifier.training.checkpoint import CHECKPOINT
from classifier.training.record import ClassifierRecord
from classifier.training.trainer import check

log = logging.getLogger("balancer")
ROUND_FILE = "rounds.npz"  # the weights after the newest round
RESULT = "federation.json"


@dataclass(frozen=True)
class ServedFederation:
    """A federation that has ended."""

    algorithm: str
    rounds: int
    sites: dict[str, dict[str, int]]  # the counts of each site by its name
    classes: tuple[str, ...]
    notes: list[str]
    model: Path | None  # None where every site has a model of its own

    def to_json(self) -> JsonObject:
        """Return the content of federation.json."""
        return {**asdict(self), "classes": list(self.classes), "model": str(self.model) if self.model else None}

    @property
    def verdict(self) -> str:
        """Return what the validation of all sites together says of the final classifier."""
        shares = []
        for k, name in enumerate(self.classes):
            right, of = (
                sum(c.get(f"val_{what}_of_class_{k}", 0) for c in self.sites.values()) for what in ("right", "images")
            )
            shares.append(f"{percent(right / of) if of else 'none'} of {of:,} {name}")
        return (
            f"{self.algorithm}: {plural(self.rounds, 'round')} with {plural(len(self.sites), 'site')}; right on"
            f" validation, at each site's threshold: {', '.join(shares)}"
        )

    def describe(self) -> str:
        """Return the verdict, and where the model lies."""
        where = f"the weights: {self.model}" if self.model else "each site has its own model, with its own BatchNorm"
        return "\n".join([self.verdict, where, *self.notes])


def check_server(config: FederateServeConfig) -> None:
    """Refuse settings that a federation cannot follow.

    Raises:
        UsageError: naming the setting.
    """
    names = config.class_names
    if len(set(names)) < max(2, len(names)):
        raise UsageError(
            f"class_names is {','.join(names)!r}; expected two names or more, each once, such as healthy,ill"
        )
    check_recipe(config)
    check(config)
    select_algorithms([config.algorithm])
    round_ends(config.steps, config.rounds)


def serve(
    config: FederateServeConfig,
    run: RunDir,
    address: HostPort,
    security: ServerSecurity,
    interrupt: Callable[[], int | None] = lambda: None,
    on_address: Callable[[HostPort], None] = lambda _: None,
) -> ServedFederation:
    """Lead a federation to its end.

    Args:
        config: settings of the training.
        run: where the weights go, after every round.
        address: to listen at.
        security: certificate of the server, and who may join.
        interrupt: returns the number of a signal that came, or None.
        on_address: is told the address, with the port that was taken.

    Raises:
        BalancerError: a site refuses, too few join, or none is left; or the training cannot be resumed.
        Interrupted: a signal came; the newest round is kept.
    """
    channels = COLOUR if config.data.channels == COLOUR else GREY
    agreement = agreement_of(config, config.class_names, channels)
    (algorithm,) = select_algorithms([config.algorithm])
    plan = Plan(algorithm, config.seed, config.rounds, config.mu)
    begin = _kept(run)
    if begin is not None and algorithm.site_norm:
        raise BalancerError(
            f"{run.path} was stopped after round {begin.rounds} of {algorithm.name}, and its sites have lost the"
            " BatchNorm layers that they kept; start a new run"
        )

    def keep(done: Round, now: Progress) -> None:
        run.metrics(asdict(done))
        save_arrays(run / ROUND_FILE, {"rounds": np.array(now.rounds), "weights": now.weights, "average": now.average})

    with listening(address, security, site_keys(security), config.round_seconds) as (bound, link):
        link.interrupt = interrupt
        log.info("waiting at %s for %s", bound, plural(config.sites, "site"))
        on_address(bound)
        link.wait_for(config.sites, config.wait)
        federation = Federation(config, agreement, link, keep)
        federation.join()
        outcome = federation.train(plan, config.steps, begin)
        federation.end()
        names = {site: link.name(site) for site in outcome.counts}
        notes = lost_notes(read_rounds(run.path), link.name)
    result = ServedFederation(
        algorithm.name,
        config.rounds,
        {names[site]: counts for site, counts in outcome.counts.items()},
        config.class_names,
        notes,
        _write_model(config, outcome, channels, run),
    )
    write_json(run / RESULT, {**result.to_json(), "verdict": result.verdict})
    return result


def _kept(run: RunDir) -> Progress | None:
    """Return how far an earlier command came; None for a new training, or if the file is damaged."""
    try:
        kept = load_arrays(run / ROUND_FILE)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        log.warning("%s; the training begins anew", error)
        return None
    log.info("%s were done before", plural(int(kept["rounds"]), "round"))
    return Progress(int(kept["rounds"]), kept["weights"], kept["average"])


def _write_model(config: FederateServeConfig, outcome: Outcome, channels: int, run: RunDir) -> Path | None:
    """Write the classifier of all sites. No threshold was chosen for it: each site has chosen its own."""
    if outcome.model is None:
        return None
    settings = ClassifierConfig.model_validate(config.model_dump(include=set(ClassifierConfig.model_fields)))
    record = ClassifierRecord(
        settings,
        config.class_names,
        temperature=1.0,
        uncalibrated_threshold=0.5,
        regime=config.regime,
        trial_seed=config.seed,
        data_source=f"a federation of {plural(len(outcome.counts), 'site')}",
        split_hash="",
        fingerprint="",
        ranges=None,
        channels=channels,
    )
    state: dict[str, torch.Tensor] = outcome.model.state_dict()
    write_bytes(run / CHECKPOINT, tensor_bytes({**record.portable(), "state": state}))
    return run / CHECKPOINT
