"""Everything that one graphics card has to show, in under 8 minutes: one JSON file and five pictures.

The parts are in gpu_parts.py and gpu_runs.py. A part that fails is recorded, and the rest goes on. The JSON file is
written after every part. Parts that only add to others come last, and run if time is left.

    python benchmarks/gpu_tier.py --out DIR [--data DIR] [--only PARTS] [--device cuda]
    python benchmarks/gpu_tier.py --out DIR --smoke    # all parts in tiny sizes, on the CPU
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_parts as parts
import gpu_runs as runs
import numpy as np
import torch

from balancer.core.device import describe_device, limit_threads, resolve_device
from balancer.core.environment import environment
from balancer.reporting.plots import PALETTE, save_figure, subplots

ALL_SECONDS = 470.0  # after which no part begins, and the one that runs is stopped
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.sm,clocks.mem,temperature.gpu"


@dataclass(frozen=True)
class Part:
    """A part of the tier, and the seconds after which it is stopped."""

    run: Callable[[parts.Tier], parts.Figures]
    limit: float


PARTS = {
    "agreement": Part(parts.agreement_part, 45),
    "waiting": Part(parts.waiting_part, 30),
    "gan_speed": Part(parts.gan_speed_part, 60),
    "classifier_speed": Part(parts.classifier_speed_part, 60),
    "gan_128": Part(runs.gan_128_part, 270),
    "s2_148": Part(runs.s2_148_part, 120),
    "regimes": Part(runs.regimes_part, 120),
    "backbones": Part(runs.backbones_part, 60),
    "kernels": Part(parts.kernels_part, 20),
    "compiled": Part(parts.compiled_part, 150),
}


class TooLong(BaseException):
    """A part took longer than its limit. No ``except Exception``, such as that around a compiler, holds this up."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLong in this thread after so many seconds; not on Windows, which has no such signal."""

    def stop(*_: object) -> None:
        raise TooLong(f"stopped after {seconds:.0f} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def card() -> dict[str, Any]:
    """Return what the driver says of the cards: names, versions, clocks; nothing where there is none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"nvidia-smi": str(error)}
    lines, keys = found.stdout.splitlines(), QUERY.split(",")
    rows = [dict(zip(keys, map(str.strip, line.split(",")), strict=False)) for line in lines]
    return {"cards": rows, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def bars(results: dict[str, parts.Figures]) -> dict[str, Any]:
    """Return what is promised of a card, as far as it was measured."""
    gan, trials = results.get("gan_speed", {}), results.get("classifier_speed", {})
    figures: dict[str, Any] = {}
    for size, rates in gan.items():
        best = max(value for mode, value in rates.items() if mode not in ("reference", "ran"))
        figures[f"GAN step over the plain loop, {size} px (at least 5)"] = best / rates["reference"]
        if size == "128":
            figures["minutes of 40,000 steps at 128 px (under 8)"] = 40_000 / best / 60
    by_regime = {key: max(v for mode, v in rates.items() if mode != "reference") for key, rates in trials.items()}
    if {"64 baseline", "64 augment"} <= by_regime.keys():
        minutes = 10 * 1400 / 60 * (1 / by_regime["64 baseline"] + 1 / by_regime["64 augment"])
        figures["minutes of the steps of 4 regimes x 5 seeds at 64 px (under 6)"] = minutes
    for name, figure in results.get("agreement", {}).items():
        figures[f"largest difference of 20 losses, {name}"] = figure["largest difference"]
    waits = {name: figure["waits"] for name, figure in results.get("waiting", {}).items() if figure["waits"]}
    return {**figures, "steps that wait for the card": waits} if "waiting" in results else figures


# Pictures


def draw_speed(out: Path, name: str, figures: parts.Figures, unit: str) -> None:
    """Draw bars of steps per second, for each size and mode."""
    figure, axes = subplots(1, 1, 9, 4)
    modes = [mode for mode in next(iter(figures.values())) if mode != "ran"]
    for k, mode in enumerate(modes):
        places = np.arange(len(figures)) + (k - len(modes) / 2 + 0.5) * 0.8 / len(modes)
        drawn = axes[0, 0].bar(places, [rates[mode] for rates in figures.values()], 0.75 / len(modes), color=PALETTE[k])
        axes[0, 0].bar_label(drawn, fmt="%.0f", fontsize=7)
        drawn.set_label(mode)
    axes[0, 0].set_xticks(range(len(figures)), list(figures))
    axes[0, 0].set_ylabel(unit)
    axes[0, 0].legend()
    save_figure(figure, out, name)


def draw_agreement(out: Path, figures: parts.Figures) -> None:
    """Draw the first losses on the CPU and on the device."""
    figure, axes = subplots(1, len(figures), 9, 3.5)
    for axis, (name, values) in zip(axes[0], figures.items(), strict=True):
        for k, (mode, losses) in enumerate(values["losses"].items()):
            axis.plot(losses, color=PALETTE[k], label=mode, linewidth=3 - 0.9 * k, linestyle=["-", "--", ":"][k % 3])
        axis.set(title=f"{name}, float32", xlabel="step", ylabel="loss")
        axis.legend()
    save_figure(figure, out, "agreement")


def draw_grids(out: Path) -> None:
    """Draw the last images of both GANs from the same latents."""
    from PIL import Image

    figure, axes = subplots(1, 2, 10, 5)
    for axis, size in zip(axes[0], (128, 148), strict=True):
        grids = sorted((out / f"gan_{size}" / "grids").glob("*.png"))
        if grids:
            axis.imshow(np.asarray(Image.open(grids[-1])), cmap="gray")
            axis.set_title(f"{size} px, {grids[-1].stem.replace('_', ' ')}")
        axis.axis("off")
    save_figure(figure, out, "gans")


def draw_backbones(out: Path, figures: parts.Figures) -> None:
    """Draw images per second of each backbone."""
    draw_speed(
        out, "backbones", {n: {m: v for m, v in f.items() if "GB" not in m} for n, f in figures.items()}, "images/s"
    )


PICTURES: dict[str, Callable[[Path, parts.Figures], None]] = {
    "gan_speed": lambda out, figures: draw_speed(out, "gan_speed", figures, "GAN steps/s"),
    "classifier_speed": lambda out, figures: draw_speed(out, "classifier_speed", figures, "classifier steps/s"),
    "agreement": draw_agreement,
    "s2_148": lambda out, _: draw_grids(out),
    "backbones": draw_backbones,
}


def run_parts(tier: parts.Tier, names: list[str], begin: float) -> dict[str, Any]:
    """Run the parts one after the other, and write the JSON file and the picture of each."""
    report: dict[str, Any] = {
        "environment": environment("benchmarks/gpu_tier.py", describe_device(tier.device)),
        "card": card(),
        "processor": platform.processor(),
        "smoke": tier.smoke,
        "parts": {},
    }
    for name in names:
        started, entry = time.perf_counter(), dict[str, Any]()
        part, left = replace(tier, begun={}), begin + ALL_SECONDS - started
        if left <= 0 and not tier.smoke:
            entry["left out"] = f"{ALL_SECONDS:.0f} s had passed"
        else:
            try:
                with limited(20 * PARTS[name].limit if tier.smoke else min(PARTS[name].limit, left)):
                    tier.results[name] = entry["figures"] = PARTS[name].run(part)
                    if name in PICTURES:
                        PICTURES[name](tier.out, entry["figures"])
            except (Exception, TooLong) as error:  # whatever it is: the other parts still have something to show
                entry["error"] = f"{type(error).__name__}: {error}"
                entry["traceback"] = traceback.format_exc()
                if part.begun:
                    tier.results[name] = entry["figures"] = part.begun
        entry["seconds"] = time.perf_counter() - started
        report["parts"][name] = entry
        report |= {"bars": bars(tier.results), "seconds": time.perf_counter() - begin}
        (tier.out / "gpu_tier.json").write_text(json.dumps(report, indent=1, default=str))
        print(f"{name:<18} {entry['seconds']:6.1f} s  {entry.get('error') or entry.get('left out') or ''}", flush=True)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Run the tier; return 1 if a part failed."""
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file, the pictures and the runs")
    parser.add_argument("--data", default="phantom", help="folder of a data set; none: the built-in drawings")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the CPU")
    args = parser.parse_args(arguments)
    names = args.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--only has {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    limit_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device("cpu" if args.smoke else args.device)
    report = run_parts(parts.Tier(device, args.data, args.out, args.smoke), names, begin)
    for name, value in report["bars"].items():
        print(f"{name}: {value if not isinstance(value, float) else round(value, 2)}")
    return int(any("error" in entry for entry in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
