"""The `classifier` command line: help, environment, config files, a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from balancer.data.dataset import Dataset
from classifier.cli import main as classifier_main

Run = Callable[..., Result]
Args = tuple[str, ...]
Make = Callable[..., Path]


@pytest.mark.parametrize("command", ["ablate", "train", "evaluate", "predict"])
def test_every_command_explains_itself(command: str, classifier: Run) -> None:
    result = classifier(command, "-h")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "Usage: main " + command in result.stdout
    assert command in classifier("--help").stdout


def test_unknown_options_and_commands_are_usage_errors(classifier: Run) -> None:
    for arguments in (("ablate", "--regime", "gan"), ("train", "--regimes", "gan"), ("ablat",), ("evaluate",)):
        assert classifier(*arguments).exit_code == 2
    assert classifier("evaluate", "x.pt", "--fold", "all").exit_code == 2
    assert classifier("ablate", "--resume", "x", "--force").exit_code == 2


def dry(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    config: dict = json.loads(result.stdout)["config"]
    return config


def test_flag_over_environment_over_file_over_default(
    classifier: Run, small_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_estimate: None
) -> None:
    options = [*small_args[:4], "--dry-run", "--json", "-q", "--regimes", "baseline"]
    default = dry(classifier("ablate", *options))
    assert (default["steps"], default["seeds"], default["batch_size"]) == (1400, 5, 32)
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"ablate": {"steps": 11, "batch_size": 12, "seeds": 4}, "train": {"steps": 99}}))
    options += ["--config", str(file)]
    assert dry(classifier("ablate", *options))["steps"] == 11
    monkeypatch.setenv("CLASSIFIER_ABLATE_STEPS", "13")
    monkeypatch.setenv("CLASSIFIER_ABLATE_BATCH_SIZE", "14")
    config = dry(classifier("ablate", *options, "--steps", "15"))
    assert (config["steps"], config["batch_size"], config["seeds"]) == (15, 14, 4)


def test_lists_and_numbers_from_flags(
    classifier: Run, small_args: Args, small_synthesis: Path, no_estimate: None
) -> None:
    options = (*small_args, "--dry-run", "--json", "--synthetic", small_synthesis)
    config = dry(classifier("ablate", *options, "--regimes", "gan, baseline", "--synthetic-count", "3"))
    assert (config["regimes"], config["synthetic_count"]) == (["gan", "baseline"], 3)
    assert dry(classifier("train", *options, "--synthetic-count", "all"))["synthetic_count"] == "all"


def test_synthetic_sets_from_everywhere(
    classifier: Run, small_args: Args, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, no_estimate: None
) -> None:
    """One path or several, made absolute; a comma may be part of a name."""
    options = (*small_args, "--dry-run", "--json", "--regimes", "baseline")
    two = [str(runs_cwd / "a"), str(runs_cwd / "b,c")]
    assert dry(classifier("ablate", *options))["synthetic"] is None
    assert dry(classifier("ablate", *options, "--synthetic", "a", "--synthetic", "b,c"))["synthetic"] == two
    assert dry(classifier("ablate", *options, "--set", 'synthetic=[a, "b,c"]'))["synthetic"] == two
    assert dry(classifier("ablate", *options, "--set", "synthetic=b,c"))["synthetic"] == two[1:]
    (runs_cwd / "c.yaml").write_text(yaml.safe_dump({"ablate": {"synthetic": two}}))
    assert dry(classifier("ablate", *options, "--config", "c.yaml"))["synthetic"] == two
    monkeypatch.setenv("CLASSIFIER_ABLATE_SYNTHETIC", "a:b,c")
    assert dry(classifier("ablate", *options))["synthetic"] == two


def test_doses_and_exposure_from_flags(
    classifier: Run, small_args: Args, small_synthesis: Path, no_estimate: None
) -> None:
    options = (*small_args, "--dry-run", "--json", "--synthetic", small_synthesis, "--regimes", "gan")
    config = dry(classifier("ablate", *options, "--dose", "0.5, 0.25", "--exposure", "real"))
    assert (config["doses"], config["exposure"]) == ([0.5, 0.25], "real")
    assert dry(classifier("ablate", *options, "--set", "doses=.5"))["doses"] == [0.5]


def test_who_runs_the_trials_is_no_setting(
    classifier: Run, small_args: Args, monkeypatch: pytest.MonkeyPatch, no_estimate: None
) -> None:
    """It may differ when a run is resumed, and changes nothing but the time that is foreseen."""
    options = (*small_args, "--dry-run", "--json", "--regimes", "baseline")
    one, four = (json.loads(classifier("ablate", *options, "--jobs", n).stdout) for n in (1, 4))
    assert one["config"] == four["config"]
    assert (one["estimated_seconds"], four["estimated_seconds"]) == pytest.approx((120, 30), abs=5)
    assert four["device"].endswith(", 4 jobs")
    assert "unknown setting 'jobs'" in classifier("ablate", *options, "--set", "jobs=2").stderr
    assert classifier("train", *small_args, "--jobs", "2").exit_code == 2
    for count in ("0", "-1", "many"):
        assert classifier("ablate", *options, "--jobs", count).exit_code == 2
    monkeypatch.setenv("CLASSIFIER_ABLATE_JOBS", "4")
    assert json.loads(classifier("ablate", *options).stdout)["estimated_seconds"] == pytest.approx(30, abs=5)


def test_train_takes_one_synthetic_set(
    classifier: Run, small_args: Args, small_synthesis: Path, small_data: Dataset, make_manifest: Make, tmp_path: Path
) -> None:
    other = make_manifest(tmp_path / "other", small_data.deficit, small_data.split_hash, first=500)
    result = classifier(
        "train", *small_args, "--regime", "gan", "--synthetic", small_synthesis, "--synthetic", other, "--dry-run"
    )
    assert result.exit_code == 2
    assert "synthetic names 2 sets; `classifier train` takes one" in result.stderr


def test_a_run_is_not_overwritten_unasked(classifier: Run, small_args: Args, tmp_path: Path) -> None:
    options = ("train", *small_args, "--set", "steps=1", "--set", "evaluations=1", "--out", tmp_path / "run")
    assert classifier(*options).exit_code == 0
    again = classifier(*options)
    assert again.exit_code == 1
    assert "holds a run already" in again.stderr
    assert classifier(*options, "--force").exit_code == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    refused = classifier("train", *small_args, "--out", tmp_path / "other", "--force")
    assert refused.exit_code == 1
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_without_out_the_run_goes_under_runs(classifier: Run, small_args: Args, runs_cwd: Path) -> None:
    result = classifier("train", *small_args, "--json")
    run = Path(json.loads(result.stdout)["run"])
    assert run.parent == Path("runs/train")
    assert (runs_cwd / run / "done").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_process_of_its_own(small_args: Args, tmp_path: Path) -> None:
    """stdout holds JSON alone also where libraries write to it, and imports stay inside the commands."""
    code = "from classifier.cli import main; main()"
    short = ("--set", "steps=2", "--set", "evaluations=1", "--json", "--out", str(tmp_path / "run"))
    command = [sys.executable, "-c", code, "train", *small_args[:-1], *short]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["regime"] == "baseline"
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("group", ["all", "controls"])
def test_train_takes_one_regime(group: str) -> None:
    result = CliRunner().invoke(classifier_main, ["train", "--regime", group, "--data", "phantom"])
    assert result.exit_code == 2
    assert "takes one regime" in result.stderr
