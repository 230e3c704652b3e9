"""Addresses: whether one is of this machine alone, and a socket that listens at one."""

from __future__ import annotations

import errno
import ipaddress
import socket

from balancer.core.errors import BalancerError

REMEDIES = {
    errno.EADDRINUSE: "another program has this port; end it, or give another port",
    errno.EACCES: "ports below 1024 are for the administrator; give a higher one",
}
REMEDY = "give an address of this machine"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_host(text: str) -> bool:
    """Return whether a text can be the name or the number of a machine.

    >>> is_host("localhost"), is_host("::1"), is_host("a..b"), is_host("a b"), is_host("")
    (True, True, False, False, False)
    """
    try:
        text.encode("idna")  # as whoever looks the name up does
    except UnicodeError:  # a part between dots is empty or too long
        return False
    return bool(text) and not any(c.isspace() or c in "/@" for c in text)


def listener(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes a free one.

    The socket names TCP. Of such a socket asyncio sends each packet at once; of another, an answer waits some 40 ms.

    Args:
        host: a name or a number.
        port: of TCP.
        option: that gave the address, for the message.

    Raises:
        BalancerError: the port is taken, or the host is none of this machine.
    """
    if not is_host(host):
        raise BalancerError(f"{option}: nobody can listen at {host}:{port} (it is no name of a machine); {REMEDY}")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, REMEDY)
        raise BalancerError(f"{option}: nobody can listen at {host}:{port} ({error.strerror}); {remedy}") from error
    return bound
