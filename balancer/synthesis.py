"""Export synthetic images of a trained generator, with a manifest and a report on their quality."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from balancer.core import progress
from balancer.core.config import recipe_changes, resolve
from balancer.core.errors import BalancerError
from balancer.core.pixels import COLOUR, WORDS
from balancer.core.run import RunDir
from balancer.core.saved_runs import latest_run, saved_config
from balancer.core.sealed import digest, write_with_sum
from balancer.core.seeding import derive_seed, generator
from balancer.core.settings import GanTrainConfig, SynthesizeConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.manifest import MANIFEST, MANIFEST_COLUMNS
from balancer.gan.ancestry import Ancestor
from balancer.gan.checkpoint import finished_settings, read_best
from balancer.gan.class_runs import runs_of
from balancer.gan.monitor import CHUNK, generate
from balancer.gan.snapshot import Snapshot, read_history
from balancer.gan.step import sample_z
from balancer.metrics.feature_choice import seconds_to_train
from balancer.metrics.features import inception_weights
from balancer.metrics.trend import Trend, last_third
from balancer.quality.assess import report_seconds
from balancer.quality.class_reports import ClassReports
from balancer.quality.datasheet import Words
from balancer.quality.report import Report
from balancer.quality.synthetic import AllClasses, Origin, SyntheticClass, link_to_audit, write_image, write_reports
from balancer.reporting.document import Link, csv_text
from balancer.reporting.grids import png_bytes, to_uint8
from balancer.reporting.links import link_to

log = logging.getLogger("balancer")
Array = np.ndarray


@dataclass(frozen=True)
class Source:
    """A trained generator and the data that it was trained on."""

    run: Path
    G: nn.Module  # EMA weights, evaluation mode
    config: GanTrainConfig
    label: int
    step: int
    data: Dataset
    precisions: tuple[str, ...] = ()  # of training, in order; empty if not known
    ancestors: tuple[Ancestor, ...] = ()  # trainings whose weights training started from

    @property
    def class_name(self) -> str:
        """Return the name of the class that the generator learnt."""
        return self.data.classes[self.label]


def configure(explicit: Mapping[str, Any]) -> SynthesizeConfig:
    """Return the settings of a new synthesis.

    The data and the features are those of the GAN run that is named, or of the newest one: a run that was told which
    feature network to take must not be followed by hours of training another.
    """
    resolve(SynthesizeConfig, explicit)  # a value out of range is a usage error, whatever runs there are
    name = explicit.get("gan_run")
    path = Path(name) if name else latest_run("gan-train")
    if path is None:
        raise BalancerError(
            "no finished gan-train run under runs/gan-train; run `balancer gan-train` first, or give --gan-run DIR"
        )
    if not name:
        log.info("taking the newest finished GAN run: %s", path)
    saved = saved_config("gan-train", path)
    inherited = {"data": saved.get("data", {}), "gan_run": str(path.resolve())}
    inherited |= {"features": saved["features"]} if "features" in saved else {}
    return resolve(SynthesizeConfig, explicit, inherited)


def open_sources(config: SynthesizeConfig, device: torch.device, decode: bool = True) -> list[Source]:
    """Load the generator of each class that the run learnt, in the order of the classes, and their data.

    ``decode`` is False for a dry run, as for :func:`load_dataset`.

    Raises:
        BalancerError: as :func:`open_source`.
    """
    run = Path(config.gan_run or "")
    finished_settings(run)
    parts = runs_of(run)
    if not parts:
        return [open_source(config, device, decode)]
    sources: list[Source] = []
    for part in parts:
        data = sources[0].data if sources else None  # of one run, so of the same data
        sources.append(open_source(config.model_copy(update={"gan_run": str(part)}), device, decode, data))
    return sorted(sources, key=lambda source: source.label)


def open_source(
    config: SynthesizeConfig, device: torch.device, decode: bool = True, data: Dataset | None = None
) -> Source:
    """Load the generator of one class and its data, unless the data are given; ``decode`` as above.

    Raises:
        BalancerError: the run is not finished, its checkpoint is of other settings, or the data now give another
            split, size or task than it was trained on.
    """
    run = Path(config.gan_run or "")
    gan = finished_settings(run)
    read_history(run / "metrics.jsonl")  # refused before anything is written
    if config.data.image_size != gan.data.image_size:
        raise BalancerError(
            f"the GAN of {run} makes {gan.data.image_size} px images, --image-size asks for {config.data.image_size}"
        )
    if config.inception not in ("auto", "off"):
        inception_weights(config.inception)  # a wrong file is refused before anything is written
    G, saved = read_best(run, device, gan)
    data = data or load_dataset(config.data, decode=decode, expected_split=saved.split_hash)
    if saved.split_hash != data.split_hash:
        raise BalancerError(
            f"{run} was trained on {saved.data_source} (split {saved.split_hash}), the data here are"
            f" {data.source} (split {data.split_hash}); give the same --data, or train on this one first"
        )
    if saved.channels != data.channels:
        raise BalancerError(
            f"{run} learnt {WORDS[saved.channels]} images, {data.source} is read in {WORDS[data.channels]}; give"
            f" --channels {saved.channels}, or train on these images first"
        )
    if saved.class_name not in data.classes:
        raise BalancerError(
            f"{run} learnt {saved.class_name}, the task here has {', '.join(data.classes)}; give --task "
            f"{gan.data.task}, or train on this one first"
        )
    label = data.classes.index(saved.class_name)
    past = tuple(saved.precisions), saved.ancestors
    return Source(run, G.to(device).eval(), gan, label, saved.step, data, *past)


def count(config: SynthesizeConfig, source: Source) -> int:
    """Return how many images to export: ``n``, else what the class lacks in the training fold.

    Raises:
        BalancerError: ``n`` is not set and the class lacks no image.
    """
    if config.n is not None:
        return config.n
    lacking = source.data.deficits[source.label]
    if lacking < 1:
        raise BalancerError(
            f"{source.class_name} lacks no image in the training fold ({source.data.counts('train')}); say how many: "
            "--n"
        )
    return lacking


def images_of(source: Source, seed: int, n: int, device: torch.device) -> Iterator[Array]:
    """Yield images uint8 in chunks of at most CHUNK. Image ``i`` depends on (seed, i) alone, whatever ``n`` is.

    The last chunk is generated in full and cut afterwards: a batch of another size may take another code path in a
    convolution and differ in the last bit.
    """
    for start in range(0, n, CHUNK):
        z = torch.cat([sample_z(source.config, 1, generator(seed, "z", i)) for i in range(start, start + CHUNK)])
        images = generate(source.G, z.to(device))
        if not torch.isfinite(images).all():
            raise BalancerError(f"the generator of {source.run} makes pixels that are not finite; train again")
        yield to_uint8(images)[: n - start]


def synthesize(
    config: SynthesizeConfig, sources: Sequence[Source], run: RunDir, device: torch.device
) -> Report | ClassReports:
    """Write the images of each generator, one manifest, the report on each class and the datasheets.

    The images of a class lie in ``images/<CLASS>/``. Of several classes each has a folder for its report, and the
    report of the run leads to them.
    """
    made = export(config, sources, run, device)
    classes = [
        SyntheticClass(source.label, *written, _origin(config, source, run))
        for source, written in zip(sources, made, strict=True)
    ]
    # The classes differ in nothing else, so the settings of the run of all classes say which generators these are.
    gan_run = Path(config.gan_run or "")
    facts = {"gan_run": str(gan_run), "gan_config": finished_settings(gan_run).model_dump(mode="json")}
    whole = AllClasses(facts, links(run, sources[0], gan_run))
    return write_reports(config, sources[0].data, run, classes, whole, device)


def _origin(config: SynthesizeConfig, source: Source, run: RunDir) -> Origin:
    """Return what the report and the datasheet say of the generator of a class."""
    snapshots = read_history(source.run / "metrics.jsonl").snapshots
    history = [snapshot.to_json() for snapshot in snapshots]
    return Origin(
        about=about(config, source),
        facts={
            "gan_run": str(source.run),
            "gan_step": source.step,
            "gan_config": source.config.model_dump(mode="json"),
            "gan_history": history,
        },
        links=lambda below: links(run, source, source.run, below),
        words=Words(
            labels="the class alone; nobody read the images",
            seeds=f"{config.seed}; image i depends on the seed and on i alone",
            left_out="nothing: no image was selected or removed after it was made",
            learning="learnt from",
            maintenance=f"The generator of run `{source.run.name}` makes the same images again on the same machine: "
            "`balancer synthesize --gan-run`.",
        ),
        history=history,
        step=source.step,
        trend=kid_trend(snapshots),
    )


def kid_trend(snapshots: Sequence[Snapshot]) -> Trend | None:
    """Return how KID moved over the last third of a training; None if KID was not measured."""
    measured = [(snapshot.step, snapshot.quality) for snapshot in snapshots if snapshot.quality]
    if not measured:
        return None
    steps, figures = zip(*measured, strict=True)
    return last_third(steps, [quality.kid for quality in figures], figures[-1].kid_real_baseline)


def links(run: RunDir, source: Source, gan_run: Path, below: str = ".") -> list[Link]:
    """Return links to the GAN run, and to an audit of the same data, where these lie in the same folder of runs.

    They are for a page in the folder ``below`` that of the run.
    """
    audit_page = link_to_audit(source.data, run, below)
    return [*link_to(f"GAN run `{gan_run.name}`", gan_run, run.path, below), *audit_page]


def about(config: SynthesizeConfig, source: Source) -> list[str]:
    """Return paragraphs on the generator and on what it learnt from."""
    gan, data, cls = source.config, source.data, source.class_name
    changed = recipe_changes(gan)
    recipe = f"{gan.preset} preset" + (" of an earlier version" if changed is None else "")
    recipe += f" (with other {', '.join(changed)})" if changed else ""
    weights = f"averaged weights (EMA {gan.ema_decay:g})" if gan.ema_decay else "weights not averaged"
    trained = f", trained in {', then '.join(source.precisions)}" if source.precisions else ""
    distance = {"kid": "KID", "frechet": "Fréchet distance"}.get(gan.selection)
    chosen = f" of {gan.steps:,}, chosen by {distance} to images of the training fold" if distance else ""
    counts = ", ".join(f"{c} {n:,}" for c, n in zip(data.classes, data.counts("train"), strict=True))
    colour = " in colour" if data.channels == COLOUR else ""
    return [
        f"Generator: {recipe}, {data.images.shape[1]} px{colour}, step {source.step:,}{chosen}; run "
        f"`{source.run.name}`, {weights}{trained}. Seed {config.seed}: image i is the same whatever the number of "
        "images.",
        f"The generator was trained on the {data.counts('train')[source.label]:,} {cls} images of the training fold "
        f"({counts}; split `{data.split_hash}`). It saw no validation or test image.",
        *(
            f"Its weights had learnt before from training images of {ancestor.class_name} (run `{ancestor.run}`, step"
            f" {ancestor.step:,})."
            for ancestor in source.ancestors
        ),
    ]


class Written(NamedTuple):
    """The images of one class as they were written."""

    images: Array  # (n, H, W) uint8
    files: list[str]  # relative to the run
    seconds: float


def export(config: SynthesizeConfig, sources: Sequence[Source], run: RunDir, device: torch.device) -> list[Written]:
    """Write the PNG files of each class and, once all are there, the manifest; return the images of each class.

    A manifest counts its rows from 0. The number in a file's name is that of the image in its class, on which the
    image depends.
    """
    rows: list[tuple[str, int, int, str, str, str]] = []
    made: list[Written] = []
    with progress.bar(sum(count(config, source) for source in sources), "synthesize", "image") as bar:
        for source in sources:
            begin, first, chunks = time.perf_counter(), len(rows), list[Array]()
            split = source.data.split_hash
            n, cls = count(config, source), source.class_name
            for chunk in images_of(source, config.seed, n, device):
                for image in chunk:
                    i = len(rows) - first
                    file, sha256 = write_image(run.path, cls, i, image)
                    rows.append((file, len(rows), derive_seed(config.seed, "z", i), sha256, cls, split))
                chunks.append(chunk)
                bar.update(len(chunk))
            images = np.concatenate(chunks)
            if n > 1 and (images == images[0]).all():
                raise BalancerError(f"the generator of {source.run} makes the same image every time; train again")
            made.append(Written(images, [row[0] for row in rows[first:]], time.perf_counter() - begin))
    if equal := len(rows) - len({sha256 for _, _, _, sha256, *_ in rows}):
        log.warning(
            "%d of %d images equal another one: the generator has collapsed, and `classifier ablate` refuses such a"
            " set; train it longer, or with other settings",
            equal,
            len(rows),
        )
    write_with_sum(run / MANIFEST, csv_text(MANIFEST_COLUMNS, rows))
    return made


def estimate_seconds(config: SynthesizeConfig, sources: Sequence[Source], device: torch.device) -> float:
    """Return the estimated time of the exports, of the reports, and of a feature network that is to be trained."""
    learning = seconds_to_train(config.features, sources[0].data, device)
    return learning + sum(_estimate_seconds(config, source, device) for source in sources)


def _estimate_seconds(config: SynthesizeConfig, source: Source, device: torch.device) -> float:
    n = count(config, source)
    begin = time.perf_counter()
    for image in next(images_of(source, config.seed, CHUNK, device)):
        digest(png_bytes(image))
    export_seconds = (time.perf_counter() - begin) * n / CHUNK
    return export_seconds + report_seconds(config, source.data.images.shape[1], n)
