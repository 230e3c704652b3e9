"""`classifier federate-join`: one site of a federation. Its images, names and figures stay in its own folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from balancer.core.errors import BalancerError, Interrupted
from balancer.core.run import RunDir
from balancer.core.sealed import write_json
from balancer.core.settings import FederateJoinConfig
from classifier.analysis.reading import RESULT, SPLIT
from classifier.analysis.results import TrialResult
from classifier.experiments.study import Study
from classifier.federation.addresses import HostPort, SiteSecurity
from classifier.federation.client import connected, serve_orders
from classifier.federation.partition import check_site
from classifier.federation.results import site_result
from classifier.federation.site import Site

log = logging.getLogger("balancer")


def check_joining(study: Study, config: FederateJoinConfig) -> None:
    """Refuse data that cannot train, before the server is asked.

    Raises:
        BalancerError: a fold lacks a class, or is smaller than a batch.
    """
    check_site(study.data, study.data.source, config.batch_size)


def join(
    study: Study,
    config: FederateJoinConfig,
    run: RunDir,
    server: HostPort,
    security: SiteSecurity,
    device: torch.device,
    interrupt: Callable[[], int | None] = lambda: None,
) -> TrialResult:
    """Train with the others until the server ends the work; then evaluate the classifier on the site's own test set.

    Raises:
        BalancerError: the server is out of reach, or wants something else than this site.
        Interrupted: a signal came.
    """

    def check_interrupt() -> None:
        if (signum := interrupt()) is not None:
            raise Interrupted(signum, "stopped; the server goes on with the other sites: to join again")

    study.data.write_split(run / SPLIT)
    begin = time.perf_counter()
    site = Site(config, study.data, device, lambda _trial: run.path, check_interrupt)
    with connected(server, security) as connection:
        log.info("joined the federation at %s", server)
        serve_orders(connection, site.answer, check_interrupt)
    if not site.finished:
        raise BalancerError(
            f"the server at {server} ended before a classifier was finished; see its log, and join again"
        )
    seconds = time.perf_counter() - begin
    trial_seed = site.finished[-1].seed
    result = site_result(study, config, run.path, run.path, config.regime, trial_seed, None, seconds, device)
    write_json(run / RESULT, result.to_json())
    return result
