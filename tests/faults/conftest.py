"""Shared by the tests of faults: one small set, GAN run, synthesis, training and ablation. None is to be changed."""

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import Unreported
from fault import ABLATE, GAN, SYNTHESIZE, TRAIN


def made(command: str, root: Path, **places: Path) -> Path:
    """Run a command; return its run directory."""
    program, *words = command.format(here=root, **places).split()
    result = CliRunner().invoke(importlib.import_module(f"{program}.cli").main, words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return root / "run"


@pytest.fixture(scope="session")
def chest(_chest_template: Path) -> Path:
    """The folder of noise that all tests share."""
    return _chest_template


@pytest.fixture(scope="session")
def gan(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(GAN, tmp_path_factory.mktemp("gan"), chest=chest)


@pytest.fixture(scope="session")
def synthesis(gan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(SYNTHESIZE, tmp_path_factory.mktemp("synthesis"), gan=gan)


@pytest.fixture(scope="session")
def trained(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(TRAIN, tmp_path_factory.mktemp("trained"), chest=chest)


@pytest.fixture(scope="session")
def study(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation without audit and report, which no later command reads and which take longer than its trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classifier.experiments.ablation.write_data_audit", lambda *_: None)
        patch.setattr("classifier.experiments.ablation.write_ablation", lambda *_: Unreported())
        return made(ABLATE, tmp_path_factory.mktemp("study"), chest=chest)
