"""Where a federation's server listens, who may join it, and by which keys and certificates."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from balancer.core.errors import BalancerError, UsageError
from balancer.core.loopback import is_host, is_loopback

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

KEYGEN = "ssh-keygen -t ecdsa -b 384 -m PEM -N '' -f site.key"  # makes site.key and site.key.pub
HIGHEST_PORT = 65535


@dataclass(frozen=True)
class HostPort:
    """An address of TCP."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> HostPort:
        """Return the address in ``HOST:PORT``; an IPv6 host stands in brackets.

        Raises:
            UsageError: the text is no address.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (is_host(host) and colon and port.isdecimal() and int(port) <= HIGHEST_PORT):
            raise UsageError(f"{option} is {text!r}; expected HOST:PORT, such as 127.0.0.1:9092")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine reaches the address."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ServerSecurity:
    """What the server shows to sites, and the sites that it lets in."""

    certificate: Path | None = None  # of the server, PEM
    key: Path | None = None  # of the certificate
    site_keys: tuple[Path, ...] = ()  # public keys of the sites that may join; none: whoever reaches the server

    def check(self, address: HostPort) -> None:
        """Refuse an address that others reach without encryption or without knowing the sites.

        Raises:
            UsageError: naming the option that is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise UsageError("--certificate and --certificate-key belong together; give both or neither")
        if address.is_loopback:
            return
        if self.certificate is None:
            raise UsageError(
                f"--address {address} lets other machines in, and nothing is encrypted; give --certificate and"
                " --certificate-key, or an address of this machine such as 127.0.0.1:9092"
            )
        if not self.site_keys:
            raise UsageError(
                f"--address {address} lets other machines in, whoever they are; give --site-key FILE.pub for each site"
                f" ({KEYGEN} makes a pair of keys)"
            )

    def check_files(self) -> None:
        """Read the certificate and its key, if there are any.

        Raises:
            BalancerError: they cannot be used.
        """
        if self.certificate is not None and self.key is not None:
            check_certificate(self.certificate, self.key)


@dataclass(frozen=True)
class SiteSecurity:
    """What a site shows to the server, and by what it knows the server."""

    authority: Path | None = None  # certificate of the authority that signed the server's; None: the usual ones
    key: Path | None = None  # private key of the site; None: a new one, for a server that lets anyone in
    encrypted: bool = False  # TLS on loopback too

    def check(self) -> None:
        """Read the files.

        Raises:
            BalancerError: one is missing, or is no key or no certificate.
        """
        if self.key is not None:
            private_key(self.key)
        if self.authority is not None:
            authority(self.authority)

    def uses_tls(self, server: HostPort) -> bool:
        """Return whether the connection is encrypted: always, unless the server is on this machine."""
        return not server.is_loopback or self.encrypted or self.authority is not None


def check_certificate(certificate: Path, key: Path) -> None:
    """Read the server's certificate and its key.

    Raises:
        BalancerError: a file is missing, is no PEM, or needs a password, or they do not belong together.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")  # no prompt
    except OSError as error:  # of ssl, too
        raise BalancerError(
            f"--certificate {certificate} and --certificate-key {key} cannot be used ({error.strerror or error});"
            " give a certificate and its key without a password, both as PEM"
        ) from error


def authority(path: Path) -> bytes:
    """Return the certificate of the authority that signed the server's.

    Raises:
        BalancerError: the file is missing, or is no PEM.
    """
    try:
        content = path.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (OSError, ValueError) as error:  # OSError of ssl, too; ValueError: the file is no text
        raise BalancerError(f"--ca {path} cannot be used ({error}); give a certificate as PEM") from error
    return content


def public_key(path: Path) -> bytes:
    """Return the public key of a site in a file (PEM, or as ssh-keygen writes it) as PEM.

    Raises:
        BalancerError: the file is missing or holds no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    content = _content(path, "--site-key")
    try:
        key = (load_pem_public_key if content.startswith(b"-----") else load_ssh_public_key)(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public") from error
    return _pem(key, path)


def private_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the private key of a site.

    Raises:
        BalancerError: the file is missing, holds no such key, or needs a password.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    content = _content(path, "--site-key")
    try:
        key = (load_ssh_private_key if b"OPENSSH" in content[:64] else load_pem_private_key)(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it needs a password
        raise _no_key(path, "private") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise _no_key(path, "private")
    return key


def public_keys(paths: Sequence[Path]) -> list[bytes]:
    """Return the public keys in files, which must differ.

    Raises:
        BalancerError: two files hold one key.
    """
    keys = [public_key(path) for path in paths]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise BalancerError(f"{paths[keys.index(key)]} and {paths[i]} hold one key; give every site its own")
    return keys


def _pem(key: object, path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not isinstance(key, EllipticCurvePublicKey):
        raise _no_key(path, "public")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _content(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BalancerError(
            f"{option} {path} cannot be read ({error.strerror}); {KEYGEN} makes a pair of keys"
        ) from error


def _no_key(path: Path, kind: str) -> BalancerError:
    return BalancerError(
        f"{path} holds no {kind} key of an elliptic curve without a password; {KEYGEN} makes a pair of keys"
    )
