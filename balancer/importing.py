"""`balancer import`: a synthesis of images that another generator made, so that `classifier ablate` takes them.

Nothing in an image tells what its generator learnt from. So the report states what must hold, the training fold is
written down for whoever trains the generator, and images that equal a real validation or test image are refused.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from balancer.core import progress
from balancer.core.config import resolve
from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject
from balancer.core.preview import Undecoded, together
from balancer.core.run import RunDir
from balancer.core.saved_runs import data_settings, newest_of, read_environment
from balancer.core.sealed import write_with_sum
from balancer.core.settings import ImportConfig
from balancer.core.speed import seconds_each
from balancer.data import image_folder
from balancer.data.class_folders import class_folders
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.imported import FOLDER, UNSEEN, ImportedClass, read_class
from balancer.data.listing import left_out_note
from balancer.data.manifest import MANIFEST, MANIFEST_COLUMNS, ORIGIN_COLUMNS
from balancer.data.training_fold import TRAINING_FOLD, check_training_fold, write_training_fold
from balancer.metrics.feature_choice import seconds_to_train
from balancer.metrics.features import inception_weights
from balancer.metrics.memorization import memorization
from balancer.quality.assess import report_seconds
from balancer.quality.class_reports import ClassReports
from balancer.quality.datasheet import Words
from balancer.quality.report import Report
from balancer.quality.synthetic import AllClasses, Origin, SyntheticClass, link_to_audit, write_image, write_reports
from balancer.reporting.document import Link, csv_text
from balancer.reporting.grids import png_bytes
from balancer.reporting.links import link_to
from balancer.reporting.numbers import plural

log = logging.getLogger("balancer")
Array = np.ndarray
SPLIT_RUNS = ("gan-train", "ablate")  # whose split is taken where no run and no data are named
MUST_HOLD = (
    "The images are of another generator, and nothing in them tells what it learnt from. Figures of `classifier ablate`"
    f" mean something only if it learnt from the training fold alone ({TRAINING_FOLD})."
)
OWN_SPLIT = (
    "No run and no file (--split-of) fixed the split before the generator was trained: the split was made from the data"
    " just now. A generator that learnt from all images has seen the test images."
)


@dataclass(frozen=True)
class Inputs:
    """The real data, with notes on the images, and the images of each class in label order."""

    data: Dataset
    classes: list[ImportedClass]
    checkpoint: str | None  # SHA-256 of the file of the generator's weights

    @property
    def undecoded(self) -> Undecoded | None:
        """Return what a dry run has left to the run."""
        return together([self.data.undecoded, *(part.undecoded for part in self.classes)])

    def counts(self) -> dict[str, int]:
        """Return the number of images by class."""
        return {self.data.classes[part.label]: len(part.names) for part in self.classes}

    def describe(self) -> JsonObject:
        """Return the facts that env.json holds."""
        return {**self.data.describe(), "imported": self.counts()}


def configure(explicit: Mapping[str, Any]) -> ImportConfig:
    """Return the settings of a new import.

    The data are those of the run that is named, else those that are named, else those of the newest GAN or ablation. A
    file with the training fold goes with data that are named.
    """
    resolve(ImportConfig, explicit)  # a value out of range is a usage error, whatever runs there are
    name, data = explicit.get("split_of"), explicit.get("data")
    data_named = isinstance(data, Mapping) and data.get("path") is not None
    run = Path(name) if name else None if data_named else newest_of(*SPLIT_RUNS)
    if run is None or run.is_file():
        return resolve(ImportConfig, explicit)
    if not name:
        log.info("taking the data and the split of the newest finished run: %s", run)
    return resolve(ImportConfig, explicit, {"data": data_settings(run), "split_of": str(run.resolve())})


def open_inputs(config: ImportConfig, decode: bool = True) -> Inputs:
    """Read and check the data and the images; only the cache is written. ``decode`` is False for a dry run.

    Raises:
        UsageError: no folder or no class is named, or a class that the data do not have.
        BalancerError: the data give another split than the run had; a folder is missing, empty, too damaged, or holds
            images too small, equal to one another, or equal to real validation or test images.
    """
    if config.folder is None:
        raise UsageError("import got no DIR; give a folder of images, as in balancer import DIR --class NAME")
    if config.inception not in ("auto", "off"):
        inception_weights(config.inception)  # a wrong file is refused before anything is read
    checkpoint = _sha256(Path(config.checkpoint)) if config.checkpoint else None
    data = _load_data(config, decode)
    folder = image_folder.images_folder(FOLDER, Path(config.folder))
    _refuse_real_images_within(folder, data)
    folders, left_out = class_folders(folder, config.target_class, data)
    notes, classes = [MUST_HOLD, *([] if config.split_of else [OWN_SPLIT]), *left_out_note(left_out)], []
    for of_class in folders:
        part, on_images = read_class(config.data, data, of_class, config.n, decode)
        is_decoded = part.undecoded is None and data.undecoded is None
        on_images += _near_copies(part, data) if is_decoded else []
        notes += [f"{data.classes[part.label]}: {note}" for note in on_images]
        classes.append(part)
    for note in notes:
        log.warning(note)
    return Inputs(replace(data, notes=[*data.notes, *notes]), classes, checkpoint)


def _load_data(config: ImportConfig, decode: bool) -> Dataset:
    """Return the data, whose split must be that of the run or of the file that is named."""
    run = Path(config.split_of) if config.split_of else None
    if run is not None and run.is_file():
        data = load_dataset(config.data, decode=decode)
        check_training_fold(run, data)
        return data
    expected = None if run is None else str(read_environment(run).data.get("split_hash"))
    data = load_dataset(config.data, decode=decode, expected_split=expected)
    if expected not in (None, data.split_hash):
        raise BalancerError(
            f"{run} had split {expected}, {data.source} gives {data.split_hash} here; give the same --data and"
            " settings, or another --split-of"
        )
    return data


def _refuse_real_images_within(folder: Path, data: Dataset) -> None:
    within = folder.resolve()
    if data.folder is None or not (data.folder.resolve().is_relative_to(within) or within.is_relative_to(data.folder)):
        return
    real = [name for name in (r.name for r in data.records) if (data.folder / name).resolve().is_relative_to(within)]
    if real:
        raise BalancerError(
            f"{folder} holds {plural(len(real), 'image')} of {data.source}, the first {real[0]}; give a folder of"
            " synthetic images alone"
        )


def _near_copies(part: ImportedClass, data: Dataset) -> list[str]:
    """Return a note on images that are near copies of real images of their class in validation or test."""
    notes = []
    for fold, words in UNSEEN:
        index = data.indices(fold, part.label)
        try:
            copies = memorization(data.images[index], part.images, train_groups=[data.groups[i] for i in index])
        except BalancerError as error:  # too few images
            log.debug("no search for near copies of %s images: %s", words, error)
            continue
        if copies.near_copies:
            pair = copies.closest[0]
            notes.append(
                f"{copies.near_copies} of {len(part.names)} images are near copies of real {words} images, such as"
                f" {part.names[pair.synthetic]} of {data.records[index[pair.training]].name}: the generator may have"
                " learnt from them, and figures may be too good."
            )
    return notes


def import_images(config: ImportConfig, inputs: Inputs, run: RunDir, device: torch.device) -> Report | ClassReports:
    """Write the images as PNG, the manifest, the training fold, the report on each class and the datasheets."""
    data = inputs.data
    classes = _copy(config, inputs, run)
    data.write_split(run / "split.csv")
    write_training_fold(run / TRAINING_FOLD, data)
    whole = AllClasses({"imported": _facts(config, inputs)}, _links(config, data, run, "."))
    return write_reports(config, data, run, classes, whole, device)


def _copy(config: ImportConfig, inputs: Inputs, run: RunDir) -> list[SyntheticClass]:
    """Write the images of every class and, once all are there, the manifest."""
    rows: list[tuple[str | int, ...]] = []
    made, data = [], inputs.data
    with progress.bar(sum(inputs.counts().values()), "import", "image") as bar:
        for part in inputs.classes:
            begin, files, cls = time.perf_counter(), list[str](), data.classes[part.label]
            for i, seed in enumerate(part.seeds):
                file, sha256 = write_image(run.path, cls, i, part.images[i])
                source = (part.names[i], part.digests[i])
                rows.append((file, len(rows), seed, sha256, cls, data.split_hash, *source))
                files.append(file)
                bar.update()
            took = time.perf_counter() - begin
            made.append(SyntheticClass(part.label, part.images, files, took, _origin(config, inputs, part, run)))
    write_with_sum(run / MANIFEST, csv_text((*MANIFEST_COLUMNS, *ORIGIN_COLUMNS), rows))
    return made


def _facts(config: ImportConfig, inputs: Inputs) -> JsonObject:
    """Return what report.json says of the generator."""
    return {"folder": config.folder, "generator": config.generator, "checkpoint_sha256": inputs.checkpoint}


def _origin(config: ImportConfig, inputs: Inputs, part: ImportedClass, run: RunDir) -> Origin:
    """Return what the report and the datasheet say of the generator of a class."""
    known = sum(seed != "" for seed in part.seeds)
    seeds = f"of the generator: in the names of {known:,} of {len(part.names):,} files" if known else "not known"
    return Origin(
        about=list(_about(config, inputs, part, seeds)),
        facts={"imported": _facts(config, inputs)},
        links=partial(_links, config, inputs.data, run),
        words=Words(
            labels="the class alone, as whoever imported the images names it",
            seeds=seeds,
            left_out="what this sheet names; whether images were selected before, is not known",
            learning="must have learnt from",
            maintenance="This toolkit cannot make the images again: the generator is not its own.",
        ),
        whose=f" of {config.generator or 'another generator'}",
    )


def _about(config: ImportConfig, inputs: Inputs, part: ImportedClass, seeds: str) -> Iterator[str]:
    """Yield paragraphs on the images and on what their generator must have learnt from."""
    data, cls, size = inputs.data, inputs.data.classes[part.label], inputs.data.images.shape[1]
    sides = [f"{w} x {h}" for w, h in sorted(set(part.scan.sizes.values()))]
    stored = " to ".join(dict.fromkeys((sides[0], sides[-1]))) if sides else "unknown"
    checkpoint = f"checkpoint with SHA-256 `{inputs.checkpoint}`" if inputs.checkpoint else "checkpoint not known"
    yield (
        f"Generator: {config.generator or 'not named'}; {checkpoint}; seeds {seeds}. The images were imported from"
        f" `{part.scan.path}`: {part.scan.format_names}, {stored} px, brought to {size} px as the real images were."
    )
    counts = ", ".join(f"{c} {n:,}" for c, n in zip(data.classes, data.counts("train"), strict=True))
    run = ", made from the data at the import"
    if split_of := Path(config.split_of) if config.split_of else None:
        run = f", as `{split_of.name}` has it" if split_of.is_file() else f" of run `{split_of.name}`"
    yield (
        f"The generator must have learnt from the {data.counts('train')[part.label]:,} {cls} images of the training"
        f" fold alone ({counts}; split `{data.split_hash}`{run}); `{TRAINING_FOLD}` names them. Nothing in the images"
        " proves that. No image equals a real validation or test image; the notes name near copies, if there are any."
    )


def _links(config: ImportConfig, data: Dataset, run: RunDir, below: str) -> list[Link]:
    """Return links to the run whose split was taken, and to an audit of the same data."""
    split_of = Path(config.split_of) if config.split_of else None
    is_run = split_of is not None and split_of.is_dir()
    of_split = link_to(f"run of the split `{split_of.name}`", split_of, run.path, below) if split_of and is_run else []
    return [*of_split, *link_to_audit(data, run, below)]


def estimate_seconds(config: ImportConfig, inputs: Inputs, device: torch.device) -> float:
    """Return the estimated time of the copies, of the reports, and of a feature network that is to be trained."""
    seconds = seconds_to_train(config.features, inputs.data, device)
    for part in inputs.classes:
        each = seconds_each(partial(_compress, part.images), min(len(part.images), 64), 0.2)
        seconds += each * len(part.names) + report_seconds(config, part.images.shape[1], len(part.names))
    return seconds


def _compress(images: Array, n: int) -> None:
    for image in images[:n]:
        png_bytes(image)


def _sha256(file: Path) -> str:
    """Return the SHA-256 of the file of a generator's weights."""
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise BalancerError(
            f"--checkpoint {file} cannot be read ({error.strerror}); give the file of the generator's weights"
        ) from error
