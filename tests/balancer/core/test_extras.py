"""How an extra is installed: from a checkout, or from an installed copy, as a command that works there."""

from pathlib import Path

import pytest

import balancer
from balancer.core import configs, extras

REPOSITORY = Path(__file__).resolve().parents[3]


def test_in_the_checkout_the_command_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert extras.install("tune") == "pip install -e '.[tune]'"
    monkeypatch.chdir(tmp_path)
    assert extras.install("tune") == f"pip install -e '{REPOSITORY}[tune]'"


def test_an_installed_copy_names_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(balancer, "__file__", str(tmp_path / "balancer" / "__init__.py"))
    monkeypatch.setattr(extras, "requires", lambda _: ["click>=8", 'optuna>=5.0; extra == "tune"', 'x; extra == "dev"'])
    assert extras.install("tune") == "pip install 'optuna>=5.0'"


@pytest.mark.parametrize(
    "path", ["configs/gpu.yaml", "gpu.yaml", "gpu", "seeds/s1_cnn28", "configs/seeds/s1_cnn28.yaml"]
)
def test_the_config_files_of_the_package_are_found_from_anywhere(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.find_config(Path(path)).is_file()
    assert configs.find_config(Path("none.yaml")) == Path("none.yaml")
    (tmp_path / "gpu").touch()
    assert configs.find_config(Path("gpu")) == Path("gpu"), "a file that is there goes first"
