"""`balancer`: train a GAN on the minority class and export synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from balancer import __version__
from balancer.core.command import HELP, CommandArgs, CommandResult, dry_run, plain_command, run_command, setting
from balancer.core.errors import BalancerError
from balancer.core.settings import AuditConfig, EvaluateConfig, GanTrainConfig, SynthesizeConfig

INCEPTION = setting(
    "--inception-weights",
    "inception",
    metavar="auto|off|FILE",
    help="Inception weights for FID and KID: cached or downloaded, not at all, or a file.",
)


@click.group(context_settings={**HELP, "auto_envvar_prefix": "BALANCER"})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Balance an imbalanced chest X-ray set with a GAN.

    \b
      balancer gan-train               a DCGAN on the minority class -> runs/gan-train/
      balancer synthesize --n 2534     images, manifest and report   -> runs/synthesize/
      balancer evaluate --real DIR --fake DIR   the report on any images   -> runs/evaluate/
      balancer audit                   leaks, copies and shortcuts in the data -> runs/audit/
      balancer fetch pneumoniamnist    a data set, its hash checked -> data/
      classifier ablate --regimes all  does it help? table, figures  -> runs/ablate/
    """


@run_command(
    main,
    "gan-train",
    setting(
        "--preset",
        "preset",
        help="dcgan_diffaug [default], dcgan (the paper's recipe), sngan_diffaug, wgan_gp, relativistic or s2 (148 px, for a GPU).",
    ),
    setting("--class", "target_class", help="Class to learn. [default: the minority class of the training fold]"),
    setting("--steps", "steps", type=int, help="Optimiser steps."),
    setting("--batch-size", "batch_size", type=int, help="Images per step."),
)
def gan_train(args: CommandArgs) -> CommandResult:
    """Train a DCGAN on the minority class of the training fold."""
    from balancer.core.device import describe_device, limit_threads, resolve_device
    from balancer.core.run import environment, open_run, request, resumed_or_new, write_json
    from balancer.data.dataset import load_dataset
    from balancer.gan import trainer

    limit_threads()
    device = resolve_device(args.device)
    config = cast(GanTrainConfig, resumed_or_new("gan-train", args.resume, args.explicit, args.config))
    trainer.check(config)
    data = load_dataset(config.data)
    trainer.target_label(config, data)
    if args.dry_run:
        return dry_run(config, data.describe(), trainer.estimate_seconds(config, data, device), describe_device(device))
    with open_run("gan-train", config, request(args)) as run:
        if run.finished:
            return CommandResult(
                {"run": str(run.path), "finished": True}, f"{run.path} is finished already; nothing to do"
            )
        if not run.resumed:  # else what it was started on stays on record, also when the data have changed since
            data.write_split(run / "split.csv")
            write_json(run / "env.json", environment("gan-train", describe_device(device), data=data.describe()))
        summary = trainer.train(config, data, run, device)
        write_json(run / "summary.json", summary)
        run.finish()
        text = (
            f"{summary['class']}: {summary['steps']} steps on {summary['n_train']} images in {summary['seconds']:.0f} s"
            f" (loss_D {summary['loss_D']:.3f}, loss_G {summary['loss_G']:.3f})\n{run.path}"
        )
        return CommandResult({"run": str(run.path), **summary}, text)


@run_command(
    main,
    "synthesize",
    setting("--n", "n", type=int, help="Images to export. [default: the deficit of the training fold]"),
    setting("--gan-run", "gan_run", metavar="DIR", help="A finished gan-train run. [default: the newest]"),
    INCEPTION,
)
def synthesize(args: CommandArgs) -> CommandResult:
    """Export synthetic images of the GAN's class, with a manifest and a quality report."""
    from balancer import synthesis
    from balancer.core.device import describe_device, limit_threads, resolve_device
    from balancer.core.run import environment, open_run, request, resumed_or_new, write_json
    from balancer.quality.report import summary

    limit_threads()
    device = resolve_device(args.device)
    config = cast(
        SynthesizeConfig, resumed_or_new("synthesize", args.resume, args.explicit, lambda: synthesis.configure(args))
    )
    source = synthesis.open_source(config, device)
    if args.dry_run:
        return dry_run(
            config, source.data.describe(), synthesis.estimate_seconds(config, source, device), describe_device(device)
        )
    with open_run("synthesize", config, request(args)) as run:
        if run.finished:
            return CommandResult(
                {"run": str(run.path), "finished": True}, f"{run.path} is finished already; nothing to do"
            )
        write_json(run / "env.json", environment("synthesize", describe_device(device), data=source.data.describe()))
        report = synthesis.synthesize(config, source, run, device)
        run.finish()
        return CommandResult({"run": str(run.path), **report}, f"{summary(report)}\n{run / 'report.html'}")


