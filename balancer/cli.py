"""`balancer`: train a GAN on the minority class and export synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balancer import __version__
from balancer.catalog.commands import runs
from balancer.core.command import (
    COMPUTING,
    DRY_RUN,
    EXPORT,
    HELP,
    THREADS,
    CommandArgs,
    CommandResult,
    data_command,
    execute,
    plain_command,
    run_command,
    show_run,
)
from balancer.core.errors import BalancerError
from balancer.core.options import Options, setting, setting_argument
from balancer.core.program import CommandGroup
from balancer.core.run_names import find_run
from balancer.core.settings import AuditConfig, EvaluateConfig, GanTrainConfig, ImportConfig, SynthesizeConfig
from balancer.core.tracking_options import TRACKING

if TYPE_CHECKING:
    from balancer.audit.results import Audit

INCEPTION = setting("--inception-weights", "inception", metavar="auto|off|FILE")


@click.group(cls=CommandGroup, context_settings={**HELP, "auto_envvar_prefix": "BALANCER"})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Balance an imbalanced set of medical images with a GAN.

    \b
      balancer gan-train               a DCGAN on the minority class -> runs/gan-train/
      balancer synthesize --n 2534     images, manifest and report   -> runs/synthesize/
      balancer import DIR --class NORMAL        images of another generator -> runs/import/
      balancer evaluate --real DIR --fake DIR   the report on any images   -> runs/evaluate/
      balancer inspect DATA            what is understood of some data, and how to go on
      balancer audit                   leaks, copies and shortcuts in the data -> runs/audit/
      balancer features train          the feature network of other data than chest X-rays
      balancer export GAN_RUN --to onnx  the generator for other programs
      balancer fetch pneumoniamnist    a data set, its hash checked -> data/
      balancer runs                    all runs, what they came from, their main figures
      balancer settings [NAME]         what every setting means
      classifier ablate --regimes all  does it help? table, figures  -> runs/ablate/
    """


@run_command(
    main,
    "gan-train",
    setting("--preset"),
    setting("--class", "target_class"),
    setting("--steps"),
    setting("--batch-size"),
    setting("--init-from", metavar="DIR"),
    TRACKING,
    example="balancer gan-train --preset sngan_diffaug --steps 8000 --name sngan",
    closing="{run} holds what was trained; next: balancer synthesize --gan-run {run}",
)
def gan_train(args: CommandArgs) -> CommandResult:
    """Train a DCGAN on the minority class of the training fold, or (--class all) one on each class that lacks any.

    Several GPUs: torchrun --nproc-per-node N -m balancer gan-train ... (docs/cluster.md).
    """
    from balancer.api import prepare_gan_training

    config, resumed = args.settings(GanTrainConfig), args.resume is not None
    prepared = prepare_gan_training(config, args.device, args.threads, args.dry_run, resumed)
    return execute(args, prepared, show_run)


@run_command(
    main,
    "synthesize",
    setting("--n"),
    setting("--gan-run", metavar="DIR"),
    INCEPTION,
    example="balancer synthesize --gan-run runs/gan-train/latest --n 2534",
    closing="{run}/report.html judges the images; next: classifier ablate --regimes all --synthetic {run}",
)
def synthesize(args: CommandArgs) -> CommandResult:
    """Export synthetic images of the GAN's class, or of all its classes, with a manifest and a quality report."""
    from balancer import synthesis
    from balancer.api import prepare_synthesis

    config = args.settings(SynthesizeConfig, synthesis.configure)
    return execute(args, prepare_synthesis(config, args.device, args.threads, args.dry_run), show_run)


@run_command(
    main,
    "import",
    setting_argument("DIR", "folder"),
    setting("--class", "target_class"),
    setting("--split-of", metavar="RUN|FILE.csv"),
    setting("--n"),
    setting("--generator", metavar="NAME"),
    setting("--checkpoint", metavar="FILE"),
    INCEPTION,
    example="balancer import stylegan/out --class NORMAL --generator StyleGAN3",
    closing="{run}/report.html judges the images; next: classifier ablate --regimes all --synthetic {run}",
)
def import_images(args: CommandArgs) -> CommandResult:
    """Make a synthesis of images of another generator, with a manifest and a quality report.

    DIR holds the images, or a folder of images for each class. The generator must have learnt from the training fold
    alone. `balancer inspect DATA --training-fold FILE.csv` names its images before the generator is trained, and
    --split-of FILE.csv then shows that the split is the same.
    """
    from balancer import importing
    from balancer.api import prepare_import

    config = args.settings(ImportConfig, importing.configure)
    return execute(args, prepare_import(config, args.device, args.threads, args.dry_run), show_run)


@run_command(
    main,
    "evaluate",
    setting("--real", metavar="DIR"),
    setting("--fake", metavar="DIR"),
    setting("--training", metavar="DIR"),
    setting("--patients", metavar="FILE"),
    setting("--patient-pattern", metavar="REGEX|NAME"),
    setting("--image-size"),
    setting("--channels", metavar="auto|1|3"),
    setting("--max-bad"),
    INCEPTION,
    example="balancer evaluate --real test/NORMAL --fake images --training train/NORMAL",
    closing="{run}/report.html shows the images side by side; next: balancer import, then classifier ablate",
)
def evaluate(args: CommandArgs) -> CommandResult:
    """Quality report on any folder of synthetic images beside a folder of real ones."""
    from balancer.api import prepare_evaluation

    prepared = prepare_evaluation(args.settings(EvaluateConfig), args.device, args.threads, args.dry_run)
    return execute(args, prepared, show_run)


