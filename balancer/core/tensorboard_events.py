"""TensorBoard events in the folder ``events`` of a run, and below it one folder a trial."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balancer.core.files import temporary_path

if TYPE_CHECKING:
    import numpy as np

    from balancer.core.tracking import Row, TrackedRun, TrackedTrial

FOLDER = "events"


class EventFiles:
    """Writes what a run logs as TensorBoard events; see :class:`balancer.core.tracking.Backend`."""

    identity = FOLDER

    def __init__(self, run: TrackedRun) -> None:
        self._folder = run.path / FOLDER
        self._writer: Any = None
        self._settings: dict[str, str] = {}

    def _writer_from(self, step: int) -> Any:
        """Return the writer. What an earlier process wrote from its first step on is taken back.

        A run killed after a row was written and before it was saved writes that row again, as does a run that was
        killed before its first snapshot, and starts over.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer

    def settings(self, values: Mapping[str, str]) -> None:
        """Do nothing: they are written at the end, since a text has a step too, before which a resumed run begins."""
        self._settings = dict(values)

    def scalars(self, row: Row) -> None:
        """Write the values of a log row at its ``step``."""
        step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                self._writer_from(step).add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W) or (H, W, 3) uint8."""
        from balancer.core.pixels import planes  # numpy, which no command line waits for

        self._writer_from(step).add_image(name, planes(pixels[None])[0], step)

    def figures(self, values: Mapping[str, float]) -> None:
        """Write each figure at step 0 in the folder of the figures, apart from the curves."""
        self._write_once(self._folder / "figures", [{"step": 0, **values}], {})

    def text(self, name: str, words: str) -> None:
        """Write a text at step 0."""
        self._write_once(self._folder / name, [], {name: words})

    def trial(self, trial: TrackedTrial) -> None:
        """Write the curves and figures of a trial in a folder of its own; a folder that is there holds them."""
        folder = self._folder / trial.name
        if folder.exists():
            return
        self._write_once(folder, trial.all_rows, {"settings": _table(trial.settings)})

    def _write_once(self, folder: Path, rows: Sequence[Row], texts: Mapping[str, str]) -> None:
        """Write events into a folder that gets its name once they are complete."""
        from torch.utils.tensorboard import SummaryWriter

        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = temporary_path(folder)
        shutil.rmtree(draft, ignore_errors=True)
        with SummaryWriter(str(draft)) as writer:
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        writer.add_scalar(name, value, int(row["step"]))
            for name, words in texts.items():
                writer.add_text(name, words, 0)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)

    def files(self, folder: Path, files: Sequence[Path]) -> None:
        """Do nothing: events lie in the folder of the run, beside its files."""

    def end(self, status: str) -> None:
        """Write the settings and what is buffered; nothing of a run that came to nothing."""
        if not self._folder.exists():
            return
        self._write_once(self._folder / "settings", [], {"settings": _table({**self._settings, "status": status})})
        if self._writer is not None:
            self._writer.close()


def _table(values: Mapping[str, str]) -> str:
    """Return settings as a Markdown table, which TensorBoard shows."""
    return "\n".join(["| setting | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in values.items())])
