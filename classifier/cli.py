"""`classifier`: retrain under the regimes of an ablation, evaluate, predict."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from balancer import __version__
from balancer.cli import main as balancer_main
from balancer.core.command import (
    COMPUTING,
    HELP,
    CommandArgs,
    CommandResult,
    Options,
    execute,
    plain_command,
    run_command,
    setting,
    show_run,
)
from balancer.core.errors import UsageError
from balancer.core.program import CommandGroup
from balancer.core.run import newest_run
from balancer.core.run_names import find_run
from balancer.core.settings import (
    THRESHOLD_RULES,
    AblateConfig,
    ClassifierConfig,
    ComponentsConfig,
    CrossvalidateConfig,
    TrainConfig,
)


@click.group(cls=CommandGroup, context_settings={**HELP, "auto_envvar_prefix": "CLASSIFIER"})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Retrain a classifier with and without synthetic images, and compare honestly.

    \b
      classifier ablate --regimes all   four regimes, paired seeds -> runs/ablate/
      classifier train --regime gan     one classifier             -> runs/train/
      classifier crossvalidate          one regime, every fold outside test -> runs/crossvalidate/
      classifier thresholds RUN         every threshold and rule, validation beside test
      classifier ensemble RUN           the mean of a run's trials, or of several runs
      classifier predict MODEL IMAGE    label and probability
      classifier reproduce NAME         a published system beside its own figures -> runs/reproduce/
    """


main.beside = (balancer_main,)  # BALANCER_DATA, BALANCER_CACHE
SYNTHETIC = setting("--synthetic", type=click.Path(), multiple=True, metavar="DIR")
SYNTHETIC_IMAGES = Options("Synthetic images", (SYNTHETIC, setting("--synthetic-count", metavar="deficit|all|N")))
TRAINING = Options(
    "Training",
    (
        setting("--model"),
        setting("--weights", metavar="imagenet|none|FILE"),
        setting("--augmentation"),
        setting("--steps"),
        setting("--exposure", metavar="steps|real"),
        setting("--batch-size"),
        setting("--threshold", metavar="RULE"),
    ),
)
JOBS = click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at the same time.")
WORKERS = Options(
    "Workers",
    (
        JOBS,
        click.option(
            "--backend",
            type=click.Choice(["local", "dask"]),
            default="local",
            show_default=True,
            help="Processes of this machine, or the workers of a dask cluster.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="The dask scheduler, such as tcp://10.0.0.1:8786; its workers run with --nthreads 1.",
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
    example="classifier ablate --regimes all,controls --seeds 5 --jobs 2",
    closing="{run}/report.html has the figures; next: classifier thresholds {run}",
)
def ablate(args: CommandArgs) -> CommandResult:
    """Train under every regime with paired seeds; write the table, the figures, the report and every trial's result."""
    from classifier.api import prepare_ablation
    from classifier.experiments.jobs import Workers
    from classifier.experiments.study import configure

    workers = Workers(args.device, threads=args.threads, **args.options)
    config = args.settings(AblateConfig, partial(configure, AblateConfig))
    return execute(args, prepare_ablation(config, workers), show_run)


@run_command(
    main,
    "train",
    setting("--regime"),
    SYNTHETIC_IMAGES,
    TRAINING,
    example="classifier train --regime gan --model resnet18 --weights imagenet",
    closing="{run}/model.pt holds the classifier; next: classifier predict {run} IMAGE",
)
def train(args: CommandArgs) -> CommandResult:
    """Train one classifier under one regime and evaluate it."""
    from classifier import inference
    from classifier.analysis.results import TrialResult
    from classifier.api import prepare_training
    from classifier.experiments.study import configure

    def show(run: Path, trial: TrialResult) -> CommandResult:
        text = inference.describe(trial.test, trial.regime, trial.trial_seed, "test")
        return CommandResult({"run": str(run), **trial.to_json()}, text)

    config = args.settings(TrainConfig, partial(configure, TrainConfig))
    return execute(args, prepare_training(config, args.device, args.threads), show)


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
    Options("Workers", (JOBS,)),
    example="classifier tune --trials 30 --jobs 2",
    closing="{run}/best.yaml holds the best settings; next: classifier ablate --config {run}/best.yaml",
)
def tune(args: CommandArgs) -> CommandResult:
    """Search settings on validation; the test fold is not read. Writes best.yaml, for `train` and `ablate`."""
    from classifier.api import prepare_search
    from classifier.tuning.search import configure

    config = configure(args.explicit, args.resume)
    return execute(
        args, prepare_search(config, args.device, args.options["jobs"], args.options["timeout"], args.threads), show_run
    )


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

    return execute(
        args, prepare_crossvalidation(args.settings(CrossvalidateConfig), args.device, args.threads), show_run
    )


def _names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


RUNS = click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN...]")


def _named(runs: tuple[Path, ...], *commands: str) -> list[Path]:
    """Return the folders of runs that are named by path or name; of none, the newest run of the commands."""
    return [find_run(run, "ablate", "train") for run in runs] or [newest_run(*commands)]


REGIMES = click.option(
    "--regimes",
    metavar="LIST",
    default="",
    callback=_names,
    help="Groups or names, as ablate takes them. [default: all that the runs hold]",
)


