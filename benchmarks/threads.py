"""Training steps per second by the number of threads and by how threads wait, on an idle and on a busy machine.

    python benchmarks/threads.py [--seconds 4] [--rounds 3]

Each setting is a process of its own, since OpenMP reads its environment when torch is loaded. The settings take turns
of some seconds, so that whatever else runs slows all alike. Then the same again beside busy processes, one for each
processor that this process may use. ``active`` is OpenMP's default: a thread that waits spins for some milliseconds.
``passive`` (OMP_WAIT_POLICY) sleeps at once. The last settings run one training on each processor.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from balancer.core.threads import COUNT, WAIT_POLICY, allowed_processors

Worker: TypeAlias = "subprocess.Popen[str]"  # makes steps for as long as its stdin says
BUSY = "while True: pass"


@dataclass(frozen=True)
class Setting:
    """How a training uses the processors."""

    threads: int
    policy: str = ""  # of OMP_WAIT_POLICY
    trainings: int = 1  # at the same time

    @property
    def name(self) -> str:
        """Return the setting in words."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        wait = f" {self.policy.lower()}" if self.threads > 1 else ""
        return f"{self.trainings} x {threads}{wait}"


def settings(processors: int) -> list[Setting]:
    """Return the settings to compare; the first is what the others are divided by."""
    several = [n for n in (2, 4, 8, 16) if n < processors] + [processors] * (processors > 1)
    alone = [Setting(n, policy) for n in several for policy in ("ACTIVE", "PASSIVE")]
    beside = [Setting(1, "PASSIVE", processors), Setting(processors, "PASSIVE", processors)] if several else []
    return [Setting(1, "PASSIVE"), *alone, *beside]


def gan_step() -> Callable[[], object]:
    """Return a step of the default GAN, on noise."""
    import torch

    from balancer.core.settings import GanTrainConfig
    from balancer.gan.step import build_state, train_step
    from balancer.gan.trainer import scale

    config, cpu = GanTrainConfig(), torch.device("cpu")
    state = build_state(config, cpu)
    pixels = torch.randint(0, 256, (config.batch_size, 1, 64, 64), dtype=torch.uint8)
    return lambda: train_step(config, state, scale(pixels, cpu))


def classifier_step() -> Callable[[], object]:
    """Return a step of the default classifier, on noise, without augmentation."""
    import torch

    from balancer.core.device import memory_format
    from balancer.core.settings import TrainConfig
    from classifier.models.cnn import SmallCNN
    from classifier.training.step import make_optimizer, train_step

    config, cpu = TrainConfig(), torch.device("cpu")
    model = SmallCNN(64).to(memory_format=memory_format(cpu))
    optimizer = make_optimizer(config, model)
    x = torch.randn(config.batch_size, 1, 64, 64).contiguous(memory_format=memory_format(cpu))
    y = torch.randint(0, 2, (config.batch_size,)).float()

    def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), labels)

    return lambda: train_step(model, optimizer, loss_of, x, y, config.precision)


STEPS = {"gan": gan_step, "classifier": classifier_step}


def work(kind: str, threads: int) -> None:
    """Be a worker: for each line on stdin, a number of seconds, train so long and print steps per second."""
    import torch

    torch.set_num_threads(threads)
    step = STEPS[kind]()
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < float(line):
            step()
            count += 1
        print(count / (time.perf_counter() - begin), flush=True)


@contextlib.contextmanager
def workers(kind: str, setting: Setting) -> Iterator[list[Worker]]:
    """Start the processes of a setting, and end them."""
    command = [sys.executable, __file__, "--work", kind, "--threads", str(setting.threads)]
    environment = {**os.environ, WAIT_POLICY: setting.policy} if setting.policy != "ACTIVE" else dict(os.environ)
    if setting.policy == "ACTIVE":  # libgomp's own default, which the word ACTIVE would make still longer
        environment.pop(WAIT_POLICY, None)
    environment.pop(COUNT, None)

    def start() -> Worker:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(start()) for _ in range(setting.trainings)]
        try:
            for process in started:
                assert process.stdout is not None, "a pipe"
                process.stdout.readline()
            yield started
        finally:
            for process in started:
                process.kill()


def turn(processes: list[Worker], seconds: float) -> float:
    """Return the steps per second of all processes of a setting together."""
    pipes = [(process.stdin, process.stdout) for process in processes if process.stdin and process.stdout]
    for stdin, _ in pipes:
        stdin.write(f"{seconds}\n")
        stdin.flush()
    return sum(float(stdout.readline()) for _, stdout in pipes)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processors busy."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(kind: str, seconds: float, rounds: int, processors: int) -> None:
    """Print the rates of every setting, idle and busy, and their ratios to one thread in the same round."""
    with contextlib.ExitStack() as stack:
        started = {s: stack.enter_context(workers(kind, s)) for s in settings(processors)}
        rates: dict[tuple[Setting, bool], list[float]] = {(s, busy): [] for s in started for busy in (False, True)}
        for _ in range(rounds):
            for busy in (False, True):
                with busy_processes(processors if busy else 0):
                    for setting, processes in started.items():
                        rates[setting, busy].append(turn(processes, seconds))
    reference = settings(processors)[0]
    print(f"{kind:<28}{'steps/s':>9}{'ratio':>8}{'busy: steps/s':>16}{'ratio':>8}")
    for setting in started:
        cells = []
        for busy in (False, True):
            ratios = [a / b for a, b in zip(rates[setting, busy], rates[reference, busy], strict=True)]
            cells += [statistics.median(rates[setting, busy]), statistics.median(ratios)]
        print("{:<28}{:9.2f}{:8.2f}{:16.2f}{:8.2f}".format(setting.name, *cells))


def main() -> None:
    """Measure the GAN and the classifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.threads)
        return
    processors = allowed_processors()
    load = f", load average {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"{processors} processors{load}; {args.rounds} rounds of {args.seconds:g} s; the ratio is to one thread")
    for kind in STEPS:
        measure(kind, args.seconds, args.rounds, processors)


if __name__ == "__main__":
    main()
