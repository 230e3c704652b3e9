"""The reports on the images of a synthesis, whatever made the images: a GAN of this toolkit, or another generator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from balancer.core.files import JsonObject, folder_name
from balancer.core.run import RunDir
from balancer.core.sealed import digest
from balancer.core.settings import QualityConfig
from balancer.data.coding import coding_note, dataset_coding
from balancer.data.dataset import Dataset
from balancer.data.manifest import MANIFEST
from balancer.metrics.feature_choice import choose
from balancer.metrics.trend import Trend
from balancer.quality import figures
from balancer.quality.assess import assess
from balancer.quality.class_reports import ClassReports, folder_of, publish_classes
from balancer.quality.datasheet import Words, write_datasheet
from balancer.quality.report import Report, closest_pairs, provenance, publish
from balancer.quality.sides import ImageSet
from balancer.reporting.document import Link
from balancer.reporting.grids import png_bytes
from balancer.reporting.links import link_to, run_on_same_data

Array = np.ndarray
CODED = "For this report alone, the synthetic images"


@dataclass(frozen=True)
class Origin:
    """What made the images of a class, for the report and the datasheet.

    Attributes:
        about: paragraphs on the generator and on what it learnt from.
        facts: what ``report.json`` says of the generator.
        links: returns the links of a page in a folder below that of the run.
        words: of the datasheet.
        history: the snapshots of the training, if they are known.
        step: of the snapshot that made the images.
        trend: how KID moved at the end of training; None where the training is not known.
        whose: whose images these are, for the title; empty for a GAN of this toolkit.
    """

    about: list[str]
    facts: JsonObject
    links: Callable[[str], list[Link]]
    words: Words
    history: list[JsonObject] = field(default_factory=list)
    step: int = 0
    trend: Trend | None = None
    whose: str = ""


@dataclass(frozen=True)
class SyntheticClass:
    """The images of one class as they were written."""

    label: int
    images: Array  # (n, H, W) or (n, H, W, 3) uint8
    files: list[str]  # relative to the run
    seconds: float  # that making and writing them took
    origin: Origin


@dataclass(frozen=True)
class AllClasses:
    """What the page above the reports of several classes says of all."""

    facts: JsonObject
    links: Sequence[Link]


def write_image(run: Path, cls: str, index: int, image: Array) -> tuple[str, str]:
    """Write an image of a class as PNG; return its path, relative to the run, and its SHA-256."""
    file, content = f"images/{folder_name(cls)}/synthetic_{index:05d}.png", png_bytes(image)
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_bytes(content)
    return file, digest(content)


def write_reports(
    settings: QualityConfig,
    data: Dataset,
    run: RunDir,
    classes: Sequence[SyntheticClass],
    whole: AllClasses,
    device: torch.device,
) -> Report | ClassReports:
    """Write the report on the images of each class, and the datasheets; the manifest is there already.

    Of several classes each has a folder for its report, and the report of the run leads to them.
    """
    if len(classes) == 1:
        return _write_report(settings, data, run, classes[0], ".", device)
    reports = {}
    for synthetic in classes:
        name = data.classes[synthetic.label]
        (run / folder_of(name)).mkdir(parents=True, exist_ok=True)
        reports[name] = _write_report(settings, data, run, synthetic, folder_of(name), device)
    result = ClassReports(reports, whole.facts, whole.links)
    publish_classes(run.path, result)
    return result


def _write_report(
    settings: QualityConfig,
    data: Dataset,
    run: RunDir,
    synthetic: SyntheticClass,
    below: str,
    device: torch.device,
) -> Report:
    """Write the report on the images of one class, with its figures, and the datasheet; return the report.

    They go into the folder ``below`` that of the run.
    """
    begin = time.perf_counter()
    label, fake, origin, cls = synthetic.label, synthetic.images, synthetic.origin, data.classes[synthetic.label]
    train, val, test = (
        image_set(data, fold, label, name)
        for fold, name in (("train", "training fold"), ("val", "validation"), ("test", "test"))
    )
    coding = dataset_coding(data, label)
    shown = coding.of(fake) if coding.is_seen else fake
    network = choose(settings.features, data, device)
    read = fake if coding.is_seen else None
    quality = assess(settings, train, val, shown, device, test=test, choice=network, as_read=read)
    titles = f"Synthetic {cls}", f"{'Drawn' if data.is_phantom else 'Real'} {cls} (training fold)"
    drawn = figures.of_quality(quality, train.images, shown)
    drawn["grid"] = figures.beside(fake, train.images, titles, settings.seed)
    if origin.history:
        drawn["training"] = figures.training(origin.history, origin.step)
    report_time = time.perf_counter() - begin
    took = {"export": synthetic.seconds, "report": report_time, "total": synthetic.seconds + report_time}
    report = Report(
        title=f"{len(fake):,} synthetic {cls} images{origin.whose}",
        about=[*origin.about, *([coding_note(CODED, coding, fake.shape[1])] if coding.is_seen else [])],
        n=len(fake),
        seed=settings.seed,
        data=data.describe(),
        quality=quality,
        closest=closest_pairs(quality, synthetic.files, [data.records[i].name for i in data.indices("train", label)]),
        seconds={what: round(s, 1) for what, s in took.items()},
        made=provenance(run, settings, device, took),
        generator={"class": cls, **origin.facts},
        trend=origin.trend,
        links=origin.links(below),
    )
    report = publish(run / below, report, drawn)
    write_datasheet(run / below, report, data, label, digest((run / MANIFEST).read_bytes()), origin.words)
    return report


def image_set(data: Dataset, fold: str, label: int, name: str) -> ImageSet:
    """Return a fold's images of one class under the name that the report gives the fold."""
    positions = data.indices(fold, label)
    return ImageSet(data.images[positions], [data.groups[i] for i in positions], name)


def link_to_audit(data: Dataset, run: RunDir, below: str = ".") -> list[Link]:
    """Return a link to an audit of the same data that lies in the same folder of runs, for a page below the run."""
    audited = run_on_same_data("audit", data.fingerprint, run.path)
    return link_to("audit of the data", audited / "audit.html", run.path, below) if audited else []
