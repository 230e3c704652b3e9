"""Where the console scripts begin."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def closing(streams: tuple[int, ...]) -> Callable[[], None]:
    def close() -> None:
        for stream in streams:
            os.close(stream)

    return close


@pytest.mark.parametrize("streams", [(2,), (0, 1, 2)])
def test_a_closed_stream_leads_nowhere(streams: tuple[int, ...], tmp_path: Path) -> None:
    """Else bars fail for want of a stream, and the next file takes the number that libraries write errors to."""
    code = (
        "from balancer.core.start import open_streams; open_streams(); import os, sys\n"
        "file = open('made.txt', 'w'); assert file.fileno() > 2\n"
        "print('to stdout'); print('to stderr', file=sys.stderr, flush=True); os.write(2, b'of a library')\n"
        "file.write('sound')"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, preexec_fn=closing(streams), check=False)
    assert done.returncode == 0
    assert (tmp_path / "made.txt").read_text() == "sound"
