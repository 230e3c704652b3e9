"""`classifier`: retrain under the regimes of an ablation, evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from balancer import __version__
from balancer.core.command import HELP, CommandArgs, CommandResult, dry_run, plain_command, run_command, setting
from balancer.core.settings import AblateConfig, ClassifierConfig


@click.group(context_settings={**HELP, "auto_envvar_prefix": "CLASSIFIER"})
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


SYNTHETIC = setting(
    "--synthetic",
    "synthetic",
    type=click.Path(),
    multiple=True,
    metavar="DIR",
    help="A finished synthesis; ablate takes several, one per GAN seed, train --task multiclass one per class. [default: the newest]",
)
TRAIN_SETTINGS = (
    SYNTHETIC,
    setting(
        "--synthetic-count",
        "synthetic_count",
        metavar="deficit|all|N",
        help="How many images of each. [default: deficit]",
    ),
    setting(
        "--model",
        "model",
        help="small_cnn, s1_cnn, s2_cnn, or a torchvision name such as resnet18. [default: small_cnn]",
    ),
    setting(
        "--weights", "weights", metavar="imagenet|none|FILE", help="Weights of a torchvision model. [default: none]"
    ),
    setting(
        "--augmentation",
        "augmentation",
        help="Preset of classical transforms: mild, strong, or a published system's: s0 to s4. [default: mild]",
    ),
    setting("--steps", "steps", type=int, help="Optimiser steps, the same in every regime."),
    setting(
        "--exposure",
        "exposure",
        metavar="steps|real",
        help="What is equal in all regimes: steps, or passes over real images. [default: steps]",
    ),
    setting("--batch-size", "batch_size", type=int, help="Images per step."),
    setting(
        "--threshold",
        "threshold",
        metavar="RULE",
        help="How the threshold is chosen on validation: half, balanced_accuracy (the same as youden), f1, sensitivity=S, specificity=S "
        "or cost=C (a miss costs C false alarms). [default: balanced_accuracy]",
    ),
)


WORKER_OPTIONS = (
    click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at the same time."),
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
)


@run_command(
    main,
    "ablate",
    setting(
        "--regimes",
        "regimes",
        metavar="LIST",
        help="Groups (all: the 2 x 2 design; controls; checks) or names such as baseline,gan. [default: all]",
    ),
    setting("--seeds", "seeds", type=int, help="Paired trial seeds per regime. [default: 3]"),
    setting("--dose", "doses", metavar="LIST", help="Also so many synthetic images, in deficits, e.g. 0.25,0.5,2."),
    *TRAIN_SETTINGS,
    *WORKER_OPTIONS,
)
def ablate(args: CommandArgs) -> CommandResult:
    """Train under every regime with paired seeds; write the table, the figures, the report and every trial's result."""
    return _study(args)


@run_command(
    main,
    "train",
    setting("--regime", "regime", help="baseline, augment, gan, combined, or a control. [default: baseline]"),
    *TRAIN_SETTINGS,
)
def train(args: CommandArgs) -> CommandResult:
    """Train one classifier under one regime and evaluate it."""
    return _study(args)


def _study(args: CommandArgs) -> CommandResult:
    """Both commands make a run of trials; `train` makes one, in this process."""
    from balancer.core.device import limit_threads
    from balancer.core.run import environment, open_run, request, resumed_or_new, write_json
    from classifier.experiments import ablation
    from classifier.experiments.jobs import Workers
    from classifier.experiments.study import configure, open_study
    from classifier.experiments.trial import estimate_seconds

    limit_threads()
    workers = Workers(args.device, **args.options)
    device = workers.local_device
    config = cast(ClassifierConfig, resumed_or_new(args.command, args.resume, args.explicit, lambda: configure(args)))
    study = open_study(config)
    if isinstance(config, AblateConfig):
        ablation.check(study)
    at_once = workers.count()  # refuses a cluster out of reach before anything is written
    if args.dry_run:
        return dry_run(config, study.data.describe(), estimate_seconds(study, device) / at_once, workers.describe())
    with open_run(args.command, config, request(args)) as run:
        if not run.finished:
            facts = environment(args.command, workers.describe(), data=study.data.describe())
            write_json(run / "env.json", facts)
            study.data.write_split(run / "split.csv")
        if isinstance(config, AblateConfig):
            ablation.write_data_audit(study, run)
            outcome = ablation.write_outputs(ablation.ablate(study, run, workers), study, run)
        else:
            outcome = ablation.train_one(study, run, device)
        run.finish()
        return outcome


