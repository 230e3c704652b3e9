"""The commands of a federation as functions: ``prepare_...`` checks what it can before anything is written."""

from __future__ import annotations

from balancer.core.device import describe_device, limit_threads, open_device, resolve_device
from balancer.core.errors import UsageError
from balancer.core.loopback import listener
from balancer.core.run import PreparedRun, RunDir
from balancer.core.settings import FederateConfig, FederateJoinConfig, FederateServeConfig
from balancer.core.signals import deferred_signals
from balancer.core.speed import slowness
from balancer.core.threads import allowed_processors
from classifier.analysis.results import TrialResult
from classifier.experiments import ablation
from classifier.experiments.estimates import estimate_seconds
from classifier.experiments.study import open_study
from classifier.federation import flower
from classifier.federation.addresses import HostPort, ServerSecurity, SiteSecurity
from classifier.federation.algorithms import check_recipe, round_ends
from classifier.federation.page import FederationResult
from classifier.federation.serve import ServedFederation, check_server, serve
from classifier.federation.simulation import open_simulation
from classifier.training.checkpoint import CHECKPOINT

START = 12.0  # seconds of an estimate: the server and the processes of the sites, on the reference machine
REPORT = 6.0  # seconds of an estimate: the page
TRACKED = ("config.yaml", "env.json", "report.*", "table.csv", "federation.json", "figures/*.png")


def prepare_federation(
    config: FederateConfig, device: str, threads: int, dry: bool = False
) -> PreparedRun[FederationResult]:
    """Open the data of a simulated federation, and deal out the patients; ``dry`` decodes nothing."""
    flower.prepare()
    limit_threads(threads)
    check_recipe(config)
    round_ends(config.steps, config.rounds)
    study = open_study(config, decode=not dry)
    ablation.check(study)
    simulation = open_simulation(study, config)
    there = resolve_device(device)

    def estimate() -> float:
        one, sites = estimate_seconds(study, there), len(simulation.sites)
        together = sites / min(sites, allowed_processors()) if there.type == "cpu" else sites
        trainings = config.seeds * (1 + sites + len(simulation.algorithms) * together)
        return one * trainings + (START + REPORT) * slowness()

    def work(run: RunDir) -> FederationResult:
        from classifier.federation.comparison import compare
        from classifier.federation.page import write_federation
        from classifier.federation.simulation import simulate

        finished = simulate(simulation, run, device, threads)
        comparison = compare(finished.trials, study.data.groups, config.seed)
        return write_federation(comparison, simulation, finished, run)

    return PreparedRun(
        "federate",
        config,
        f"{describe_device(there)}, {len(simulation.sites)} sites as processes",
        study.data.describe(),
        estimate,
        work,
        if_finished="rewrite",
        tracked_files=TRACKED,
        undecoded=study.data.undecoded,
    )


def prepare_server(
    config: FederateServeConfig, address: HostPort, security: ServerSecurity
) -> PreparedRun[ServedFederation]:
    """Check the settings and the keys of a server."""
    from classifier.federation.server import site_keys

    security.check(address)
    flower.prepare()
    security.check_files()
    check_server(config)
    listener(address.host, address.port, "--address").close()  # a port that is taken is refused here
    if (keys := site_keys(security)) is not None and len(keys) < config.sites:
        raise UsageError(f"sites is {config.sites}, and --site-key names {len(keys)}; give the key of every site")

    def work(run: RunDir) -> ServedFederation:
        with deferred_signals() as interrupt:
            return serve(config, run, address, security, interrupt)

    return PreparedRun(
        "federate-serve",
        config,
        "no images here",
        None,
        lambda: 0.0,  # the sites decide
        work,
        tracked_files=("config.yaml", "env.json", "federation.json", CHECKPOINT),
    )


def prepare_site(
    config: FederateJoinConfig,
    server: HostPort,
    security: SiteSecurity,
    device_name: str,
    threads: int,
    dry: bool = False,
) -> PreparedRun[TrialResult]:
    """Open the data of a site, and check its key; ``dry`` decodes nothing."""
    from classifier.federation.join import check_joining, join

    flower.prepare()
    device = open_device(device_name, threads)
    check_recipe(config)
    security.check()
    study = open_study(config, decode=not dry)
    check_joining(study, config)

    def work(run: RunDir) -> TrialResult:
        with deferred_signals() as interrupt:
            return join(study, config, run, server, security, device, interrupt)

    return PreparedRun(
        "federate-join",
        config,
        describe_device(device),
        study.data.describe(),
        lambda: estimate_seconds(study, device),
        work,
        tracked_files=("config.yaml", "env.json", "result.json"),
        undecoded=study.data.undecoded,
    )
