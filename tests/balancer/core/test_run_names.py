"""Runs by name, and the link to the newest: whatever works with a path works with a name."""

import os
from pathlib import Path

import pytest

from balancer.core.errors import BalancerError, UsageError
from balancer.core.marker import MARKER
from balancer.core.run import RunDir
from balancer.core.run_names import LATEST, RUNS, find_run, named_folder, point_latest
from balancer.core.saved_runs import latest_run, newest_run, resumed_path


def finished(command: str, name: str, time: int = 0) -> Path:
    path = RUNS / command / name
    path.mkdir(parents=True)
    with RunDir(path, resumed=False) as run:
        run.finish()
    if time:
        os.utime(path / MARKER, (time, time))
    return path


def test_a_name_is_a_folder_under_runs() -> None:
    assert named_folder("gan-train", "first_try-2") == RUNS / "gan-train" / "first_try-2"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", LATEST, "a b", "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        named_folder("gan-train", name)


def test_a_path_goes_before_a_name(runs_cwd: Path) -> None:
    named = finished("ablate", "pilot")
    assert find_run(Path("pilot"), "train", "ablate") == named
    assert find_run(Path("other"), "train", "ablate") == Path("other")
    Path("pilot").mkdir()
    assert find_run(Path("pilot"), "train", "ablate") == Path("pilot")


def test_resume_takes_a_name(runs_cwd: Path) -> None:
    named = finished("gan-train", "pilot")
    assert resumed_path("gan-train", "pilot") == named


def test_latest_is_the_run_that_was_finished_last(runs_cwd: Path) -> None:
    finished("gan-train", "a")
    second = finished("gan-train", "b")
    link = RUNS / "gan-train" / LATEST
    assert link.is_symlink()
    assert link.resolve() == second.resolve()
    assert latest_run("gan-train") == second, "the link is no run of its own"
    assert [p.name for p in link.parent.iterdir() if p.name.startswith(".")] == []


def test_a_run_that_is_resumed_by_the_link_leaves_the_link_to_the_run(runs_cwd: Path) -> None:
    run = finished("ablate", "a")
    point_latest(run.parent / LATEST)
    assert (run.parent / LATEST).resolve() == run.resolve()


def test_what_a_user_named_latest_stays(runs_cwd: Path) -> None:
    (RUNS / "gan-train" / LATEST).mkdir(parents=True)
    run = finished("gan-train", "a")
    point_latest(run)
    assert not (RUNS / "gan-train" / LATEST).is_symlink()


def test_runs_elsewhere_get_no_link(tmp_path: Path) -> None:
    with RunDir(tmp_path / "a", resumed=False) as run:
        (tmp_path / "a").mkdir()
        run.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_newest_of_several_commands_is_told(runs_cwd: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BalancerError, match="ablate or train"):
        newest_run("ablate", "train")
    finished("ablate", "old", time=1_000)
    new = finished("train", "new", time=2_000)
    caplog.set_level("INFO", "balancer")
    assert newest_run("ablate", "train") == new
    assert str(new) in caplog.text
