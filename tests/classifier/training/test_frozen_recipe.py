"""The recipe that the published figures were taken with is the default, and its hash says so."""

from pathlib import Path

import pytest

from balancer.core.config import read_config_file, resolve, validate
from balancer.core.settings import AblateConfig, TrainConfig
from classifier.experiments.study import recipe_hash

FROZEN = Path(__file__).resolve().parents[3] / "configs" / "frozen.yaml"


def test_the_frozen_recipe_is_the_default() -> None:
    written = FROZEN.read_text(encoding="utf-8").split("recipe_hash: ")[1][:8]
    frozen = resolve(AblateConfig, {**read_config_file(FROZEN, "ablate"), "data": {"path": "/x"}})
    assert recipe_hash(frozen) == recipe_hash(AblateConfig()) == written


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 3, "seeds": 9, "regimes": ("gan",), "synthetic": ("/a",), "doses": (0.5,)}, True),
        ({"steps": 1401}, False),
        ({"label_smoothing": 0.01}, False),
        ({"threshold": "half"}, False),
        ({"pretrain": {"method": "simsiam"}}, False),
        ({"pretrain": {"method": "none"}}, True),
    ],
)
def test_the_hash_names_the_recipe_and_nothing_else(change: dict, same: bool) -> None:
    assert (recipe_hash(AblateConfig(**change)) == recipe_hash(AblateConfig())) == same


def test_settings_of_earlier_versions_are_read() -> None:
    assert validate(AblateConfig, {"bn_statistics": "clean"}) == AblateConfig()


def test_train_and_ablate_share_it() -> None:
    assert recipe_hash(TrainConfig(regime="gan")) == recipe_hash(AblateConfig())
