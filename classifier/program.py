"""The group of the commands of `classifier`: :mod:`classifier.cli` trains, :mod:`classifier.cli_models` uses models."""

from __future__ import annotations

import click

from balancer import __version__
from balancer.cli import main as balancer_main
from balancer.core.command import HELP
from balancer.core.program import CommandGroup


@click.group(cls=CommandGroup, context_settings={**HELP, "auto_envvar_prefix": "CLASSIFIER"})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Retrain a classifier with and without synthetic images, and compare, with intervals.

    \b
      classifier ablate --regimes all   four regimes, paired seeds -> runs/ablate/
      classifier train --regime gan     one classifier             -> runs/train/
      classifier crossvalidate          one regime, every fold outside test -> runs/crossvalidate/
      classifier thresholds RUN         every threshold and rule, validation beside test
      classifier ensemble RUN           the mean of a run's trials, or of several runs
      classifier predict MODEL IMAGE    label and probability
      classifier explain MODEL IMAGE    heat maps, and whether they mean something
      classifier serve MODEL            a page and a REST interface on this machine
      classifier export MODEL --to onnx a model for other programs
      classifier reproduce NAME         a published system beside its own figures -> runs/reproduce/
    """


main.beside = (balancer_main,)  # BALANCER_DATA, BALANCER_CACHE
