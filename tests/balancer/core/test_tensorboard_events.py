"""TensorBoard events: written when asked for, read back with TensorBoard's own reader, and nothing otherwise."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from balancer.core.tensorboard_events import EventFiles
from balancer.core.tracking import TrackedRun, TrackedTrial


def events(run: Path) -> EventFiles:
    return EventFiles(TrackedRun(run, "gan-train", None, None))


def read(folder: Path) -> EventAccumulator:
    content = EventAccumulator(str(folder), purge_orphaned_data=True)
    content.Reload()
    return content


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in read(folder).Scalars(name)]


def words(folder: Path, name: str) -> str:
    (event,) = read(folder).Tensors(f"{name}/text_summary")
    return bytes(event.tensor_proto.string_val[0]).decode()


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    run = events(tmp_path)
    run.settings({"steps": "5"})
    run.end("failed")
    assert not list(tmp_path.iterdir())


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    sheet = np.arange(20 * 12, dtype=np.uint8).reshape(20, 12)
    run = events(tmp_path)
    run.settings({"lr": "0.1"})
    for step in (5, 10):
        run.scalars({"step": step, "loss_D": step / 8, "kid": -0.25})
    run.image("grid", sheet, 10)
    run.image("colours", np.stack([sheet, 255 - sheet, sheet // 2], axis=-1), 10)
    run.end("finished")
    content = read(tmp_path / "events")
    assert content.Tags()["scalars"] == ["loss_D", "kid"], "the step is the abscissa, not a curve"
    assert curve(tmp_path / "events", "loss_D") == [(5, 0.625), (10, 1.25)]
    assert curve(tmp_path / "events", "kid") == [(5, -0.25), (10, -0.25)]
    (image,) = content.Images("grid")
    (tmp_path / "grid.png").write_bytes(image.encoded_image_string)
    with Image.open(tmp_path / "grid.png") as png:
        pixels = np.asarray(png.convert("L"))
    assert np.array_equal(pixels, sheet)
    (image,) = content.Images("colours")
    with Image.open(io.BytesIO(image.encoded_image_string)) as png:
        assert np.array_equal(np.asarray(png), np.stack([sheet, 255 - sheet, sheet // 2], axis=-1))
    assert "| lr | 0.1 |" in words(tmp_path / "events" / "settings", "settings")
    assert "| status | finished |" in words(tmp_path / "events" / "settings", "settings")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param((10, 20, 30), (30, 40), id="killed after step 30 was written and before it was saved"),
        pytest.param((1, 2, 3), (1, 2), id="killed before its first snapshot: it starts over"),
    ],
)
def test_a_resumed_run_takes_back_what_it_will_write_again(
    tmp_path: Path, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    for steps, value in ((first, 1.0), (second, 2.0)):
        run = events(tmp_path)
        for step in steps:
            run.scalars({"step": step, "loss": value})
        run.end("killed")
    kept = [(step, 1.0) for step in first if step < second[0]]
    assert curve(tmp_path / "events", "loss") == [*kept, *((step, 2.0) for step in second)]


def test_trials(tmp_path: Path) -> None:
    """Each has a folder of its own, written once; the figures stand at the last step of the curves."""
    rows = [{"step": 3, "nll": 0.5}, {"step": 6, "nll": 0.25}]
    for figures in ({"auroc": 0.75}, {"auroc": 0.0}):
        run = events(tmp_path)
        run.trial(TrackedTrial("gan-0", {"regime": "gan"}, rows, figures))
        run.figures({"gan.auroc": figures["auroc"]})
        run.text("verdict", "No.")
        run.end("finished")
    folder = tmp_path / "events" / "gan-0"
    assert curve(folder, "nll") == [(3, 0.5), (6, 0.25)]
    assert curve(folder, "auroc") == [(6, 0.75)]
    assert "| regime | gan |" in words(folder, "settings")
    assert curve(tmp_path / "events" / "figures", "gan.auroc") == [(0, 0.0)]
    assert words(tmp_path / "events" / "verdict", "verdict") == "No."
    assert {p.name for p in (tmp_path / "events").iterdir()} == {"gan-0", "figures", "verdict", "settings"}
