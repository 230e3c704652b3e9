"""Progress: a bar where there is a terminal, lines with the time left in logs, nothing with -q."""

import io
import logging

import pytest

from balancer.core import progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("balancer.core.progress.time.monotonic", lambda: self.now)


def run(
    monkeypatch: pytest.MonkeyPatch, seconds: float, total: int = 1000, show: bool = True, lines: bool | None = None
) -> None:
    clock = Clock(monkeypatch)
    with progress.bar(total, "training", "step", show=show, lines=lines) as bar:
        for _ in range(total - bar.done):
            clock.now += seconds / total
            bar.update()


def test_short_work_needs_no_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "balancer")
    run(monkeypatch, 1.9)
    assert caplog.messages == []


def test_lines_say_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "balancer")
    run(monkeypatch, 100)
    assert caplog.messages[0] == "training: 20 of 1000 steps, about 98 s left"
    assert 5 <= len(caplog.messages) <= 12


def test_hours_take_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "balancer")
    run(monkeypatch, 7200, total=7200)
    assert 110 <= len(caplog.messages) <= 130
    assert "about 2.0 h left" in caplog.messages[0]


def test_what_was_done_before_took_no_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "balancer")
    clock = Clock(monkeypatch)
    with progress.bar(100, "training", "step", initial=90) as bar:
        clock.now = 4.0
        bar.update()
    assert caplog.messages == ["training: 91 of 100 steps, about 36 s left"]


@pytest.mark.parametrize("more", [{"show": False}, {"lines": False}])
def test_hidden_work_writes_no_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: dict[str, bool]
) -> None:
    caplog.set_level(logging.INFO, "balancer")
    run(monkeypatch, 100, **more)
    assert caplog.messages == []


def test_quiet_writes_no_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "balancer")
    run(monkeypatch, 100)
    assert caplog.messages == []


def test_each_yields_every_item() -> None:
    assert list(progress.each(["a", "b"], "reading", "file")) == ["a", "b"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_has_the_bar_and_needs_no_line(terminal: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    handler = progress.BarHandler(stream)
    for extra in ({}, progress.LINE):
        handler.emit(logging.makeLogRecord({"msg": "words" if not extra else "half", "levelno": 20, **extra}))
    assert ("half" in stream.getvalue()) != terminal
    assert "words" in stream.getvalue()
