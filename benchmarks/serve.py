"""How fast `classifier serve` starts and answers, and whether its memory stays flat.

    python benchmarks/serve.py [--model model.pt] [--requests 2000]

The service is a process of its own with one thread, pinned to one processor where the system can do so. Without a
model, small_cnn at 64 px is trained for some steps on the drawings. The upload is a JPEG of 1500 x 1100 px,
the size of a radiograph. The bars: an answer with heat map within 300 ms, a start within 8 s, 800 MB.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image

from balancer.data.phantom import PhantomSpec, drawn_images

WARM = 20  # requests before anything is measured
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


def start(model: Path) -> tuple[subprocess.Popen[str], str, float]:
    """Start the service; return it, its address, and the seconds until it answered."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", RUN, "serve", str(model), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, [max(os.sched_getaffinity(0))])
    assert process.stderr is not None
    for line in process.stderr:
        if address := re.search(r"http://[\d.:]+", line):
            break
    else:
        raise SystemExit("the service did not start")
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "run"
        if options.model is None:
            brief = ["--data", "phantom", "--steps", "20", "--set", "bn_statistics=running", "-q", "--out", str(model)]
            subprocess.run([sys.executable, "-c", RUN, "train", *brief], check=True, stdout=subprocess.DEVNULL)
        process, url, seconds = start(model)
        try:
            print(f"start {seconds:.1f} s (bar 8 s)")
            measure(process.pid, url, options.requests)
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


if __name__ == "__main__":
    main()
