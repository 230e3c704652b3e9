"""Downloads against a server on this machine: whole, resumed, broken off, of another file, a web page, nothing there."""

import hashlib
import json
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import numpy as np
import pytest
from commands import balancer, done, refused
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.data import fetch
from balancer.data.fetch import ATTEMPTS, KAGGLE_COUNTS, PNEUMONIAMNIST, Archive, fetch_file
from balancer.data.folder import CLASSES

CONTENT = np.random.default_rng(0).bytes(700_000)  # more than two blocks


@dataclass
class Site:
    """What the server does, and what was asked of it (the Range headers)."""

    port: int = 0
    content: bytes = CONTENT
    ranges: bool = True
    cut: list[int] = field(default_factory=list)  # bytes sent before the connection ends, request by request
    status: int = 200
    kind: str = "application/octet-stream"
    asked: list[str | None] = field(default_factory=list)

    def archive(self, content: bytes = CONTENT) -> Archive:
        return Archive(f"http://127.0.0.1:{self.port}/files/set.npz?download=1", hashlib.md5(content).hexdigest())


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            state.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if wanted and state.ranges and start >= len(state.content):
                self.send_error(416)
                return
            if state.status != 200:
                self.send_error(state.status)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(body[: state.cut.pop(0)] if state.cut else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def got(site: Site, path: Path, force: bool = False) -> bool:
    return fetch_file(site.archive(), path, force, pause=0)


def refusal(archive: Archive, path: Path, force: bool = False) -> str:
    with pytest.raises(BalancerError) as caught:
        fetch_file(archive, path, force, pause=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def alone(path: Path) -> bool:
    """No part file and no lock is left beside it."""
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_whole_file(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "set.npz"
    assert got(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == [None]
    assert alone(path)


def test_what_is_there_is_looked_at_not_fetched(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(CONTENT)
    assert not got(site, path)
    assert site.asked == []
    path.write_bytes(b"mine")
    message = refusal(site.archive(), path)
    assert "--force" in message
    assert hashlib.md5(b"mine").hexdigest() in message
    assert (path.read_bytes(), site.asked) == (b"mine", [])
    assert got(site, path, force=True)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_gone_on_with(site: Site, tmp_path: Path, ranges: bool) -> None:
    """A server that does no parts sends everything: the part is begun anew, not appended to."""
    site.ranges = ranges
    path = tmp_path / "set.npz"
    (tmp_path / "set.npz.part").write_bytes(CONTENT[:300_001])
    assert got(site, path)
    assert site.asked == ["bytes=300001-"]
    assert path.read_bytes() == CONTENT
    assert alone(path)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_ends_early_is_taken_up_again(site: Site, tmp_path: Path, ranges: bool) -> None:
    site.ranges, site.cut = ranges, [1000, 5]
    path = tmp_path / "set.npz"
    assert got(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ([None, "bytes=1000-", "bytes=1005-"] if ranges else [None, "bytes=1000-", "bytes=5-"])


def test_one_that_goes_on_slowly_is_not_given_up(site: Site, tmp_path: Path) -> None:
    site.cut = [10] * (3 * ATTEMPTS)
    assert got(site, tmp_path / "set.npz")
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


def test_one_that_never_goes_on_is_given_up_and_its_part_kept(site: Site, tmp_path: Path) -> None:
    site.cut = [1000, *[0] * ATTEMPTS]
    message = refusal(site.archive(), tmp_path / "set.npz")
    assert "ended after 1000 of 700000 bytes" in message
    assert "goes on where it broke off" in message
    assert site.archive().url in message
    assert str(tmp_path / "set.npz") in message
    assert (tmp_path / "set.npz.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "set.npz").exists()
    assert got(site, tmp_path / "set.npz"), "the next command goes on"
    assert site.asked[-1] == "bytes=1000-"


def test_another_file_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.content = b"other"
    message = refusal(site.archive(), tmp_path / "set.npz")
    assert hashlib.md5(b"other").hexdigest() in message
    assert site.archive().md5 in message
    assert list(tmp_path.iterdir()) == []
    assert len(site.asked) == 1, "the same bytes would come again"


@pytest.mark.parametrize("part", [b"of another file", CONTENT + b"too long"])
def test_a_part_of_another_file_is_dropped_once(site: Site, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "set.npz.part").write_bytes(part)
    assert got(site, tmp_path / "set.npz")
    assert (tmp_path / "set.npz").read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(part)}-", None]


def test_a_whole_part_needs_its_name_alone(site: Site, tmp_path: Path) -> None:
    """Killed between the last byte and the name."""
    (tmp_path / "set.npz.part").write_bytes(CONTENT)
    assert got(site, tmp_path / "set.npz")
    assert site.asked == [f"bytes={len(CONTENT)}-"]
    assert alone(tmp_path / "set.npz")


def test_a_web_page_is_no_file(site: Site, tmp_path: Path) -> None:
    site.kind = "text/html; charset=utf-8"
    (tmp_path / "set.npz.part").write_bytes(CONTENT[:100])
    message = refusal(site.archive(), tmp_path / "set.npz")
    assert "web page" in message
    assert (tmp_path / "set.npz.part").read_bytes() == CONTENT[:100], "a log-in page must not spoil the part"


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, ATTEMPTS), (429, ATTEMPTS)])
def test_what_the_server_says(site: Site, tmp_path: Path, status: int, requests: int) -> None:
    site.status = status
    assert f"the server says {status}" in refusal(site.archive(), tmp_path / "set.npz")
    assert len(site.asked) == requests
    assert list(tmp_path.iterdir()) == []


def test_no_connection(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/set.npz"
        message = refusal(Archive(url, "0" * 32), tmp_path / "set.npz")
    assert "refused" in message
    assert f"download {url} by hand and save it as {tmp_path / 'set.npz'}" in message


def test_a_place_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--to" in refusal(site.archive(), tmp_path / "file" / "set.npz")
    (tmp_path / "set.npz.part").mkdir()
    assert "cannot be written" in refusal(site.archive(), tmp_path / "set.npz")


def test_two_processes_do_not_write_one_file(site: Site, tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / ".set.npz.lock"):
        assert "another process" in refusal(site.archive(), tmp_path / "set.npz")
    assert site.asked == []


# ---------------------------------------------------------------- the command


def test_the_published_files() -> None:
    """Names as MedMNIST gives them, one hash each, from one record of one host."""
    assert [a.name for a in PNEUMONIAMNIST.values()] == [
        "pneumoniamnist.npz",
        "pneumoniamnist_64.npz",
        "pneumoniamnist_128.npz",
        "pneumoniamnist_224.npz",
    ]
    assert list(PNEUMONIAMNIST) == [28, 64, 128, 224]
    assert all(a.url.startswith("https://zenodo.org/records/10519652/files/") for a in PNEUMONIAMNIST.values())
    assert all(len(bytes.fromhex(a.md5)) == 16 for a in PNEUMONIAMNIST.values())
    assert len({a.md5 for a in PNEUMONIAMNIST.values()}) == 4


def test_fetch_as_a_user_types_it(site: Site, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PNEUMONIAMNIST, 64, site.archive())
    path = Path("data/set.npz")
    text = done(balancer("fetch", "pneumoniamnist", "--size", "64")).stdout
    assert path.read_bytes() == CONTENT
    assert f"--data {path} --image-size 64" in text
    assert "there already" in done(balancer("fetch", "pneumoniamnist", "--size", "64")).stdout
    result = done(balancer("fetch", "pneumoniamnist", "--size", 64, "--to", "else", "--json"))
    assert json.loads(result.stdout) == {
        "path": "else/set.npz",
        "url": site.archive().url,
        "md5": site.archive().md5,
        "fetched": True,
    }
    path.write_bytes(b"mine")
    refused(balancer("fetch", "pneumoniamnist", "--size", "64"), 1, "--force")
    done(balancer("fetch", "pneumoniamnist", "--size", "64", "--force"))
    assert path.read_bytes() == CONTENT


def test_what_cannot_be_asked_for(runs_cwd: Path) -> None:
    refused(balancer("fetch", "pneumoniamnist", "--size", "32"), 2, "--size is 32", "28, 64, 128, 224")
    refused(balancer("fetch", "pneumonianist"), 2, "did you mean 'pneumoniamnist'?")
    refused(balancer("fetch", "kaggle", "--size", "28"), 2, "--size is of pneumoniamnist")
    assert list(runs_cwd.iterdir()) == []


# ---------------------------------------------------------------- Kaggle

Download = Callable[..., str]


def kagglehub(monkeypatch: pytest.MonkeyPatch, download: Download) -> list[dict[str, object]]:
    """A kagglehub whose download is ``download(folder)``; returns what it is called with."""
    calls: list[dict[str, object]] = []

    def dataset_download(handle: str, *, output_dir: str, force_download: bool) -> str:
        calls.append({"handle": handle, "output_dir": output_dir, "force": force_download})
        return download(Path(output_dir))

    module = types.ModuleType("kagglehub")
    module.dataset_download = dataset_download
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return calls


def chest_xrays(folder: Path, lacking: int = 0) -> str:
    """The layout of Kaggle's archive, the numbers of a tenth of a per cent of it; one image copied."""
    picture = folder / "one.png"
    folder.mkdir(parents=True)
    Image.new("L", (4, 4)).save(picture)
    for split, counts in SMALL.items():
        for cls, n in zip(CLASSES, counts, strict=True):
            of_class = folder / "chest_xray" / split / cls
            of_class.mkdir(parents=True)
            for i in range(n - lacking * (split == "test")):
                (of_class / f"{i}.png").write_bytes(picture.read_bytes())
    picture.unlink()
    return str(folder)


SMALL = {"train": (3, 7), "val": (2, 2), "test": (4, 5)}


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "KAGGLE_COUNTS", SMALL)


def test_the_counts_are_the_published_ones() -> None:
    """data/README.md; Kermany et al. 2018 have 5,856 children's images, 5,232 of them to train."""
    assert KAGGLE_COUNTS == {"train": (1341, 3875), "val": (8, 8), "test": (234, 390)}
    assert sum(map(sum, KAGGLE_COUNTS.values())) == 5856


def test_kaggle_ends_where_the_other_commands_look(
    runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, small_counts: None
) -> None:
    calls = kagglehub(monkeypatch, chest_xrays)
    text = done(balancer("fetch", "kaggle")).stdout
    assert calls == [
        {"handle": "paultimothymooney/chest-xray-pneumonia", "output_dir": "data/chest_xray", "force": False}
    ]
    assert "train 3 + 7, val 2 + 2, test 4 + 5" in text
    assert f"BALANCER_DATA={runs_cwd / 'data/chest_xray/chest_xray'}" in text
    done(balancer("gan-train", "--dry-run", "--image-size", "16", "--batch-size", "2", "-q"))


def test_force_touches_the_data_sets_own_folder_only(
    runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, small_counts: None
) -> None:
    """kagglehub empties what it is given: that must never be the folder that the user names."""
    calls = kagglehub(monkeypatch, chest_xrays)
    done(balancer("fetch", "kaggle", "--to", "mine", "--force"))
    assert calls[0]["output_dir"] == "mine/chest_xray"
    assert calls[0]["force"] is True


def test_kaggle_with_other_counts(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, small_counts: None) -> None:
    kagglehub(monkeypatch, lambda folder: chest_xrays(folder, lacking=1))
    refused(balancer("fetch", "kaggle"), 1, "test 3 + 4 images; expected", "test 4 + 5", "--force")


def test_kaggle_that_fails(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: Path) -> str:
        raise RuntimeError("Max retries exceeded\nwith url: ...")

    kagglehub(monkeypatch, offline)
    by_hand = "move its chest_xray folder to data/chest_xray"
    refused(balancer("fetch", "kaggle"), 1, "(Max retries exceeded)", by_hand)

    def taken(_: Path) -> str:
        raise FileExistsError("output_dir is not empty")

    kagglehub(monkeypatch, taken)
    refused(balancer("fetch", "kaggle"), 1, "holds files already", "--force")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    refused(balancer("fetch", "kaggle"), 1, "pip install 'xray-balancer[kaggle]'", by_hand)