@run_command(
    main,
    "tune",
    setting("--space", "space", metavar="wide|s2_grid", help="What is searched. [default: wide]"),
    setting("--sampler", "sampler", metavar="grid|tpe|random", help="How points are chosen. [default: the space's]"),
    setting("--pruner", "pruner", metavar="median|none", help="What ends poor trials early. [default: the space's]"),
    setting("--trials", "trials", type=int, help="How many; --resume may ask for more. [default: the grid, or 50]"),
    setting("--seeds", "seeds", type=int, help="Trial seeds per point; its figure is their mean. [default: 1]"),
    setting("--regime", "regime", help="baseline, augment, gan, combined, or a control. [default: baseline]"),
    *TRAIN_SETTINGS,
    click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Begin no trial after so long."),
    click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at the same time."),
)
def tune(args: CommandArgs) -> CommandResult:
    """Search settings on validation; the test fold is not read. Writes best.yaml, for `train` and `ablate`."""
    from balancer.core.config import dump
    from balancer.core.device import limit_threads
    from balancer.core.run import environment, open_run, request, write_json, write_text
    from classifier.experiments.jobs import Workers
    from classifier.experiments.trial import estimate_seconds
    from classifier.tuning import report as tune_report
    from classifier.tuning import search as tuning

    limit_threads()
    jobs, timeout = args.options["jobs"], args.options["timeout"]
    workers = Workers(args.device, jobs)
    device, config = workers.local_device, tuning.configured(args)
    study = tuning.open_once(config)
    if args.dry_run:
        one = estimate_seconds(study, device) * config.seeds  # without pruning, at the settings given
        seconds = one * tuning.number_of_trials(config) / jobs
        seconds = seconds if timeout is None else min(seconds, timeout)
        return dry_run(config, study.data.describe(), seconds, workers.describe())
    with open_run(args.command, config, request(args)) as run:
        search = tuning.Search(config, run.path, args.device)
        facts = environment(args.command, workers.describe(), data=study.data.describe())
        write_json(run / "env.json", facts)
        (run / "done").unlink(missing_ok=True)  # --resume may ask for more trials
        write_text(run / "config.yaml", dump(config))
        trials = tuning.run_search(search, jobs, timeout)
        outcome = tune_report.write_search(trials, search, study.data, run)
        if len(trials) >= search.trials:
            run.finish()
        return outcome


@run_command(
    main,
    "crossvalidate",
    setting("--regime", "regime", help="baseline, augment, or a control without synthetic images. [default: baseline]"),
    setting("--folds", "folds", type=int, help="How many, patients whole and classes in equal shares. [default: 5]"),
    *(option for option in TRAIN_SETTINGS if option is not SYNTHETIC),
)
def crossvalidate(args: CommandArgs) -> CommandResult:
    """Train and evaluate on every fold of the images outside the test set, which is not looked at."""
    from classifier.experiments import crossvalidation as crossval

    return crossval.command(args)


def _names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


RUNS = click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
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
        help="Rules as --threshold of train takes them. [default: half,balanced_accuracy,f1,sensitivity=0.95,specificity=0.95,cost=5]",
    ),
    click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="[default: thresholds in the only RUN]"),
)
def thresholds(
    runs: tuple[Path, ...], regimes: tuple[str, ...], rules: tuple[str, ...], out: Path | None
) -> CommandResult:
    """What every threshold gives on validation and on test, and how rules that choose one carry over.

    RUN is the folder of an ablation or of a training; several must share data and split.
    """
    from classifier.experiments import thresholds as threshold_study

    return threshold_study.thresholds(runs, regimes, rules, out)


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
    click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="[default: ensemble in the only RUN]"),
)
def ensemble(runs: tuple[Path, ...], regimes: tuple[str, ...], threshold: str, out: Path | None) -> CommandResult:
    """Average the trials of each regime and, of several runs, of all of them; figures on test beside the single trials'.

    RUN is the folder of an ablation or of a training; several must share data and split.
    """
    from classifier.experiments import ensemble as averaging

    return averaging.ensemble(runs, regimes, threshold, out)


