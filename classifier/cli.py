"""`classifier`: retrain under the regimes of an ablation, evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from balancer import __version__
from balancer.config import AblateConfig, ClassifierConfig
from balancer.console import HELP, Invocation, Outcome, dry_run, plain_command, run_command, setting


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
    setting("--synthetic", "synthetic", metavar="DIR", help="A finished synthesis. [default: the newest]"),
    setting(
        "--synthetic-count", "synthetic_count", metavar="deficit|all|N", help="How many of them. [default: deficit]"
    ),
    setting("--model", "model", help="small_cnn, s2_cnn, or a torchvision name such as resnet18. [default: small_cnn]"),
    setting(
        "--weights", "weights", metavar="imagenet|none|FILE", help="Weights of a torchvision model. [default: none]"
    ),
    setting("--augmentation", "augmentation", help="Preset of classical transforms: mild or s2. [default: mild]"),
    setting("--steps", "steps", type=int, help="Optimiser steps, the same in every regime."),
    setting("--batch-size", "batch_size", type=int, help="Images per step."),
)


@run_command(
    main,
    "ablate",
    setting(
        "--regimes", "regimes", metavar="LIST", help="all, controls, or names such as baseline,gan. [default: all]"
    ),
    setting("--seeds", "seeds", type=int, help="Paired trial seeds per regime. [default: 3]"),
    *TRAIN_SETTINGS,
)
def ablate(asked: Invocation) -> Outcome:
    """Train under every regime with paired seeds; write the table, the figures and every trial's result."""
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
    """Both commands make a run of trials; `train` makes one."""
    from balancer.device import describe_device, limit_threads, resolve_device
    from balancer.run import environment, open_run, request, resumed_or_new, write_json
    from classifier import ablation

    limit_threads()
    device = resolve_device(asked.device)
    config = cast(
        ClassifierConfig, resumed_or_new(asked.command, asked.resume, asked.explicit, lambda: ablation.configure(asked))
    )
    study = ablation.open_study(config)
    if asked.dry_run:
        return dry_run(
            config, study.data.describe(), ablation.estimate_seconds(config, study, device), describe_device(device)
        )
    with open_run(asked.command, config, request(asked)) as run:
        if not run.finished:
            write_json(
                run / "env.json", environment(asked.command, describe_device(device), data=study.data.describe())
            )
            study.data.write_split(run / "split.csv")
        if isinstance(config, AblateConfig):
            rows = ablation.ablate(config, study, run, device)
            outcome = ablation.write_outputs(rows, study, run)
        else:
            outcome = ablation.train_one(config, study, run, device)
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
