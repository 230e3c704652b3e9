"""The algorithms of a federation, and how the optimiser steps of a training are parted into rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balancer.core.errors import UsageError, nearest
from balancer.core.settings import TrainConfig
from classifier.training.regimes import REGIMES

# Schedules whose rate is a function of the step alone. The others count epochs or validations, which differ by site.
SCHEDULES = ("constant", "cosine", "one_cycle")


@dataclass(frozen=True)
class Algorithm:
    """How sites train together. All of them average the weights of the sites by their number of patients."""

    name: str
    source: str  # of the method
    proximal: bool = False  # a penalty keeps the weights of a site near those of the round's start
    site_norm: bool = False  # every site keeps BatchNorm layers of its own, which never leave the site


ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("fedavg", "McMahan et al. 2017, arXiv:1602.05629"),
        Algorithm("fedprox", "Li et al. 2020, arXiv:1812.06127", proximal=True),
        Algorithm("fedbn", "Li et al. 2021, arXiv:2102.07623", site_norm=True),
        Algorithm("fedprox_bn", "FedProx with the BatchNorm layers of FedBN", proximal=True, site_norm=True),
    )
}


def select_algorithms(names: Sequence[str]) -> list[Algorithm]:
    """Return algorithms by name, each once, in the order of the registry.

    Raises:
        UsageError: a name is unknown, or there is none.
    """
    for name in names:
        if name not in ALGORITHMS:
            raise UsageError(f"algorithm is {name!r}; {nearest(name, list(ALGORITHMS))}")
    if not names:
        raise UsageError(f"no algorithm is named; expected some of {', '.join(ALGORITHMS)}")
    return [algorithm for algorithm in ALGORITHMS.values() if algorithm.name in names]


def round_ends(steps: int, rounds: int) -> list[int]:
    """Return the step at which each round ends; rounds are as equal as whole steps allow, and end with the last step.

    >>> round_ends(10, 3)
    [3, 6, 10]

    Raises:
        UsageError: there are more rounds than steps.
    """
    if rounds > steps:
        raise UsageError(f"rounds is {rounds} and steps is {steps}; a round takes a step or more: give fewer rounds")
    return [steps * (k + 1) // rounds for k in range(rounds)]


def check_recipe(config: TrainConfig) -> None:
    """Refuse settings that sites cannot follow without sending more than weights and counts.

    Raises:
        UsageError: naming the setting.
    """
    regime = REGIMES.get(config.regime)
    if regime is None:
        raise UsageError(f"regime is {config.regime!r}; {nearest(config.regime, list(REGIMES))}")
    if regime.synthetic or regime.duplicate or regime.group == "checks" or regime.others != "whole":
        raise UsageError(
            f"regime is {config.regime!r}; a federation takes regimes without added or dropped images (baseline,"
            " augment, weighted, oversample or focal): a federated GAN is out of scope"
        )
    if config.pretrain.method != "none":
        raise UsageError(
            f"pretrain.method is {config.pretrain.method!r}; a federation takes 'none': its sites begin with the same"
            " weights, and no site sees all images"
        )
    unfit = {
        "selection": config.selection != "last" and "'last': choosing a round would need figures of every site",
        "patience": config.patience > 0 and "0: all sites make the same steps",
        "stages": bool(config.stages) and "none: rounds part the steps of one stage",
        "exposure": config.exposure != "steps" and "'steps'",
        "schedule": config.schedule not in SCHEDULES and f"one of {', '.join(SCHEDULES)}",
    }
    for name, expected in unfit.items():
        if expected:
            raise UsageError(f"{name} is {getattr(config, name)!r}; a federation takes {expected}")
