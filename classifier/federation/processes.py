"""The processes of simulated sites: started with keys of their own, watched, and ended with the command."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from balancer.core.settings import FederateConfig
from classifier.federation.addresses import HostPort
from classifier.federation.partition import FILE
from classifier.federation.worker import WorkerOrder

LOGS = "sites"  # folder of their logs, in the run


def new_key() -> tuple[str, bytes]:
    """Return a new private key and its public key, PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private.decode(), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class SiteProcess:
    """One simulated site."""

    order: WorkerOrder
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self.process.poll() is not None

    @property
    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def end(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(order: WorkerOrder, run: Path) -> SiteProcess:
    """Start a site; its log goes to ``sites/site-0.log`` of the run."""
    path = run / LOGS / f"site-{order.site}.log"
    path.parent.mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])  # the site runs this code, wherever the command was started
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "classifier.federation.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
    _tell(process.stdin, order)
    return SiteProcess(order, path, process)


def _tell(pipe: IO[bytes] | None, order: WorkerOrder) -> None:
    assert pipe is not None, "the process was started with a pipe"
    with contextlib.suppress(BrokenPipeError):  # its log says why it ended
        pipe.write(order.to_line())
        pipe.flush()


@contextlib.contextmanager
def running(
    config: FederateConfig, server: HostPort, keys: list[str], run: Path, device: str, threads: int
) -> Iterator[list[SiteProcess]]:
    """Start all sites; end them when the work is over, or fails."""
    orders = [
        WorkerOrder(config.model_dump(mode="json"), str(run / FILE), site, str(server), key, str(run), device, threads)
        for site, key in enumerate(keys)
    ]
    with contextlib.ExitStack() as stack:
        processes = list[SiteProcess]()
        for order in orders:
            processes.append(start(order, run))
            stack.callback(processes[-1].end)  # of those that have started, also where the next one cannot start
        yield processes
