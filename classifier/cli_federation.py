"""`classifier`: a federation, on one machine or between hospitals."""

from __future__ import annotations

from pathlib import Path

import click

from balancer.core.command import CommandArgs, CommandResult, execute, run_command, show_run
from balancer.core.errors import UsageError
from balancer.core.options import Options, setting
from balancer.core.preview import Preview
from balancer.core.settings import FederateConfig, FederateJoinConfig, FederateServeConfig
from balancer.core.tracking_options import TRACKING
from classifier.program import main

ROUNDS = (setting("--rounds"), setting("--mu"), setting("--round-seconds"))
RECIPE = Options(
    "Training, the same at the server and at every site",
    (
        setting("--regime"),
        setting("--model"),
        setting("--weights", metavar="imagenet|none|FILE"),
        setting("--augmentation"),
        setting("--steps"),
        setting("--batch-size"),
        setting("--threshold", metavar="RULE"),
    ),
)
FILE = click.Path(path_type=Path)


@run_command(
    main,
    "federate",
    setting("--simulate", metavar="source|dirichlet"),
    setting("--sites"),
    setting("--alpha"),
    setting("--algorithms", metavar="LIST"),
    *ROUNDS,
    setting("--seeds"),
    RECIPE,
    TRACKING,
    example="classifier federate --simulate dirichlet --sites 3 --alpha 0.5",
    closing="{run}/report.html has the comparison; between hospitals: classifier federate-serve and federate-join",
)
def federate(args: CommandArgs) -> CommandResult:
    """Compare training together with each site alone and with pooled data; the sites are processes of this machine."""
    from classifier.federation.commands import prepare_federation

    config = args.settings(FederateConfig)
    return execute(args, prepare_federation(config, args.device, args.threads, args.dry_run), show_run)


@run_command(
    main,
    "federate-serve",
    setting("--sites"),
    setting("--class-names", metavar="LIST"),
    setting("--algorithm"),
    *ROUNDS,
    setting("--wait"),
    Options(
        "Connection",
        (
            click.option(
                "--address",
                metavar="HOST:PORT",
                default="127.0.0.1:9092",
                show_default=True,
                help="Where to listen; one that other machines reach takes a certificate and the sites' keys.",
            ),
            click.option("--certificate", type=FILE, metavar="FILE", help="Of the server, PEM. [default: none]"),
            click.option("--certificate-key", type=FILE, metavar="FILE", help="Its private key. [default: none]"),
            click.option(
                "--site-key",
                "site_keys",
                type=FILE,
                multiple=True,
                metavar="FILE.pub",
                help="Public key of a site that may join, one for each. [default: any site of this machine]",
            ),
        ),
    ),
    RECIPE,
    TRACKING,
    example="classifier federate-serve --sites 2",
    closing="{run}/federation.json has the counts of every site",
)
def federate_serve(args: CommandArgs) -> CommandResult:
    """Lead a federation: wait for the sites, average their weights. The server sees no image."""
    from classifier.federation.addresses import HostPort, ServerSecurity
    from classifier.federation.commands import prepare_server

    options = args.options
    address = HostPort.parse(options["address"], "--address")
    security = ServerSecurity(options["certificate"], options["certificate_key"], tuple(options["site_keys"]))
    config = args.settings(FederateServeConfig)
    prepared = prepare_server(config, address, security)
    if args.dry_run:
        who = f"{len(security.site_keys)} keys" if security.site_keys else "any site of this machine"
        settings = {"address": str(address), "who may join": who, "sites": config.sites, "rounds": config.rounds}
        return CommandResult.of(Preview("no image", "the weights of all sites, and their counts", None, settings))
    return execute(args, prepared, show_run)


@run_command(
    main,
    "federate-join",
    Options(
        "Connection",
        (
            click.option("--server", metavar="HOST:PORT", required=True, help="The server. [default: none]"),
            click.option(
                "--ca",
                type=FILE,
                metavar="FILE",
                help="Certificate of the authority that signed the server's. [default: those of this machine]",
            ),
            click.option(
                "--site-key", type=FILE, metavar="FILE", help="Private key of this site. [default: a new one]"
            ),
        ),
    ),
    RECIPE,
    TRACKING,
    example="classifier federate-join --server 127.0.0.1:9092 --data FOLDER",
    closing="{run}/model.pt holds the classifier, which stayed here; next: classifier predict {run} IMAGE",
)
def federate_join(args: CommandArgs) -> CommandResult:
    """Take part in a federation with the images of this site. Nothing but weights and counts leaves the site."""
    from classifier import inference
    from classifier.analysis.results import TrialResult
    from classifier.federation.addresses import HostPort, SiteSecurity
    from classifier.federation.commands import prepare_site

    def show(run: Path, trial: TrialResult) -> CommandResult:
        text = inference.describe(trial.test, trial.classes, trial.regime, trial.trial_seed, "test")
        return CommandResult({"run": str(run), **trial.to_json()}, text)

    server = HostPort.parse(args.options["server"], "--server")
    if server.port == 0:
        raise UsageError(f"--server is {server}; expected the port that the server says it listens at")
    security = SiteSecurity(args.options["ca"], args.options["site_key"])
    config = args.settings(FederateJoinConfig)
    prepared = prepare_site(config, server, security, args.device, args.threads, args.dry_run)
    return execute(args, prepared, show)
