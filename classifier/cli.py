"""`classifier`: retrain under the regimes of an ablation. The commands that use what was trained: cli_models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from balancer.core.command import CommandArgs, CommandResult, execute, plain_command, run_command, show_run
from balancer.core.errors import UsageError
from balancer.core.options import Options, setting
from balancer.core.settings import AblateConfig, ComponentsConfig, CrossvalidateConfig, StudyConfig, TrainConfig
from balancer.core.tracking_options import TRACKING
from classifier import cli_federation, cli_models  # noqa: F401  # register their commands
from classifier.program import main

SYNTHETIC = setting("--synthetic", type=click.Path(), multiple=True, metavar="DIR")
SYNTHETIC_IMAGES = Options("Synthetic images", (SYNTHETIC, setting("--synthetic-count", metavar="deficit|all|N")))
TRAINING = Options(
    "Training",
    (
        setting("--model"),
        setting("--weights", metavar="imagenet|none|FILE"),
        setting("--pretrain", "pretrain.method", metavar="none|simsiam|vicreg"),
        setting("--augmentation"),
        setting("--steps"),
        setting("--exposure", metavar="steps|real"),
        setting("--batch-size"),
        setting("--threshold", metavar="RULE"),
    ),
)
JOBS = click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at the same time.")
OF_WORKERS = ("jobs", "backend", "scheduler", "sbatch")
WORKERS = Options(
    "Workers",
    (
        JOBS,
        click.option(
            "--backend",
            type=click.Choice(["local", "dask", "slurm"]),
            default="local",
            show_default=True,
            help="Processes of this machine, the workers of a dask cluster, or jobs of SLURM.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="The dask scheduler, such as tcp://10.0.0.1:8786; its workers run with --nthreads 1.",
        ),
        click.option(
            "--sbatch",
            multiple=True,
            metavar="KEY=VALUE",
            help="Option of each SLURM job, such as time=2:00:00 or gres=gpu:1; several times.",
        ),
    ),
)


@run_command(
    main,
    "ablate",
    setting("--regimes", metavar="LIST"),
    setting("--seeds"),
    setting("--dose", "doses", metavar="LIST"),
    SYNTHETIC_IMAGES,
    TRAINING,
    WORKERS,
    TRACKING,
    example="classifier ablate --regimes all,controls --seeds 5 --jobs 2",
    closing="{run}/report.html has the figures; next: classifier explain {run}",
)
def ablate(args: CommandArgs) -> CommandResult:
    """Train under every regime with paired seeds; write the table, the figures, the report and every trial's result.

    Each model.pt holds features of training images; `classifier export --to safetensors` writes a model without them.
    """
    from classifier.api import prepare_ablation
    from classifier.experiments.jobs import Workers
    from classifier.experiments.study import configure

    workers = Workers(args.device, threads=args.threads, **args.options)
    config = args.settings(AblateConfig, partial(configure, AblateConfig))
    return execute(args, prepare_ablation(config, workers, args.dry_run), show_run)


@run_command(
    main,
    "train",
    setting("--regime"),
    SYNTHETIC_IMAGES,
    TRAINING,
    TRACKING,
    example="classifier train --regime gan --model resnet18 --weights imagenet",
    closing="{run}/model.pt holds the classifier; next: classifier predict {run} IMAGE",
)
def train(args: CommandArgs) -> CommandResult:
    """Train one classifier under one regime and evaluate it.

    model.pt holds features of training images; `classifier export --to safetensors` writes the model without them.
    """
    from classifier import inference
    from classifier.analysis.results import TrialResult
    from classifier.api import prepare_training
    from classifier.experiments.study import configure

    def show(run: Path, trial: TrialResult) -> CommandResult:
        text = inference.describe(trial.test, trial.classes, trial.regime, trial.trial_seed, "test")
        return CommandResult({"run": str(run), **trial.to_json()}, text)

    config = args.settings(TrainConfig, partial(configure, TrainConfig))
    return execute(args, prepare_training(config, args.device, args.threads, args.dry_run), show)


@run_command(
    main,
    "tune",
    setting("--space", metavar="wide|s2_grid"),
    setting("--sampler", metavar="grid|tpe|random"),
    setting("--pruner", metavar="median|none"),
    setting("--trials"),
    setting("--seeds"),
    setting("--regime"),
    click.option("--timeout", type=float, metavar="SECONDS", help="Begin no trial after so long. [default: no limit]"),
    SYNTHETIC_IMAGES,
    TRAINING,
    WORKERS,
    TRACKING,
    example="classifier tune --trials 30 --jobs 2",
    closing="{run}/best.yaml holds the best settings; next: classifier ablate --config {run}/best.yaml",
)
def tune(args: CommandArgs) -> CommandResult:
    """Search settings on validation; the test fold is not read. Writes best.yaml, for `train` and `ablate`."""
    from classifier.api import prepare_search
    from classifier.experiments.jobs import Workers
    from classifier.tuning.search import configure

    config = configure(args.explicit, args.resume)
    workers = Workers(args.device, threads=args.threads, **{key: args.options[key] for key in OF_WORKERS})
    prepared = prepare_search(config, workers, args.options["timeout"], args.dry_run)
    return execute(args, prepared, show_run)


@run_command(
    main,
    "crossvalidate",
    setting("--regime"),
    setting("--folds"),
    setting("--synthetic-count", metavar="deficit|all|N"),
    TRAINING,
    example="classifier crossvalidate --regime augment --folds 5",
    closing="{run}/table.md has the folds; next: classifier ablate --regimes all",
)
def crossvalidate(args: CommandArgs) -> CommandResult:
    """Train and evaluate on every fold of the images outside the test set, which is not looked at."""
    from classifier.api import prepare_crossvalidation

    config = args.settings(CrossvalidateConfig)
    return execute(args, prepare_crossvalidation(config, args.device, args.threads, args.dry_run), show_run)


@plain_command(main, "systems", example="classifier systems", closing="next: classifier reproduce NAME")
def systems() -> CommandResult:
    """List the published systems that can be reproduced, with what each reported."""
    from classifier.systems.registry import SYSTEMS, describe, describe_all

    return CommandResult({"systems": [describe(system) for system in SYSTEMS.values()]}, describe_all())


@run_command(
    main,
    "reproduce",
    click.argument("names", nargs=-1, metavar="[NAME...|all]"),
    setting("--seeds"),
    setting("--regimes", metavar="LIST"),
    setting("--synthetic", type=click.Path(), multiple=True, metavar="DIR"),
    setting("--share"),
    click.option("--smoke", is_flag=True, help="Two steps of each on a few drawings: shows that they run, in minutes."),
    WORKERS,
    example="classifier reproduce s1_cnn28 s2_cnn_gan --seeds 3 --share 0.2",
    closing="{run}/table.md has the published figures beside ours; next: classifier components --config FILE.yaml",
)
def reproduce(args: CommandArgs) -> CommandResult:
    """Run published systems under one protocol; write a table: published, its own outputs, ours. --set reaches all."""
    from classifier.api import prepare_reproduction
    from classifier.experiments.jobs import Workers
    from classifier.systems import reproduce as reproduction

    smoke, names = args.options["smoke"], args.options["names"]
    if smoke and args.dry_run:
        raise UsageError("--smoke is over in minutes and writes no results; drop --dry-run")
    workers = Workers(
        args.device,
        threads=args.threads,
        **{key: args.options[key] for key in OF_WORKERS},
    )
    explicit = {**args.explicit, "systems": names} if names else args.explicit
    config = reproduction.configure(explicit, args.resume, smoke)
    prepared = prepare_reproduction(config, workers, smoke)
    if args.dry_run:
        systems = reproduction.checked_systems(config)
        return CommandResult.of(reproduction.estimate(systems, config, workers))
    return execute(args, prepared, show_run)


@run_command(
    main,
    "study",
    setting("--sizes", metavar="LIST"),
    setting("--gans"),
    setting("--seeds"),
    setting("--regimes", metavar="LIST"),
    setting("--gan", multiple=True, metavar="KEY=VALUE"),
    setting("--synthesis", multiple=True, metavar="KEY=VALUE"),
    setting("--classifier", multiple=True, metavar="KEY=VALUE"),
    setting("--quick"),
    WORKERS,
    example="classifier study --sizes 50,100,200,all --gans 3 --dry-run",
    closing="{run}/report.html has the answer, with links to every GAN and ablation",
)
def study(args: CommandArgs) -> CommandResult:
    """Answer the whole question: train GANs, export their images, run the ablation and the four planned tests.

    With --sizes, all of it is repeated with fewer images of the smallest class: a learning curve.
    """
    from classifier.api import prepare_study
    from classifier.experiments.jobs import Workers
    from classifier.learning_curve.plan import with_absolute_paths

    workers = Workers(args.device, threads=args.threads, **args.options)
    config = replace(args, explicit=with_absolute_paths(args.explicit)).settings(StudyConfig)
    return execute(args, prepare_study(config, workers, args.dry_run), show_run)


@run_command(
    main,
    "components",
    setting("--regime"),
    setting("--seeds"),
    SYNTHETIC_IMAGES,
    TRAINING,
    WORKERS,
    example="classifier components --config configs/seeds/s1_cnn28.yaml",
    closing="{run}/table.md has what each part brings; next: classifier ablate --regimes all",
)
def components(args: CommandArgs) -> CommandResult:
    """Turn off one part of a system at a time (weighting, augmentation, batch norm, transfer, threshold); compare."""
    from classifier.api import prepare_components
    from classifier.experiments.jobs import Workers
    from classifier.experiments.study import configure

    workers = Workers(args.device, threads=args.threads, **args.options)
    config = args.settings(ComponentsConfig, partial(configure, ComponentsConfig))
    return execute(args, prepare_components(config, workers, args.dry_run), show_run)
