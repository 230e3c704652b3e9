"""How fast `classifier serve` starts and answers, and whether its memory stays flat.

    python benchmarks/serve.py [--model model.pt] [--requests 2000] [--hostile 2000]

The service is a process of its own with one thread, pinned to one processor where the system can do so. Without a
model, small_cnn at 64 px is trained for some steps on the drawings. The upload is a JPEG of 1500 x 1100 px,
the size of a radiograph. The bars: an answer with heat map within 300 ms, a start within 8 s, 800 MB.

Then come hostile uploads (hostile.py), fuzzed images and slow clients. Each must get its status and one line; nothing
may stay in the folder of temporary files or in the log, and memory must not grow.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import io
import itertools
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from hostile import KINDS, fuzzed, upload
from PIL import Image

from balancer.data.phantom import PhantomSpec, drawn_images

WARM = 20  # requests before anything is measured
REFUSALS = (413, 415, 422)
SLOW = 50  # clients that send a byte a second
RUN = "import sys; from balancer.core.start import classifier; sys.argv[0] = 'classifier'; classifier()"


def radiograph() -> bytes:
    """Return a drawing as a JPEG of a radiograph's size."""
    _, pixels = next(drawn_images(PhantomSpec(size=512, train=(0, 1), val=(0, 0), test=(0, 0))))
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((1500, 1100)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def memory(pid: int) -> dict[str, float]:
    """Return the resident memory of a process in MB: now and at its highest."""
    kilobytes = dict(re.findall(r"(Vm\w+):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()))
    return {key: int(kilobytes[key]) / 1e3 for key in ("VmRSS", "VmHWM")}


def start(model: Path, temporary: Path) -> tuple[subprocess.Popen[str], str, float]:
    """Start the service with a folder for temporary files; return it, its address, and the seconds until it answered.

    Its log goes into a file beside that folder.
    """
    begin = time.perf_counter()
    command = [sys.executable, "-c", RUN, "serve", str(model), "--port", "0", "--threads", "1"]
    log = temporary.with_name("log.txt")
    with log.open("w") as handle:
        process = subprocess.Popen(command, stderr=handle, text=True, env={**os.environ, "TMPDIR": str(temporary)})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, [max(os.sched_getaffinity(0))])
    while not (address := re.search(r"http://[\d.:]+", log.read_text())):
        if process.poll() is not None:
            raise SystemExit(f"the service did not start:\n{log.read_text()}")
        time.sleep(0.02)
    while True:
        try:
            httpx.get(f"{address[0]}/healthz").raise_for_status()
            return process, address[0], time.perf_counter() - begin
        except httpx.ConnectError:
            time.sleep(0.02)


def main() -> None:
    """Start, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model.pt; else one is trained")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--hostile", type=int, default=2000, help="uploads; then half as many fuzzed images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "temporary"
        temporary.mkdir()
        model = options.model or Path(folder) / "run"
        if options.model is None:
            brief = ["--data", "phantom", "--steps", "20", "--set", "bn_statistics=running", "-q", "--out", str(model)]
            subprocess.run([sys.executable, "-c", RUN, "train", *brief], check=True, stdout=subprocess.DEVNULL)
        process, url, seconds = start(model, temporary)
        log = temporary.with_name("log.txt")
        try:
            print(f"start {seconds:.1f} s (bar 8 s)", flush=True)
            if options.requests:
                measure(process.pid, url, options.requests)
            before = log.read_text()
            attack(process.pid, url, options.hostile)
            wait_among_slow_clients(url)
            print(f"left in the folder of temporary files: {len(list(temporary.iterdir()))};", end=" ")
            print(f"bytes of the log: {len(log.read_text()) - len(before)}")
        finally:
            process.terminate()
            process.wait()


def measure(pid: int, url: str, requests: int) -> None:
    """Ask many times, then many at once; print times and memory."""
    upload = radiograph()

    def ask(_: int = 0) -> float:
        begin = time.perf_counter()
        answer = client.post("/api/explain", content=upload)
        answer.raise_for_status()
        assert answer.json()["predictions"][0]["heat_map"]["picture"]
        return 1e3 * (time.perf_counter() - begin)

    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(WARM):
            ask()
        early = memory(pid)["VmRSS"]
        times = sorted(ask() for _ in range(requests))
        median, most = statistics.median(times), times[int(0.99 * (len(times) - 1))]
        print(f"upload to answer with heat map: median {median:.0f} ms, 99 % within {most:.0f} ms (bar 300 ms)")
        late = memory(pid)
        print(f"memory {late['VmRSS']:.0f} MB, at most {late['VmHWM']:.0f} MB (bar 800 MB);", end=" ")
        print(f"{late['VmRSS'] - early:+.1f} MB over {requests} requests")
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            together = list(pool.map(ask, range(50)))
        print(f"50 at once: {len(together)} answered, the last after {max(together) / 1e3:.1f} s;", end=" ")
        print(f"memory at most {memory(pid)['VmHWM']:.0f} MB")


def attack(pid: int, url: str, uploads: int) -> None:
    """Send hostile uploads of each kind in turn, then fuzzed images; print memory and what was not as it should be."""
    surprises: dict[str, int] = {}
    with httpx.Client(base_url=url, timeout=120) as client:

        def send(content: bytes, kind: str, name: str, expected: tuple[int, ...]) -> None:
            answer = client.post("/api/explain", content=content, headers={"content-type": kind})
            line = "" if answer.status_code == 200 else answer.json()["detail"]
            if answer.status_code not in expected or "\n" in line or len(line) > 300:
                surprise = f"{name}: {answer.status_code} {line}"
                surprises[surprise] = surprises.get(surprise, 0) + 1

        for name in KINDS:
            send(*upload(name), name, (KINDS[name][1],))
        early = memory(pid)["VmRSS"]
        for name in itertools.islice(itertools.cycle(KINDS), uploads):
            send(*upload(name), name, (KINDS[name][1],))
        late = memory(pid)
        print(f"{uploads} hostile uploads of {len(KINDS)} kinds: {early:.0f} MB before, {late['VmRSS']:.0f} MB after,")
        print(f"  at most {late['VmHWM']:.0f} MB;", end=" ")
        for content, kind in itertools.islice(fuzzed(0), uploads // 2):
            send(content, kind, "fuzzed", (200, *REFUSALS))
        print(f"then {uploads // 2} fuzzed images: {memory(pid)['VmRSS']:.0f} MB")
        print(f"  not as expected: {surprises or 'none'}", flush=True)


def wait_among_slow_clients(url: str) -> None:
    """Print how long an upload takes while slow clients send theirs, and how many of these were sent away."""
    head = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    heads = {"a byte a second": head, "300 kB, then a byte a second": head + bytes(300_000), "half a head": head[:30]}
    for name, sent in heads.items():
        slow = []
        for _ in range(SLOW):
            slow.append(socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 80)))
            slow[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):  # the service reads no more before a place is free
                slow[-1].sendall(sent)
        times, begin = [], time.perf_counter()
        while time.perf_counter() - begin < 15:
            each = time.perf_counter()
            httpx.post(f"{url}/api/predict", content=radiograph(), timeout=300).raise_for_status()
            times.append(time.perf_counter() - each)
            for client in slow:
                with contextlib.suppress(OSError):  # sent away
                    client.send(b"x")
            time.sleep(1)
        print(f"among {SLOW} clients of {name}: an upload takes at most {max(times):.1f} s", flush=True)
        for client in slow:
            client.close()


if __name__ == "__main__":
    main()
