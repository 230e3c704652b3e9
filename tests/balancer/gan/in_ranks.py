"""Runs a function in several ranks, which are forks of this process and meet through a file."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from balancer.core import ranks, torchrun


def in_ranks(n: int, folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` of each rank returns, which torch must be able to save."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_rank, args=(rank, n, folder, work)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    failures = "".join(file.read_text() for file in sorted(folder.glob("failed-*")))
    assert not failures, failures
    return [torch.load(folder / f"result-{rank}", weights_only=True) for rank in range(n)]


def environment(rank: int, n: int, job: str, restarts: int = 0) -> dict[str, str]:
    """What torchrun tells a rank."""
    numbers = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank}
    numbers |= {"TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_MAX_RESTARTS": 1}
    return {torchrun.ID: job, **{name: str(number) for name, number in numbers.items()}}


def _rank(rank: int, n: int, folder: Path, work: Callable[[int], Any]) -> None:
    os.environ |= {**environment(rank, n, "test"), "GLOO_SOCKET_IFNAME": "lo"}
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=n)
        ranks.enter(rank, n)
        torch.save(work(rank), folder / f"result-{rank}")
        ranks.leave()
    except BaseException:
        (folder / f"failed-{rank}").write_text(traceback.format_exc())
    os._exit(0)  # what pytest would do at the end of this process is not for a rank
