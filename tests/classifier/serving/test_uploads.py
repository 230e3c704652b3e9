"""What may be sent: each kind of bad upload has its status and one line, and leaves no trace."""

import asyncio
import concurrent.futures
import io
import logging
import re
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hostile
import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from serving_helpers import Serve

from balancer.data.jpeg import count_scans
from classifier.serving.app import LARGE, Options
from classifier.serving.limits import Limits
from classifier.serving.uploads import LIGHT, Refused, examine


def encoded(kind: str, size: tuple[int, int] = (40, 30), mode: str = "L", **more: object) -> bytes:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **more)
    return buffer.getvalue()


def connected(client: httpx.Client, sent: bytes, length: int = 500) -> socket.socket:
    """A client that has sent the first bytes of an upload."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)
    connection.sendall(f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode())
    connection.sendall(sent)
    return connection


BAD = {
    "0 bytes": (lambda: b"", 422),
    "text": (lambda: b"name,age\nsomebody,4\n", 415),
    "PDF": (lambda: b"%PDF-1.7\n" + bytes(500), 415),
    "1 x 1": (lambda: encoded("PNG", (1, 1)), 422),
    "cut": (lambda: encoded("PNG")[:200], 422),
    "900 megapixels": (lambda: hostile.png(30_000, 30_000, 1), 413),
    "zip bomb": (lambda: hostile.png(12_000, 12_000, 4_000), 413),
    "animation": (
        lambda: encoded("GIF", save_all=True, append_images=[Image.fromarray(np.eye(30, 40, dtype=np.uint8) * 255)]),
        422,
    ),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", 415),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_usable_image_is_refused(name: str, client: httpx.Client) -> None:
    make, status = BAD[name]
    for path in ("/api/predict", "/api/explain"):
        answer = client.post(path, content=make())
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["detail"]
        assert "\n" not in answer.json()["detail"]
    assert client.get("/healthz").json()["status"] == "ok"


COSTLY = [name for name in hostile.KINDS if re.search(r"MB|mega|000 (scans|fields)", name)]  # to make or to send


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=[pytest.mark.nightly] if k in COSTLY else []) for k in hostile.KINDS]
)
def test_hostile_uploads_get_their_status(name: str, client: httpx.Client) -> None:
    content, kind = hostile.upload(name)
    answer = client.post("/api/explain", content=content, headers={"content-type": kind})
    assert answer.status_code == hostile.KINDS[name][1], answer.text
    assert answer.status_code == 200 or len(answer.json()["detail"].splitlines()) == 1


def test_pixels_are_counted_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow looks for the EXIF data of a PNG by decoding the picture."""

    def decoded(_image: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decoded)
    with pytest.raises(Refused) as error:
        examine(hostile.png(12_000, 12_000, 1), Limits())
    assert error.value.status == 413


def test_scans_are_counted_as_the_decoder_does() -> None:
    """A JPEG whose last scan stands there some times more; a thumbnail's scans in its EXIF data are not counted."""
    assert count_scans(hostile.jpeg()) == 6
    assert count_scans(hostile.jpeg(scans=58)) == 64
    assert count_scans(encoded("JPEG", exif=b"Exif\0\0" + hostile.jpeg(scans=3))) == 1
    assert examine(hostile.jpeg(scans=58), Limits()).format == "JPEG"
    with pytest.raises(Refused) as error:
        examine(hostile.jpeg(scans=59), Limits())
    assert error.value.status == 422
    assert "64 scans" in error.value.line


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM"])
def test_every_format_is_known_by_its_content(kind: str) -> None:
    seen = examine(encoded(kind), Limits())
    assert (seen.width, seen.height) == (40, 30)
    assert seen.format.startswith(kind[:3])


def test_a_turned_photograph_has_the_size_that_a_viewer_shows() -> None:
    exif = Image.Exif()
    exif[274] = 6
    seen = examine(encoded("JPEG", exif=exif), Limits())
    assert (seen.width, seen.height) == (30, 40)


def test_limits_are_those_that_were_set() -> None:
    with pytest.raises(Refused) as error:
        examine(encoded("PNG", (40, 30)), Limits(megapixels=0.001))
    assert error.value.status == 413


# ---------------------------------------------------------------- size


def test_too_many_bytes_are_refused_whether_stated_or_not(serve: Serve) -> None:
    too_much = bytes(300_000)
    with serve(Options(Limits(megabytes=0.2))) as small:
        stated = small.post("/api/predict", content=too_much)
        unstated = small.post("/api/predict", content=iter([too_much[:150_000], too_much[150_000:]]))
        form = small.post("/api/predict", files={"file": ("a.png", too_much)})
        assert [r.status_code for r in (stated, unstated, form)] == [413, 413, 413]
        assert "0.2 MB" in stated.json()["detail"]
        assert small.post("/api/predict", content=encoded("PNG")).status_code == 200


