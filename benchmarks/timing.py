"""Time step functions in turns, so that a noisy machine slows all alike."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from balancer.core.device import describe_device, synchronize


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def compare(
    loops: dict[str, Callable[[], None]], args: argparse.Namespace, batch_size: int, device: torch.device
) -> None:
    """Print images per second of ``reference`` and ``ours``, and the ratio: median (minimum to maximum) over rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        for _ in range(3):
            step()
    for _ in range(args.rounds):
        for name, step in loops.items():
            synchronize(device)
            begin = time.perf_counter()
            for _ in range(args.steps):
                step()
            synchronize(device)
            seconds[name].append((time.perf_counter() - begin) / args.steps)
    for name, of_rounds in seconds.items():
        per_step = statistics.median(of_rounds)
        print(f"{name:<10} {1 / per_step:8.2f} steps/s {batch_size / per_step:9.1f} images/s")
    ratios = [r / o for r, o in zip(seconds["reference"], seconds["ours"], strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f} over {args.rounds} rounds"
    print(f"ratio      {statistics.median(ratios):8.2f}  ({spread}), {describe_device(device)}")