@plain_command(main, "systems")
def systems() -> CommandResult:
    """List the published systems that can be reproduced, with what each reported."""
    from classifier.systems.registry import list_systems

    return list_systems()


@run_command(
    main,
    "reproduce",
    click.argument("names", nargs=-1, metavar="[NAME...|all]"),
    setting("--seeds", "seeds", type=int, help="Trial seeds of each system. [default: 3]"),
    setting("--regimes", "regimes", metavar="LIST", help="Regimes of every system. [default: each system's own]"),
    setting(
        "--synthetic",
        "synthetic",
        type=click.Path(),
        multiple=True,
        metavar="DIR",
        help="A finished synthesis, for s2_cnn_gan; one per GAN seed. [default: the newest]",
    ),
    setting("--share", "share", type=float, help="Share of each system's training that is run. [default: 1]"),
    click.option("--smoke", is_flag=True, help="Two steps of each on a few drawings: shows that they run, in minutes."),
    *WORKER_OPTIONS,
)
def reproduce(args: CommandArgs) -> CommandResult:
    """Run published systems under one protocol; write a table: published, its own outputs, ours. --set reaches all of them."""
    from classifier.systems.reproduce import reproduce

    return reproduce(args)


@run_command(
    main,
    "components",
    setting("--regime", "regime", help="Regime of the full system. [default: baseline, or that of the config file]"),
    setting("--seeds", "seeds", type=int, help="Paired trial seeds. [default: 3]"),
    *TRAIN_SETTINGS,
    *WORKER_OPTIONS,
)
def components(args: CommandArgs) -> CommandResult:
    """Turn off one part of a system at a time (class weights, augmentation, batch norm, transfer, threshold) and compare."""
    from classifier.experiments.components import components

    return components(args)


@plain_command(
    main,
    "compare",
    click.argument("names", nargs=-1, required=True, metavar="NAME|CHECKPOINT..."),
    click.option("--image-size", type=click.IntRange(min=1), help="Size of the images. [default: that of each]"),
    click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per pass."),
    click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Passes that are timed."),
    click.option("--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Also write the table there."),
    click.option("--device", default="auto", show_default=True),
)
def compare(
    names: tuple[str, ...], image_size: int | None, batch_size: int, repeats: int, out: Path | None, device: str
) -> CommandResult:
    """Size and speed of systems, networks and checkpoints: parameters, MB, images per second, latency."""
    from classifier.systems import profile

    return profile.compare(names, image_size, device, profile.Timing(batch_size, repeats, 5 * repeats), out)


@plain_command(
    main,
    "evaluate",
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option(
        "--data", envvar="BALANCER_DATA", metavar="PATH", help="Data to evaluate on. [default: as in training]"
    ),
    click.option("--fold", type=click.Choice(["test", "val", "train"]), default="test", show_default=True),
    click.option("--device", default="auto", show_default=True),
)
def evaluate(checkpoint: Path, data: str | None, fold: str, device: str) -> CommandResult:
    """Metrics of a saved classifier on a fold of a data set."""
    from classifier import inference

    return inference.evaluate_checkpoint(checkpoint, data, fold, device)


@plain_command(
    main,
    "predict",
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path)),
    click.option("--threshold", type=click.FloatRange(0, 1), help="[default: the one chosen on validation]"),
    click.option("--device", default="auto", show_default=True),
)
def predict(checkpoint: Path, images: tuple[Path, ...], threshold: float | None, device: str) -> CommandResult:
    """Label and probability of PNEUMONIA for images, or for all images in a folder. Research only: no medical device."""
    from classifier import inference

    return inference.predict_files(checkpoint, images, threshold, device)
