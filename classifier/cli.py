"""`classifier`: retrain under the regimes of an ablation, evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from balancer import __version__
from balancer.console import HELP, Invocation, Outcome, dry_run, plain_command, run_command, setting
from balancer.settings import AblateConfig, ClassifierConfig


@click.group(context_settings={**HELP, "auto_envvar_prefix": "CLASSIFIER"})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Retrain a classifier with and without synthetic images, and compare honestly.

    \b
      classifier ablate --regimes all   four regimes, paired seeds -> runs/ablate/
      classifier train --regime gan     one classifier             -> runs/train/
      classifier predict MODEL IMAGE    label and probability
    """


TRAIN_SETTINGS = (
    setting(
        "--synthetic",
        "synthetic",
        type=click.Path(),
        multiple=True,
        metavar="DIR",
        help="A finished synthesis; ablate takes several, one per GAN seed. [default: the newest]",
    ),
    setting(
        "--synthetic-count",
        "synthetic_count",
        metavar="deficit|all|N",
        help="How many images of each. [default: deficit]",
    ),
    setting("--model", "model", help="small_cnn, s2_cnn, or a torchvision name such as resnet18. [default: small_cnn]"),
    setting(
        "--weights", "weights", metavar="imagenet|none|FILE", help="Weights of a torchvision model. [default: none]"
    ),
    setting(
        "--augmentation", "augmentation", help="Preset of classical transforms: mild, strong or s2. [default: mild]"
    ),
    setting("--steps", "steps", type=int, help="Optimiser steps, the same in every regime."),
    setting(
        "--exposure",
        "exposure",
        metavar="steps|real",
        help="What is equal in all regimes: steps, or passes over real images. [default: steps]",
    ),
    setting("--batch-size", "batch_size", type=int, help="Images per step."),
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
def ablate(asked: Invocation) -> Outcome:
    """Train under every regime with paired seeds; write the table, the figures, the report and every trial's result."""
    return _study(asked)


@run_command(
    main,
    "train",
    setting("--regime", "regime", help="baseline, augment, gan, combined, or a control. [default: baseline]"),
    *TRAIN_SETTINGS,
)
def train(asked: Invocation) -> Outcome:
    """Train one classifier under one regime and evaluate it."""
    return _study(asked)


def _study(asked: Invocation) -> Outcome:
    """Both commands make a run of trials; `train` makes one, in this process."""
    from balancer.device import limit_threads
    from balancer.run import environment, open_run, request, resumed_or_new, write_json
    from classifier import ablation
    from classifier.jobs import Workers
    from classifier.study import configure, estimate_seconds, open_study

    limit_threads()
    workers = Workers(asked.device, **asked.options)
    device = workers.here
    config = cast(
        ClassifierConfig, resumed_or_new(asked.command, asked.resume, asked.explicit, lambda: configure(asked))
    )
    study = open_study(config)
    if isinstance(config, AblateConfig):
        ablation.check(study)
    at_once = workers.at_once()  # refuses a cluster out of reach before anything is written
    if asked.dry_run:
        return dry_run(config, study.data.describe(), estimate_seconds(study, device) / at_once, workers.describe())
    with open_run(asked.command, config, request(asked)) as run:
        if not run.finished:
            facts = environment(asked.command, workers.describe(), data=study.data.describe())
            write_json(run / "env.json", facts)
            study.data.write_split(run / "split.csv")
        if isinstance(config, AblateConfig):
            ablation.write_data_audit(study, run)
            outcome = ablation.write_outputs(ablation.ablate(study, run, workers), study, run)
        else:
            outcome = ablation.train_one(study, run, device)
        run.finish()
        return outcome


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
def evaluate(checkpoint: Path, data: str | None, fold: str, device: str) -> Outcome:
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
def predict(checkpoint: Path, images: tuple[Path, ...], threshold: float | None, device: str) -> Outcome:
    """Label and probability of PNEUMONIA for images, or for all images in a folder. Research only: no medical device."""
    from classifier import inference

    return inference.predict_files(checkpoint, images, threshold, device)