@run_command(
    main,
    "evaluate",
    setting("--real", "real", metavar="DIR", help="Real images; with --training, such as the generator never saw."),
    setting("--fake", "fake", metavar="DIR", help="Synthetic images, or a synthesize run."),
    setting("--training", "training", metavar="DIR", help="What the generator learnt from. [default: --real]"),
    setting("--image-size", "image_size", type=int, help="Working size. [default: the smallest side found, up to 256]"),
    setting("--max-bad", "max_bad", type=float, help="Share of unreadable files above which the run stops."),
    INCEPTION,
    data_options=False,
)
def evaluate(args: CommandArgs) -> CommandResult:
    """Quality report on any folder of synthetic images beside a folder of real ones."""
    from balancer import evaluation
    from balancer.core.device import describe_device, limit_threads, resolve_device
    from balancer.core.run import environment, open_run, request, resumed_or_new, write_json
    from balancer.quality.report import summary

    limit_threads()
    device = resolve_device(args.device)
    config = cast(EvaluateConfig, resumed_or_new("evaluate", args.resume, args.explicit, args.config))
    inputs = evaluation.open_inputs(config)
    if args.dry_run:
        seconds = evaluation.estimate_seconds(config, inputs)
        return dry_run(config, inputs.describe(), seconds, describe_device(device))
    with open_run("evaluate", config, request(args)) as run:
        if run.finished:
            return CommandResult(
                {"run": str(run.path), "finished": True}, f"{run.path} is finished already; nothing to do"
            )
        write_json(run / "env.json", environment("evaluate", describe_device(device), data=inputs.describe()))
        report = evaluation.evaluate(config, inputs, run, device)
        run.finish()
        return CommandResult({"run": str(run.path), **report}, f"{summary(report)}\n{run / 'report.html'}")


@run_command(
    main,
    "audit",
    setting("--strict", "strict", is_flag=True, help="End with an error if anything leaks between folds."),
)
def audit(args: CommandArgs) -> CommandResult:
    """Look for leaks between folds, copies and shortcuts in a data set; needs no GPU."""
    from balancer.audit import findings as auditing
    from balancer.audit import report as audit_report
    from balancer.core.device import describe_device, resolve_device
    from balancer.core.run import environment, open_run, request, resumed_or_new, write_json
    from balancer.data.dataset import load_dataset

    device = describe_device(resolve_device("cpu"))
    config = cast(AuditConfig, resumed_or_new("audit", args.resume, args.explicit, args.config))
    data = load_dataset(config.data).as_binary()
    if args.dry_run:
        return dry_run(config, data.describe(), auditing.estimate_seconds(data), device)
    with open_run("audit", config, request(args)) as run:
        if run.finished:
            return CommandResult(
                {"run": str(run.path), "finished": True}, f"{run.path} is finished already; nothing to do"
            )
        write_json(run / "env.json", environment("audit", device, data=data.describe()))
        findings = auditing.audit(data, config.data, config.seed)
        audit_report.write_audit(run.path, data, config.data, findings)
        run.finish()
        page = run / "audit.html"
        if config.strict and (leaks := auditing.leaks(findings)):
            raise BalancerError(f"the data leak: {'; '.join(leaks)}; see {page}, or drop --strict")
        return CommandResult(
            {"run": str(run.path), **audit_report.as_json(findings)}, f"{audit_report.summary(findings)}\n{page}"
        )


@plain_command(
    main,
    "fetch",
    click.argument("source", metavar="pneumoniamnist|kaggle"),
    click.option("--size", type=int, help="Of PneumoniaMNIST: 28, 64, 128 or 224 px. [default: 28]"),
    click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Folder to put it in. [default: data]"),
    click.option("--force", is_flag=True, help="Replace what is there."),
)
def fetch(source: str, size: int | None, to: Path | None, force: bool) -> CommandResult:
    """Download a data set: PneumoniaMNIST from Zenodo, or the chest X-ray folder from Kaggle (extra: kaggle)."""
    from balancer.data import fetch as fetching

    result = fetching.fetch(source, size, to, force)
    return CommandResult(result.to_json(), result.text())