@plain_command(
    main,
    "thresholds",
    RUNS,
    REGIMES,
    click.option(
        "--rules",
        metavar="LIST",
        default="",
        callback=_names,
        help=f"Rules as --threshold of train takes them. [default: {','.join(THRESHOLD_RULES)}]",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of the tables. [default: thresholds in the only RUN]",
    ),
    example="classifier thresholds runs/ablate/latest --rules f1,sensitivity=0.95",
    closing="{out}/thresholds.md has the tables; next: classifier train --threshold RULE, for the rule that you fixed",
)
def thresholds(
    runs: tuple[Path, ...], regimes: tuple[str, ...], rules: tuple[str, ...], out: Path | None
) -> CommandResult:
    """Show what every threshold gives on validation and on test, and how rules that choose one carry over.

    RUN is the folder or the name of an ablation or of a training, by default the newest; several must share data and
    split.
    """
    from classifier.experiments import thresholds as threshold_study

    return CommandResult.of(threshold_study.thresholds(_named(runs, "ablate", "train"), regimes, rules, out))


@plain_command(
    main,
    "ensemble",
    RUNS,
    REGIMES,
    click.option(
        "--threshold",
        metavar="RULE",
        default=str(ClassifierConfig.model_fields["threshold"].default),
        show_default=True,
        help="How the ensemble's threshold is chosen on validation.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of the tables. [default: ensemble in the only RUN]",
    ),
    example="classifier ensemble runs/ablate/latest --regimes baseline,gan",
    closing="{out}/ensemble.md has the table; next: classifier predict RUN IMAGE",
)
def ensemble(runs: tuple[Path, ...], regimes: tuple[str, ...], threshold: str, out: Path | None) -> CommandResult:
    """Average the trials of each regime and, with several runs, of all of them; compare with single trials on test.

    RUN is the folder or the name of an ablation or of a training, by default the newest ablation; several must share
    data and split.
    """
    from classifier.experiments import ensemble as averaging

    return CommandResult.of(averaging.ensemble(_named(runs, "ablate"), regimes, threshold, out))


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
        args.device, threads=args.threads, **{key: args.options[key] for key in ("jobs", "backend", "scheduler")}
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
    return execute(args, prepare_components(config, workers), show_run)


@plain_command(
    main,
    "compare",
    click.argument("names", nargs=-1, required=True, metavar="NAME|CHECKPOINT..."),
    click.option("--image-size", type=click.IntRange(min=1), help="Size of the images. [default: that of each]"),
    click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per pass."),
    click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Passes that are timed."),
    click.option("--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Also write the table there."),
    COMPUTING,
    example="classifier compare small_cnn resnet18 runs/train/latest/model.pt",
    closing="next: classifier ablate --model NAME",
)
def compare(
    names: tuple[str, ...],
    image_size: int | None,
    batch_size: int,
    repeats: int,
    out: Path | None,
    device: str,
    threads: int,
) -> CommandResult:
    """Size and speed of systems, networks and checkpoints: parameters, MB, images per second, latency."""
    from classifier.systems import profile

    timing = profile.Timing(batch_size, repeats, 5 * repeats)
    return CommandResult.of(profile.compare(names, image_size, device, timing, out, threads))


@plain_command(
    main,
    "evaluate",
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option(
        "--data", envvar="BALANCER_DATA", metavar="PATH", help="Data to evaluate on. [default: as in training]"
    ),
    click.option(
        "--fold",
        type=click.Choice(["test", "val", "train"]),
        default="test",
        show_default=True,
        help="Images to evaluate on.",
    ),
    COMPUTING,
    example="classifier evaluate runs/train/latest/model.pt --data data/chest_xray",
    closing="next: classifier predict {checkpoint} IMAGE",
)
def evaluate(checkpoint: Path, data: str | None, fold: str, device: str, threads: int) -> CommandResult:
    """Metrics of a saved classifier on a fold of a data set."""
    from classifier import inference

    return CommandResult.of(inference.evaluate_checkpoint(checkpoint, data, fold, device, threads))


@plain_command(
    main,
    "predict",
    click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[MODEL] IMAGE..."),
    click.option(
        "--regime",
        metavar="NAME",
        help="Of an ablation: the regime whose trials decide together. [default: the best on validation]",
    ),
    click.option(
        "--threshold",
        type=float,
        metavar="P",
        help="On the calibrated probability, from 0 to 1, as train, evaluate and thresholds print it."
        " [default: the one chosen on validation]",
    ),
    click.option("--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Also write the table there."),
    COMPUTING,
    example="classifier predict runs/ablate/latest images --regime combined",
)
def predict(
    paths: tuple[Path, ...], regime: str | None, threshold: float | None, out: Path | None, device: str, threads: int
) -> CommandResult:
    """Predict label and probability of PNEUMONIA for images or whole folders. For research: no medical device.

    MODEL is a model.pt, or the folder or the name of a training or an ablation; by default that of the newest. All
    trials of an ablation's regime decide together: their mean, with its own temperature and threshold.
    """
    from classifier import inference
    from classifier.predictor import model_and_images

    named = find_run(paths[0], "ablate", "train"), *paths[1:]
    model, images = model_and_images(named, lambda: newest_run("ablate", "train"))
    return CommandResult.of(inference.predict_files(model, images, threshold, device, threads, regime, out))
