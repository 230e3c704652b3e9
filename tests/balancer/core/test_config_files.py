"""The YAML files that ship with the project."""

from pathlib import Path

import pytest
import yaml

from balancer.core.config import read_config_file, reads_data, resolve
from balancer.core.settings import COMMANDS, DataConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_default_yaml_lists_every_setting_with_its_default():
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    expected = {name: model().model_dump(mode="json", exclude={"data"}) for name, model in COMMANDS.items()}
    assert written == {"data": DataConfig().model_dump(mode="json"), **expected}


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_config_file_serves_every_command(file, command):
    resolve(COMMANDS[command], read_config_file(file, command))


def test_default_yaml_changes_nothing():
    for command in COMMANDS:
        data = {"data": {"path": "/x"}} if reads_data(command) else {}
        plain = resolve(COMMANDS[command], data)
        given = resolve(COMMANDS[command], {**read_config_file(CONFIGS / "default.yaml", command), **data})
        assert given == plain