@pytest.mark.parametrize("limits", [Limits(seconds=0.2), Limits(patience=0.1, pace=30)])
def test_a_slow_upload_ends(serve: Serve, limits: Limits) -> None:
    with serve(Options(limits)) as impatient:
        with connected(impatient, b"abc") as slow:
            assert b" 408 " in slow.recv(1000)
        assert impatient.post("/api/predict", content=encoded("PNG")).status_code == 200


def test_a_steady_upload_may_take_its_time(serve: Serve) -> None:
    """Longer than the patience, at more than the pace."""
    image = encoded("PNG")

    def parts() -> Iterator[bytes]:
        for start in range(0, len(image), 100):
            time.sleep(0.03)
            yield image[start : start + 100]

    with serve(Options(Limits(patience=0.1, pace=500))) as patient:
        assert len(image) > 10 * 100
        assert patient.post("/api/predict", content=parts()).status_code == 200


@pytest.mark.parametrize("sent", [10, LIGHT])
def test_slow_clients_do_not_hold_up_others(client: httpx.Client, sent: int) -> None:
    """More of them than places for large uploads, each in the middle of its upload."""
    slow = [connected(client, bytes(sent), 10**6) for _ in range(3 * LARGE)]
    begin = time.perf_counter()
    assert client.post("/api/predict", content=encoded("PNG")).status_code == 200
    assert time.perf_counter() - begin < 5
    for each in slow:
        each.close()


def test_large_uploads_take_turns(client: httpx.Client) -> None:
    """As many as there are places are in the middle of theirs; the next one waits until one of them has gone."""
    image = encoded("PNG", (600, 600))
    assert len(image) > LIGHT
    slow = [connected(client, bytes(LIGHT + 1), 10**6) for _ in range(LARGE)]
    time.sleep(0.3)  # until their bytes have arrived
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.post, "/api/predict", content=image)
        with pytest.raises(concurrent.futures.TimeoutError):
            answer.result(0.5)
        slow.pop().close()
        assert answer.result(20).status_code == 200
    for each in slow:
        each.close()


# ---------------------------------------------------------------- forms and names

NAMES = ["../../etc/passwd", "a" * 300 + ".png", "Anna Müller 7.4.2019.png", "röntgen 肺.png", 'x"; rm -rf /.png', ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_change_nothing(name: str, client: httpx.Client) -> None:
    alone = client.post("/api/predict", content=encoded("PNG")).json()
    assert client.post("/api/predict", files={"file": (name or "x", encoded("PNG"), "text/html")}).json() == alone


def test_a_form_needs_one_file(client: httpx.Client) -> None:
    image = encoded("PNG")
    bad = [
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
        {"files": [("file", ("a", image)), ("file", ("b", image))]},
        {"content": b"no form", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"no form", "headers": {"content-type": "multipart/form-data"}},
    ]
    for request in bad:
        answer = client.post("/api/predict", **request)
        assert answer.status_code == 422, answer.text


def test_an_upload_leaves_no_trace(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    """No temporary file is opened, whatever the size; no log line and no output holds a name or bytes of the file."""

    def refuse(*_arguments: object, **_more: object) -> None:
        raise AssertionError("a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    caplog.set_level(logging.DEBUG)
    large = encoded("PNG", (1500, 1500))
    assert len(large) > 2_000_000
    bad = b"Anna Beispiel, born in 2019"
    for content, status in ((large, 200), (bad, 415)):
        answer = client.post("/api/explain", files={"file": ("Beispiel_Anna.png", content)})
        assert answer.status_code == status, answer.text
        assert "Anna" not in answer.text
    broken = b"--x\r\nAnna Beispiel\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/api/explain", content=broken, headers=headers).status_code == 422
    said = " ".join(r.getMessage() for r in caplog.records if not r.name.startswith("httpx")) + "".join(
        capfd.readouterr()
    )
    assert "Anna" not in said


# ---------------------------------------------------------------- many at once, and clients that go away


def test_fifty_at_once_are_all_answered(client: httpx.Client) -> None:
    image = encoded("PNG")
    expected = client.post("/api/predict", content=image).json()

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=client.base_url, limits=limits, timeout=120, trust_env=False) as many:
            return await asyncio.gather(*(many.post("/api/predict", content=image) for _ in range(50)))

    assert [r.json() for r in asyncio.run(all_of_them())] == [expected] * 50


def test_a_killed_client_harms_nothing(client: httpx.Client) -> None:
    """More clients than uploads are held, each gone in the middle of its upload or while it waits for the answer."""
    image = encoded("PNG")
    head = f"POST /api/explain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(image)}\r\n\r\n".encode()
    before = threading.active_count()
    for sent in (image[:20], image) * 10:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a kill
            gone.sendall(head + sent)
    begin = time.perf_counter()
    assert client.post("/api/predict", content=image).status_code == 200
    assert time.perf_counter() - begin < 20
    assert threading.active_count() <= before + 1


def test_nothing_is_written_beside(tmp_path: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client.post("/api/explain", files={"file": ("../x.png", encoded("TIFF", (900, 900)))})
    assert list(tmp_path.iterdir()) == []
