"""Addresses that nobody can listen at, for every command that listens."""

import pytest

from balancer.core.errors import BalancerError
from balancer.core.loopback import listener


def test_a_free_port_is_taken() -> None:
    with listener("127.0.0.1", 0, "--address") as bound:
        assert bound.getsockname()[1] > 0


def test_a_port_that_is_taken_is_no_fault_of_the_disk() -> None:
    with listener("127.0.0.1", 0, "--address") as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(BalancerError, match=rf"--address: .*127\.0\.0\.1:{port} .*give another port"):
            listener("127.0.0.1", port, "--address")


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "a..b"])  # the first is kept for documentation: RFC 5737
def test_a_host_elsewhere(host: str) -> None:
    with pytest.raises(BalancerError, match=f"--address: .*{host}:9092 .*of this machine"):
        listener(host, 9092, "--address")
