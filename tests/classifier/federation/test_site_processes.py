"""The processes of simulated sites: none is left when another cannot start."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from balancer.core.settings import FederateConfig
from classifier.federation import processes
from classifier.federation.addresses import HostPort


def test_sites_that_have_started_end_where_the_next_one_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[int]()

    def start(order: Any, run: Path) -> Any:
        if order.site == 2:
            raise OSError("Cannot allocate memory")
        return SimpleNamespace(end=lambda: ended.append(order.site))

    monkeypatch.setattr(processes, "start", start)
    running = processes.running(FederateConfig(), HostPort("127.0.0.1", 1), ["", "", ""], tmp_path, "cpu", 1)
    with pytest.raises(OSError, match="allocate"), running:
        pytest.fail("a site is missing")
    assert sorted(ended) == [0, 1]
