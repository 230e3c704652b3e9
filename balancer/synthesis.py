"""Export synthetic images of a trained generator, with a manifest and a report on their quality."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from balancer import progress
from balancer.config import GanTrainConfig, SynthesizeConfig, merge, validate
from balancer.console import Invocation
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.folder import CLASSES
from balancer.errors import BalancerError
from balancer.gan.networks import architecture
from balancer.gan.trainer import CHECKPOINT, check_config, generate, read_checkpoint, sample_z
from balancer.grids import png_bytes, save_side_by_side, to_uint8
from balancer.manifest import MANIFEST_COLUMNS
from balancer.metrics.features import inception_weights, random_subset
from balancer.report import quality_report, render_markdown
from balancer.run import RunDir, latest_run, saved_config, write_json, write_text
from balancer.seeding import derive_seed, generator

log = logging.getLogger("balancer")
Array = np.ndarray
CHUNK = 64  # images per pass through G; fixed, so that rounding does not depend on how many are asked for
SHOWN = 36


@dataclass(frozen=True)
class Source:
    """A trained generator and the data that it was trained on."""

    run: Path
    G: nn.Module  # EMA weights, evaluation mode
    config: GanTrainConfig
    label: int
    step: int
    data: Dataset


def configure(asked: Invocation) -> Any:
    """The settings of a new synthesis: data and GAN run are taken over from the run that is named or newest."""
    asked.config()  # a value out of range is a usage error, whatever runs there are
    given = asked.explicit.get("gan_run")
    path = Path(given) if given else latest_run("gan-train")
    if path is None:
        raise BalancerError(
            "no finished gan-train run under runs/gan-train; run `balancer gan-train` first, or give --gan-run DIR"
        )
    if not given:
        log.info("taking the newest finished GAN run: %s", path)
    return asked.config(merge({"data": saved_config("gan-train", path)["data"]}, {"gan_run": str(path.resolve())}))


def open_source(config: SynthesizeConfig, device: torch.device) -> Source:
    """Load the generator and its data.

    Raises:
        BalancerError: the run is not finished, its checkpoint is of other settings, or the data now give another
            split or size than it was trained on.
    """
    run = Path(config.gan_run or "")
    gan = validate(GanTrainConfig, saved_config("gan-train", run))
    if not (run / "done").exists():
        raise BalancerError(f"{run} is not finished; continue it with `balancer gan-train --resume {run}`")
    if config.data.image_size != gan.data.image_size:
        raise BalancerError(
            f"the GAN of {run} makes {gan.data.image_size} px images, --image-size asks for {config.data.image_size}"
        )
    if config.inception not in ("auto", "off"):
        inception_weights(config.inception)  # a wrong file is refused before anything is written
    content = read_checkpoint(run / CHECKPOINT, device)
    check_config(run / CHECKPOINT, content, gan)
    data = load_dataset(config.data)
    if content["split_hash"] != data.split_hash:
        raise BalancerError(
            f"{run} was trained on {content['data']['source']} (split {content['split_hash']}), the data here are"
            f" {data.source} (split {data.split_hash}); give the same --data, or train on this one first"
        )
    G = architecture(gan.architecture).generator(gan.data.image_size, gan.z_dim, gan.generator_width)
    G.load_state_dict(content["G_ema"])
    label = [c == content["class"] for c in CLASSES].index(True)
    return Source(run, G.to(device).eval(), gan, label, content["step"], data)


def count(config: SynthesizeConfig, source: Source) -> int:
    """How many images to export: ``n``, else what the class lacks in the training fold.

    Raises:
        BalancerError: no number was given and the class lacks none.
    """
    if config.n is not None:
        return config.n
    counts = source.data.counts("train")
    lacking = max(counts) - counts[source.label]
    if lacking < 1:
        raise BalancerError(
            f"{CLASSES[source.label]} lacks no image in the training fold ({counts}); say how many: --n"
        )
    return lacking


def images_of(source: Source, seed: int, n: int, device: torch.device) -> Iterator[Array]:
    """Chunks of images (at most CHUNK, H, W) uint8. Image ``i`` depends on (seed, i) alone, whatever ``n`` is.

    Every chunk is generated whole and cut afterwards: a batch of another size may take another code path in
    a convolution and differ in the last bit.
    """
    for start in range(0, n, CHUNK):
        z = torch.cat([sample_z(source.config, 1, generator(seed, "z", i)) for i in range(start, start + CHUNK)])
        yield to_uint8(generate(source.G, z.to(device)))[: n - start]


def synthesize(config: SynthesizeConfig, source: Source, run: RunDir, device: torch.device) -> dict[str, Any]:
    """Write ``images/<CLASS>/``, ``manifest.csv``, ``grid.png``, ``report.json`` and ``report.md``; return the report."""
    begin = time.perf_counter()
    fake = export(config, source, run, device)
    exported = time.perf_counter() - begin
    data = source.data
    train = data.images[data.indices("train", source.label)]
    report = {
        "class": CLASSES[source.label],
        "n": len(fake),
        "gan_run": str(source.run),
        "gan_step": source.step,
        "gan_config": source.config.model_dump(mode="json"),
        "seed": config.seed,
        "data": data.describe(),
        "quality": quality_report(config, data, source.label, fake, device),
        "seconds": {"export": round(exported, 1), "total": 0.0},
    }
    report["seconds"]["total"] = round(time.perf_counter() - begin, 1)  # type: ignore[index]
    shown = min(SHOWN, len(fake), len(train))
    kind = "Drawn" if data.is_phantom else "Real"
    panels = {
        f"Synthetic {report['class']}": fake[random_subset(len(fake), shown, config.seed, "grid", "fake")],
        f"{kind} {report['class']} (training fold)": train[
            random_subset(len(train), shown, config.seed, "grid", "real")
        ],
    }
    save_side_by_side(run / "grid.png", panels)
    write_json(run / "report.json", report)
    write_text(run / "report.md", render_markdown(report))
    return report


def export(config: SynthesizeConfig, source: Source, run: RunDir, device: torch.device) -> Array:
    """Write the PNG files and, once all are there, the manifest; returns the images (n, H, W) uint8."""
    n, cls = count(config, source), CLASSES[source.label]
    folder = run / "images" / cls
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, int, int, str, str, str]] = []
    chunks: list[Array] = []
    with progress.bar(n, "synthesize", "image") as bar:
        for chunk in images_of(source, config.seed, n, device):
            for image in chunk:
                i, content = len(rows), png_bytes(image)
                (folder / f"synthetic_{i:05d}.png").write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
                file = f"images/{cls}/synthetic_{i:05d}.png"
                rows.append((file, i, derive_seed(config.seed, "z", i), digest, cls, source.data.split_hash))
            chunks.append(chunk)
            bar.update(len(chunk))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(MANIFEST_COLUMNS)
    writer.writerows(rows)
    write_text(run / "manifest.csv", buffer.getvalue())
    return np.concatenate(chunks)


def estimate_seconds(config: SynthesizeConfig, source: Source, device: torch.device) -> float:
    """Export time from one chunk; the metrics on the offline network cost about as much again."""
    count(config, source)
    begin = time.perf_counter()
    next(images_of(source, config.seed, CHUNK, device))
    return 30 + 2 * (time.perf_counter() - begin) * count(config, source) / CHUNK


def summary(report: dict[str, Any]) -> str:
    """One line a distance, for the terminal."""
    quality = report["quality"]
    lines = [f"{report['n']} synthetic {report['class']} images in {report['seconds']['total']:.0f} s"]
    for row in quality["distances"]:
        lines.append(
            f"{row['features']} vs {row['reference']}: {row['frechet_name']} {row['frechet']:.2f} (real against real {row['frechet_floor']:.2f}), "
            f"KID {row['kid']:.4f} (floor {row['kid_floor']:.4f}), n_real = n_fake = {row['n_real']}"
        )
    return "\n".join([*lines, *quality["notes"]])
