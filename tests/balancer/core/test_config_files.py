"""The YAML files that ship with the project."""

from pathlib import Path

import pytest
import yaml

from balancer.core.config import read_config_file, reads_data, resolve
from balancer.core.defaults import default_yaml
from balancer.core.settings import CLASSIFIERS, COMMANDS, DataConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_default_yaml_is_made_from_the_models():
    """If this fails: python -m balancer.core.defaults > configs/default.yaml"""
    assert (CONFIGS / "default.yaml").read_text() == default_yaml()
    assert "et al\n" not in default_yaml()  # a comment is a whole sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_default_yaml_lists_every_setting_with_its_default(command):
    content = yaml.safe_load(default_yaml())
    shared = content["classifier"] if command in CLASSIFIERS else {}
    expected = COMMANDS[command]().model_dump(mode="json", exclude={"data"})
    assert {**shared, **content[command]} == expected
    assert content["data"] == DataConfig().model_dump(mode="json")


def test_a_section_of_a_command_is_laid_over_the_shared_one(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "classifier: {lr: 0.5, steps: 7}\ndata: {image_size: 32}\nablate: {lr: 0.25}\ntrain: {regime: gan}\n"
    )
    assert read_config_file(file, "ablate") == {"lr": 0.25, "steps": 7, "data": {"image_size": 32}}
    assert read_config_file(file, "train") == {"lr": 0.5, "steps": 7, "regime": "gan", "data": {"image_size": 32}}
    assert read_config_file(file, "tune") == {"lr": 0.5, "steps": 7, "data": {"image_size": 32}}
    assert read_config_file(file, "audit") == {"data": {"image_size": 32}}


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_config_file_serves_every_command(file, command):
    assert isinstance(resolve(COMMANDS[command], read_config_file(file, command)), COMMANDS[command])


def test_default_yaml_changes_nothing():
    for command in COMMANDS:
        data = {"data": {"path": "/x"}} if reads_data(command) else {}
        plain = resolve(COMMANDS[command], data)
        given = resolve(COMMANDS[command], {**read_config_file(CONFIGS / "default.yaml", command), **data})
        assert given == plain