@run_command(
    main,
    "audit",
    setting("--strict"),
    example="balancer audit --data data/chest_xray --strict",
    closing="{run}/audit.html shows the images behind each finding; next: balancer gan-train",
)
def audit(args: CommandArgs) -> CommandResult:
    """Look for leaks between folds, copies and shortcuts in a data set; needs no GPU."""
    from balancer.api import prepare_audit
    from balancer.audit.findings import leaks
    from balancer.audit.report import summary, to_json

    config = args.settings(AuditConfig)

    def show(run: Path, result: Audit) -> CommandResult:
        page = run / "audit.html"
        if config.strict and (leaking := leaks(result)):
            raise BalancerError(f"the data leak: {'; '.join(leaking)}; see {page}, or drop --strict")
        return CommandResult({"run": str(run), **to_json(result)}, summary(result))

    return execute(args, prepare_audit(config, args.device, args.threads, args.dry_run), show)


@data_command(
    main,
    "inspect",
    "audit",
    click.argument("data", required=False, envvar="BALANCER_DATA"),
    click.option(
        "--training-fold",
        type=click.Path(path_type=Path),
        metavar="FILE.csv",
        help="Write the names of the images that a generator may learn from.",
    ),
    example="balancer inspect metadata.csv --images scans --where modality=X-ray",
)
def inspect(explicit: dict[str, Any], data: str | None, training_fold: Path | None) -> CommandResult:
    """Say what is understood of some data: classes, folds, patients, sizes, what is left out, and how to go on.

    DATA is a folder, a table or an archive. Options put wrong guesses right; the commands that are shown repeat them.
    The exit code is 1 where a table must be mended first; the lines that are shown then do that.
    """
    from balancer.api import inspect_data
    from balancer.core.config import absolute_paths, merge, resolve

    path = absolute_paths({"data": {"path": data}}) if data is not None else {}
    understood = inspect_data(resolve(AuditConfig, merge(explicit, path)).data, training_fold)
    return CommandResult(understood.to_json(), understood.describe(), understood.exit_code)


@main.group(context_settings={**HELP, "auto_envvar_prefix": "BALANCER_FEATURES"})
def features() -> None:
    """Feature networks, on which distances between sets of images are taken.

    Chest X-rays are measured on a network that ships with the package. Other data get one of their own, trained on the
    training fold: by `balancer gan-train` or `balancer synthesize` on first need, or before by this command.
    """


@data_command(
    features,
    "train",
    "audit",
    click.argument("data", required=False),
    click.option("--force", "again", is_flag=True, help="Train again where the cache holds the network."),
    COMPUTING,
    DRY_RUN,
    example="balancer features train data/breast",
    closing="next: balancer gan-train --data {data}",
)
def train_features(
    explicit: dict[str, Any], data: str | None, device: str, threads: int, again: bool, dry: bool
) -> CommandResult:
    """Train a feature network on the training fold of some data, and measure what it responds to.

    DATA is a folder, a table or an archive. About 12 minutes on one idle CPU core; the result is kept in the cache.
    """
    from balancer.core.config import absolute_paths, merge, resolve
    from balancer.metrics import feature_commands

    path = absolute_paths({"data": {"path": data}}) if data is not None else {}
    config = resolve(AuditConfig, merge(explicit, path)).data
    work = feature_commands.preview if dry else feature_commands.train_features
    return CommandResult.of(work(config, device, threads, again))


@plain_command(
    main,
    "export",
    click.argument("gan_run", type=click.Path(path_type=Path), metavar="GAN_RUN"),
    *EXPORT,
    Options("Computing", (THREADS,)),
    example="balancer export runs/gan-train/latest --to onnx",
    closing="{file} makes images of latents; how: docs/export.md",
)
def export(gan_run: Path, to: str, out: Path | None, force: bool, dry: bool, threads: int) -> CommandResult:
    """Write the generator of a finished run as a file for other programs: from latents to grey levels."""
    from balancer import export as exporting

    work = exporting.preview if dry else exporting.export
    return CommandResult.of(work(find_run(gan_run, "gan-train"), to, out, force, threads))


@plain_command(
    main,
    "settings",
    click.argument("name", required=False),
    example="balancer settings image_size",
    closing="next: balancer gan-train --set KEY=VALUE, or --config FILE.yaml",
)
def settings(name: str | None) -> CommandResult:
    """Explain the settings: meaning, values, default. NAME is a setting such as steps, or a section such as data."""
    from balancer.core.explain_settings import explain_settings

    return CommandResult.of(explain_settings(name))


@plain_command(
    main,
    "fetch",
    click.argument("source", metavar="SET"),
    click.option("--size", type=int, help="Of MedMNIST: 28, 64, 128 or 224 px. [default: 28]"),
    click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Folder to put it in. [default: data]"),
    click.option("--force", is_flag=True, help="Replace what is there."),
    DRY_RUN,
    example="balancer fetch pneumoniamnist --size 64",
    closing="next: balancer audit --data {path}",
)
def fetch(source: str, size: int | None, to: Path | None, force: bool, dry: bool) -> CommandResult:
    """Download a data set and check it: a set of MedMNIST (by its hash), or the chest X-rays from Kaggle (by counts).

    SET is pneumoniamnist, breastmnist or another set of images of MedMNIST, or kaggle (extra: kaggle).
    """
    from balancer.data import fetch as fetching

    return CommandResult.of(fetching.fetch(source, size, to, force, dry))


main.add_command(runs)
