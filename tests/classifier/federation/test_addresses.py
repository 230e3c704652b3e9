"""Secure by default: what an address that others reach asks for, and which keys are taken."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from balancer.core.errors import BalancerError, UsageError
from classifier.federation.addresses import (
    HostPort,
    ServerSecurity,
    SiteSecurity,
    private_key,
    public_key,
    public_keys,
)
from classifier.federation.server import site_keys

OUTSIDE, INSIDE = HostPort("192.0.2.1", 9092), HostPort("127.0.0.1", 9092)
TLS = {"certificate": Path("c.pem"), "key": Path("k.pem")}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = tmp_path / "site.key", tmp_path / "site.key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return private, public


@pytest.mark.parametrize(
    "text", ["127.0.0.1", ":9092", "host:", "host:port", "host:70000", "", "http://host:9092", "a b:9092", "a..b:9092"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--server"):
        HostPort.parse(text, "--server")


def test_an_address_of_version_6_stands_in_brackets() -> None:
    address = HostPort.parse("[::1]:9092", "--server")
    assert address == HostPort("::1", 9092)
    assert address.is_loopback
    assert str(address) == "[::1]:9092"


def test_this_machine_alone_needs_nothing() -> None:
    ServerSecurity().check(INSIDE)
    assert not SiteSecurity().uses_tls(INSIDE)


@pytest.mark.parametrize(
    ("security", "option"),
    [
        (ServerSecurity(), "--certificate"),
        (ServerSecurity(site_keys=(Path("a.pub"),)), "--certificate"),
        (ServerSecurity(certificate=Path("c.pem")), "--certificate-key"),
        (ServerSecurity(**TLS), "--site-key"),
    ],
)
def test_other_machines_take_a_certificate_and_known_sites(security: ServerSecurity, option: str) -> None:
    with pytest.raises(UsageError, match=option):
        security.check(OUTSIDE)


def test_with_both_other_machines_may_come() -> None:
    ServerSecurity(**TLS, site_keys=(Path("a.pub"),)).check(OUTSIDE)


def test_a_server_elsewhere_is_always_encrypted() -> None:
    assert SiteSecurity().uses_tls(OUTSIDE)
    assert SiteSecurity(authority=Path("ca.pem")).uses_tls(INSIDE)


def test_a_pair_of_keys_is_read(pair: tuple[Path, Path]) -> None:
    private, public = pair
    pem = private_key(private).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert public_key(public) == pem


def test_the_documented_command_makes_a_pair(tmp_path: Path) -> None:
    try:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-m", "PEM", "-N", "", "-f", "site.key"],
            cwd=tmp_path,
            check=True,
            timeout=20,
        )
    except FileNotFoundError:
        return  # no OpenSSH here; the other tests make the same kinds of files
    pem = private_key(tmp_path / "site.key").public_key()
    assert public_key(tmp_path / "site.key.pub") == pem.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_two_sites_with_one_key_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin.pub"
    twin.write_bytes(pair[1].read_bytes())
    with pytest.raises(BalancerError, match=r"site\.key\.pub and .*twin\.pub hold one key"):
        public_keys([pair[1], twin])


def test_two_sites_of_one_name_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The log tells sites apart by the names of these files; of two alike, one was dropped."""
    other = tmp_path / "north" / pair[1].name
    other.parent.mkdir()
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    other.write_bytes(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    with pytest.raises(UsageError, match=r"site\.key\.pub.*'site'"):
        site_keys(ServerSecurity(site_keys=(pair[1], other)))


def test_other_files_are_no_keys(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    with pytest.raises(BalancerError, match="wrong cannot be read"):
        public_key(wrong)
    wrong.write_bytes(b"no key")
    for read in (public_key, private_key):
        with pytest.raises(BalancerError, match="wrong holds no"):
            read(wrong)
    rsa_key = rsa.generate_private_key(65537, 2048)
    wrong.write_bytes(rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(BalancerError, match="elliptic curve"):
        private_key(wrong)


def test_files_of_tls_are_read_before_anything_starts(pair: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    for content in (b"no certificate", b"\xff\xfe", None):
        if content is None:
            wrong.unlink()
        else:
            wrong.write_bytes(content)
        with pytest.raises(BalancerError, match=r"--certificate .*wrong\.pem and --certificate-key .* cannot be used"):
            ServerSecurity(wrong, pair[0]).check_files()
        with pytest.raises(BalancerError, match=r"--ca .*wrong\.pem cannot be used"):
            SiteSecurity(wrong, pair[0]).check()
