"""Threads: who chooses their number, what is said of it, and what the libraries and child processes are told."""

import os
import subprocess
import sys

import pytest

from balancer.core.errors import UsageError
from balancer.core.threads import COUNT, WAIT_POLICY, WAITING, choose_threads, thread_environment


@pytest.mark.parametrize(
    ("requested", "environment", "recorded", "chosen", "warned"),
    [
        (None, None, None, 1, None),
        (3, None, None, 3, None),
        (3, "2", None, 3, None),
        (None, "2", None, 2, COUNT),
        (None, "2,1", None, 2, COUNT),
        (None, "1", None, 1, None),
        (None, "", None, 1, None),
        (None, None, 4, 4, None),
        (None, "4", 4, 4, None),
        (None, "2", 4, 2, "--threads 4"),
        (1, None, 4, 1, "--threads 4"),
        (4, "2", 4, 4, None),
    ],
)
def test_flag_environment_the_run_before_default(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    requested: int | None,
    environment: str | None,
    recorded: int | None,
    chosen: int,
    warned: str | None,
) -> None:
    monkeypatch.delenv(COUNT)
    if environment is not None:
        monkeypatch.setenv(COUNT, environment)
    assert choose_threads(requested, recorded) == chosen
    assert len(caplog.messages) == (warned is not None)
    assert warned is None or warned in caplog.text


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "²"])
def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(COUNT, text)
    with pytest.raises(UsageError, match=COUNT):
        choose_threads()


def test_the_environment_is_for_children_and_for_libraries_loaded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with thread_environment(3):
        code = f"import os; print(os.environ[{COUNT!r}], os.environ[{WAIT_POLICY!r}])"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["3", "PASSIVE"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", WAITING)
def test_how_the_user_lets_threads_wait_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in WAITING:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "ACTIVE" if name == WAIT_POLICY else "1000")
    before = os.environ.get(WAIT_POLICY)
    with thread_environment(1):
        assert os.environ.get(WAIT_POLICY) == before
