"""The rounds of a training, the registry of algorithms, and settings that sites cannot follow."""

import itertools

import pytest

from balancer.core.errors import UsageError
from balancer.core.settings import TrainConfig
from classifier.federation.algorithms import ALGORITHMS, check_recipe, round_ends, select_algorithms


@pytest.mark.parametrize(("steps", "rounds"), [(1400, 20), (10, 3), (7, 7), (5, 1)])
def test_rounds_part_the_steps(steps: int, rounds: int) -> None:
    ends = [0, *round_ends(steps, rounds)]
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    assert len(lengths) == rounds
    assert sum(lengths) == steps
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


def test_more_rounds_than_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="rounds is 9 and steps is 8"):
        round_ends(8, 9)


def test_algorithms_come_in_the_order_of_the_registry() -> None:
    assert [a.name for a in select_algorithms(list(ALGORITHMS)[::-1])] == list(ALGORITHMS)
    with pytest.raises(UsageError, match="fedsgd"):
        select_algorithms(["fedsgd"])
    with pytest.raises(UsageError, match="no algorithm"):
        select_algorithms([])


@pytest.mark.parametrize(
    "change",
    [
        {"selection": "best_val_nll"},
        {"patience": 2},
        {"pretrain": {"method": "simsiam"}},
        {"stages": [{"steps": 4}]},
        {"exposure": "real"},
        {"schedule": "plateau"},
        {"regime": "gan"},
        {"regime": "duplicate"},
        {"regime": "undersample"},
        {"regime": "permuted"},
        {"regime": "nothing"},
    ],
)
def test_settings_that_sites_cannot_follow_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        check_recipe(TrainConfig.model_validate(change))


@pytest.mark.parametrize("regime", ["baseline", "augment", "weighted", "oversample_augment", "focal"])
def test_other_regimes_are_taken(regime: str) -> None:
    check_recipe(TrainConfig(regime=regime))
