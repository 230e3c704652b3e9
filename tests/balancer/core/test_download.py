"""Downloads from a server on this machine: complete, broken off, of another file, refused, nothing there."""

import hashlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Site, serving

from balancer.core.download import download
from balancer.core.errors import BalancerError

CONTENT = bytes(range(256)) * 1000
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(CONTENT) as site:
        yield site


def refusal(url: str, path: Path, digest: str = SHA256) -> str:
    """The one-line error of a download that leaves nothing behind."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else None
    with pytest.raises(BalancerError) as caught:
        download(url, path, digest)
    message = str(caught.value)
    assert "\n" not in message
    assert before is None or sorted(path.parent.iterdir()) == before
    return message


@pytest.mark.parametrize(
    ("digest", "algorithm"), [(SHA256, "sha256"), (SHA256[:8], "sha256"), ("", "sha256"), (MD5, "md5")]
)
def test_a_complete_file(site: Site, tmp_path: Path, digest: str, algorithm: str) -> None:
    path = tmp_path / "new" / "folder" / "set.npz"
    download(site.url, path, digest, algorithm)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode), (
        "as readable as others"
    )


def test_a_file_that_is_there_is_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"old")
    download(site.url, tmp_path / "set.npz", SHA256)
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


def test_another_file_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.content = b"<html>please log in</html>"
    (tmp_path / "set.npz").write_bytes(b"old")
    message = refusal(site.url, tmp_path / "set.npz")
    assert hashlib.sha256(site.content).hexdigest() in message
    assert SHA256 in message
    assert (tmp_path / "set.npz").read_bytes() == b"old"


def test_a_connection_that_ends_early(site: Site, tmp_path: Path) -> None:
    site.sent = 1000
    assert "cannot be downloaded" in refusal(site.url, tmp_path / "set.npz")


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_of_the_server(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    assert f"cannot be downloaded ({status} " in refusal(site.url, tmp_path / "set.npz")


def test_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/set.npz"
        message = refusal(url, tmp_path / "set.npz")
    assert "refused" in message
    assert f"download {url} by hand and save it as {tmp_path / 'set.npz'}" in message


def test_a_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(site.url, tmp_path / "file" / "set.npz")
