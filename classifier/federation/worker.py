"""A simulated site as a process of its own: ``python -m classifier.federation.worker``, which the server starts.

The process reads one line of JSON from standard input. When that input ends, the process that wrote it has ended, and
so does this one.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from balancer.core.device import open_device
from balancer.core.errors import BalancerError
from balancer.core.settings import FederateConfig
from balancer.data.dataset import load_dataset
from classifier.federation.addresses import HostPort, SiteSecurity
from classifier.federation.partition import Partition, read_sites

log = logging.getLogger("balancer")


@dataclass(frozen=True)
class WorkerOrder:
    """What a simulated site is started with."""

    config: dict[str, Any]  # of the command
    sites: str  # file with the site of each image
    site: int
    server: str
    key: str  # private key, PEM: it lives as long as the command
    folder: str  # for the classifiers of this site
    device: str
    threads: int

    def to_line(self) -> bytes:
        """Return the order as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


def folder_of(run: Path, trial: str, site: int) -> Path:
    """Return where the classifier of a site lies: ``trials/fedavg-0/site-1``."""
    return run / "trials" / trial / f"site-{site}"


def work(order: WorkerOrder) -> None:
    """Take orders from the server until the work is over."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from classifier.federation.client import connected, serve_orders
    from classifier.federation.site import Site

    device = open_device(order.device, order.threads)
    config = FederateConfig.model_validate(order.config)
    data = load_dataset(config.data, require=("train", "val"))
    partition = Partition(("",), read_sites(Path(order.sites)))
    mine = partition.data_of(data, order.site)
    site = Site(config, mine, device, lambda trial: folder_of(Path(order.folder), trial, order.site))
    key = load_pem_private_key(order.key.encode(), None)
    with connected(HostPort.parse(order.server, "--server"), SiteSecurity(), key) as connection:
        serve_orders(connection, site.answer)


def _end_with_input() -> None:
    """End this process once the other end of standard input is closed."""
    while sys.stdin.buffer.read(65536):
        pass
    os._exit(1)


def main() -> int:
    """Read the order, and work; an error is one line on standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user started
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    order = WorkerOrder(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        work(order)
    except BalancerError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
