"""A signal ends every command with its own exit code and without ``done``; ``--resume`` finishes as if nothing was."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import QUICK_REPORT, TINY_GAN, balancer, done, sets
from PIL import Image
from planted import fields

from balancer.quality import assess

QUALITY = ["--inception-weights", "off", "--set", "kid_subsets=2", "--set", "kid_subset_size=4"]
TRAINING = ["--image-size", "16", "--steps", "6", "--batch-size", "8", *sets(evaluations=3, bn_statistics="running")]


def classifier(*args: object) -> Result:
    from classifier.cli import main

    return CliRunner().invoke(main, [str(a) for a in args])


def signal_in(patch: pytest.MonkeyPatch, owner: object, name: str, signum: int = signal.SIGTERM) -> None:
    """Send this process a signal whenever it calls a function of a module."""
    real: Callable[..., Any] = getattr(owner, name)

    def interrupted(*args: Any, **more: Any) -> Any:
        signal.raise_signal(signum)
        return real(*args, **more)

    patch.setattr(owner, name, interrupted)


def ended(result: Result, code: int, run: Path) -> None:
    assert result.exit_code == code, result.output + repr(result.exception)
    assert isinstance(result.exception, SystemExit)
    assert not (run / "done").exists()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("sides")
    for side, seed in (("real", 1), ("fake", 2)):
        (root / side).mkdir()
        for i, image in enumerate(fields(20, seed, 24)):
            Image.fromarray(image).save(root / side / f"{i}.png")
    return ["--real", str(root / "real"), "--fake", str(root / "fake")]


@pytest.mark.parametrize(
    "part",
    [
        "_spectrum",
        pytest.param("memorization", marks=pytest.mark.nightly),
        pytest.param("two_sample.logistic_two_sample", marks=pytest.mark.nightly),
    ],
)
def test_a_signal_is_no_failure_of_a_part_of_the_report(
    part: str, folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, five_pixel_steps: None
) -> None:
    """A part that fails is left out with a note. A signal in that part once did the same, and changed the verdict."""
    command = ["evaluate", *folders, *(QUALITY if "." in part else QUICK_REPORT)]
    owner: Any = assess.two_sample if "." in part else assess
    with monkeypatch.context() as patch:
        signal_in(patch, owner, part.rpartition(".")[2])
        ended(balancer(*command, "--out", tmp_path / "run"), 143, tmp_path / "run")
    done(balancer("evaluate", "--resume", tmp_path / "run"))
    done(balancer(*command, "--out", tmp_path / "undisturbed"))
    assert report(tmp_path / "run") == report(tmp_path / "undisturbed")


def report(run: Path) -> Any:
    return json.loads((run / "report.json").read_text())["quality"]


@pytest.mark.nightly
def test_synthesize_ends_in_its_report(chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(balancer("gan-train", "--data", chest, "--steps", 2, *TINY_GAN, "--out", tmp_path / "gan"))
    command = ["synthesize", "--gan-run", tmp_path / "gan", "--n", 20, *QUICK_REPORT]
    with monkeypatch.context() as patch:
        signal_in(patch, assess, "memorization")
        ended(balancer(*command, "--out", tmp_path / "run"), 143, tmp_path / "run")
    done(balancer("synthesize", "--resume", tmp_path / "run"))
    done(balancer(*command, "--out", tmp_path / "undisturbed"))
    assert report(tmp_path / "run") == report(tmp_path / "undisturbed")


def test_a_command_without_a_state_names_the_line_that_resumes(
    chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from balancer.audit import findings

    run = tmp_path / "run"
    signal_in(monkeypatch, findings, "audit", signal.SIGINT)
    result = balancer("audit", "--data", chest, "--image-size", 16, "--out", run)
    ended(result, 130, run)
    assert f"--resume {run}" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_last_snapshot_of_a_training(
    signum: int, code: int, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step nothing looked for a signal any more."""
    from balancer.data import dataset
    from balancer.gan import trainer

    with monkeypatch.context() as patch:
        signal_in(patch, trainer, "save_grid", signum)
        command = ["gan-train", "--data", chest, "--steps", 2, *TINY_GAN, "--out", tmp_path / "gan"]
        ended(balancer(*command), code, tmp_path / "gan")
    with monkeypatch.context() as patch:  # while the data are read, too
        signal_in(patch, dataset, "load_dataset", signum)
        stopped = balancer("gan-train", "--resume", tmp_path / "gan")
        ended(stopped, code, tmp_path / "gan")
        assert f"--resume {tmp_path / 'gan'}" in stopped.stderr.splitlines()[-1]
    done(balancer("gan-train", "--resume", tmp_path / "gan"))
    assert (tmp_path / "gan" / "done").exists()


@pytest.mark.parametrize(
    ("command", "owner", "name"),
    [
        (["train"], "experiments.ablation", "save_trial"),
        (["crossvalidate", "--folds", "2"], "experiments.crossvalidation", "save_trial"),
        (["ablate", "--regimes", "baseline", "--seeds", "1"], "experiments.ablation", "save_trial"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_signal_after_the_last_step_of_a_classifier(
    command: list[str], owner: str, name: str, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    module = importlib.import_module(f"classifier.{owner}")
    with monkeypatch.context() as patch:
        signal_in(patch, module, name)
        patch.setattr("classifier.experiments.ablation.write_data_audit", lambda *_: None)  # comes before, takes longer
        made = classifier(*command, "--data", chest, *TRAINING, "--out", tmp_path / "run")
        ended(made, 143, tmp_path / "run")


def test_a_dry_run_of_systems_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_cwd: Path) -> None:
    """An estimate that fails is left out of the table of estimates; a signal is no such failure."""
    from classifier.systems import reproduce

    signal_in(monkeypatch, reproduce, "configured")
    result = classifier("reproduce", "s1_cnn28", "--dry-run")
    assert result.exit_code == 143, result.output + repr(result.exception)


@pytest.mark.parametrize(
    "arguments", [["gan-train", "--threads", "0"], ["gan-train", "--data", "nowhere"], ["nothing"]]
)
def test_a_program_that_calls_a_command_keeps_its_signals(arguments: list[str]) -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    assert balancer(*arguments).exit_code in (1, 2)
    assert {s: signal.getsignal(s) for s in before} == before
