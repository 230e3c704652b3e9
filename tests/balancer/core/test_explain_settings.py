"""`balancer settings`: every setting has a meaning, its values and its default, as the models have them."""

import pytest

from balancer.core.config import setting_names
from balancer.core.errors import UsageError
from balancer.core.explain_settings import all_settings, explain_settings
from balancer.core.settings import SECTIONS


def test_every_setting_of_every_section_is_explained() -> None:
    facts = all_settings()
    names = {name for section, model in SECTIONS.items() if section != "data" for name in setting_names(model)}
    assert {f.name for f in facts} == names
    missing = [f.name for f in facts if not f.meaning]
    assert not missing


@pytest.mark.parametrize(
    ("name", "values", "default"),
    [
        ("data.image_size", "whole number, 16 or more, at most 1,024", "64"),
        ("image_size", "whole number, 16 or more, at most 1,024", "64"),
        ("discriminator_norm", "batch, spectral, none", "batch"),
        ("gan_train.ema_decay", "number, 0 or more, below 1", "0.995"),
        ("batch_norm", "true or false", "on"),
        ("target_class", "text", "the minority class of the training fold"),
        ("trainable", "all, head, or whole number, 1 or more", "all"),
    ],
)
def test_a_setting_by_its_name(name: str, values: str, default: str) -> None:
    facts = explain_settings(name).settings
    assert any(f.values.startswith(values) and f.default == default for f in facts), facts


def test_a_name_of_several_sections_gives_all() -> None:
    assert {f.section for f in explain_settings("steps").settings} == {"gan_train", "classifier"}


def test_a_section_by_its_name_or_command() -> None:
    assert explain_settings("gan-train").settings == explain_settings("gan_train").settings
    assert {f.section for f in explain_settings("data").settings} == {"data"}


def test_a_misspelt_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match="'steps'"):
        explain_settings("stepz")
