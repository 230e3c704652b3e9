"""TensorBoard events: written when asked for, read back with TensorBoard's own reader, and nothing otherwise."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from balancer.core.errors import BalancerError
from balancer.core.events import Events, check_installed


def test_off(tmp_path: Path) -> None:
    events = Events(tmp_path / "events", False, 0)
    events.scalars({"step": 1, "loss": 2.0})
    events.image("grid", np.zeros((4, 4), np.uint8), 1)
    events.close()
    assert not list(tmp_path.iterdir())


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    sheet = np.arange(20 * 12, dtype=np.uint8).reshape(20, 12)
    events = Events(tmp_path / "events", True, 0)
    for step in (5, 10):
        events.scalars({"step": step, "loss_D": step / 8, "kid": -0.25})
    events.image("grid", sheet, 10)
    events.close()
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    assert found.Tags()["scalars"] == ["loss_D", "kid"], "the step is the abscissa, not a curve"
    assert [(e.step, e.value) for e in found.Scalars("loss_D")] == [(5, 0.625), (10, 1.25)]
    assert [e.value for e in found.Scalars("kid")] == [-0.25, -0.25]
    (image,) = found.Images("grid")
    (tmp_path / "grid.png").write_bytes(image.encoded_image_string)
    with Image.open(tmp_path / "grid.png") as png:
        pixels = np.asarray(png.convert("L"))
    assert np.array_equal(pixels, sheet)


def test_a_resumed_run_takes_back_what_it_will_write_again(tmp_path: Path) -> None:
    """A kill came after step 30 was written but before it was saved: the curve goes on from step 20."""
    for begin, steps, value in ((0, (10, 20, 30), 1.0), (20, (30, 40), 2.0)):
        events = Events(tmp_path, True, begin)
        for step in steps:
            events.scalars({"step": step, "loss": value})
        events.close()
    found = EventAccumulator(str(tmp_path), purge_orphaned_data=True)
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(10, 1), (20, 1), (30, 2), (40, 2)]


def test_a_run_that_starts_over_takes_everything_back(tmp_path: Path) -> None:
    """Killed before its first snapshot, it resumes from step 0."""
    for steps, value in (((1, 2, 3), 1.0), ((1, 2), 2.0)):
        events = Events(tmp_path, True, 0)
        for step in steps:
            events.scalars({"step": step, "loss": value})
        events.close()
    found = EventAccumulator(str(tmp_path), purge_orphaned_data=True)
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 2), (2, 2)]


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install; nothing is asked for when it is off."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    check_installed(False)
    Events(tmp_path / "events", False, 0).close()
    with pytest.raises(BalancerError, match=r"tensorboard is not installed; pip install -e '.*\[tensorboard\]'"):
        check_installed(True)
    assert not list(tmp_path.iterdir())
