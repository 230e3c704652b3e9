"""The 8-bit variant of an ONNX classifier: made on training images, chosen on validation, compared on test."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from balancer.core import onnx_file
from balancer.core.config import data_path
from balancer.core.environment import processor_name
from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, write_bytes, write_text
from balancer.core.sealed import write_json
from balancer.core.seeding import derive_seed
from balancer.data.dataset import Dataset, load_dataset
from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.document import Document, Section, Table, to_markdown
from balancer.reporting.numbers import DASH, bounds, fixed, plural, short, signed
from classifier.analysis.statistics import crossed_estimate
from classifier.evaluation.metrics import multiclass_ranking, ranking_metrics
from classifier.evaluation.thresholds import labels_of, with_temperature
from classifier.export.quantise import METHODS
from classifier.export.runtime import logits_of, scores
from classifier.training.record import ClassifierRecord, check_scores

Array = np.ndarray
log = logging.getLogger("balancer")
CALIBRATION = 256  # training images that fix the ranges of activations
WORSE = 0.001  # AUROC on validation by which static quantisation must be below dynamic to be the worse of the two
TIMED, REPEATS = 32, 20  # images per timed pass, and passes


@dataclass(frozen=True)
class Change:
    """The test AUROC of a variant less that of float32 on the same images, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Return ``-.0008 [-.0021, .0005]``; the value alone where no resample differs: that is no interval."""
        interval = "" if self.low == self.high else f" {bounds(self.low, self.high, 4)}"
        return f"{signed(self.value, 4)}{interval}"


@dataclass(frozen=True)
class Variant:
    """What one ONNX file costs and gives, on this machine."""

    name: str  # float32, or how integers were made: static or dynamic
    megabytes: float
    images_per_second: float  # of batches of TIMED images
    latency_ms: float  # of one image
    val_auroc: float  # over classes, each against the rest, if there are more than two
    test_auroc: float
    test_change: Change | None  # None: a class has fewer than two patients
    largest_change: float  # of a calibrated probability on test, against float32
    changed_labels: int  # on test, against float32


@dataclass(frozen=True)
class Integers:
    """The 8-bit variant beside the float32 one."""

    file: Path
    report: Path  # as Markdown; the same as JSON lies beside it
    chosen: str  # static or dynamic
    variants: list[Variant]  # float32 first
    calibration_images: int
    test_images: int
    patients_known: bool
    processor: str
    threads: int

    def to_json(self) -> JsonObject:
        """Return the comparison as values that JSON has."""
        return {**asdict(self), "file": self.file.name, "report": self.report.name}

    def table(self) -> Table:
        """Return a row for each variant."""
        columns = ["MB", "images/s", "ms", "AUROC val", "AUROC test", "less float32 [95 %]"]
        rows = [
            [
                v.name,
                fixed(v.megabytes),
                fixed(v.images_per_second, 0),
                fixed(v.latency_ms),
                short(v.val_auroc, 4),
                short(v.test_auroc, 4),
                DASH if v is self.variants[0] or v.test_change is None else v.test_change.text,
                short(v.largest_change),
                f"{v.changed_labels} of {self.test_images}",
            ]
            for v in self.variants
        ]
        return Table(["variant", *columns, "largest change", "labels changed"], rows)

    def describe(self) -> str:
        """Return the comparison as text."""
        return "\n".join([f"{self.file}: 8-bit integers, {self.chosen}", self.table().to_text(), str(self.report)])

    def document(self) -> Document:
        """Return the comparison as a report."""
        chosen = self.variants[1 + list(METHODS).index(self.chosen)]
        notes = [
            f"Static ranges come from {self.calibration_images} images of the training fold. Dynamic quantisation is"
            f" taken where static is worse by more than {short(WORSE)} AUROC on validation. No choice looked at test.",
            f"Speed: median of {REPEATS} passes over {TIMED} images, and over one image (ms), in turns, on"
            f" {self.processor}, {plural(self.threads, 'thread')}, with onnxruntime.",
            "The temperature and the threshold are those of the float32 network, chosen on validation. Largest change:"
            " of a calibrated probability on test.",
            "Less float32: the difference of the test AUROCs on the same images, with a 95 % interval that resamples"
            f" {'patients' if self.patients_known else 'images'}. An interval around 0 does not show that nothing is"
            " lost; its ends say how much may be.",
        ]
        gain = f"{self.variants[0].megabytes / chosen.megabytes:.1f} times smaller"
        speed = f"{chosen.images_per_second / self.variants[0].images_per_second:.1f} times as fast"
        lost = "" if chosen.test_change is None else f", test AUROC {chosen.test_change.text}"
        verdict = f"{self.chosen.capitalize()} 8-bit integers: {gain}, {speed}{lost}."
        return Document(self.file.name, [], verdict, sections=[Section("Beside float32", notes, self.table())])


def files(path: Path) -> list[Path]:
    """Return the files that :func:`write` makes beside an ONNX file."""
    return [path.with_suffix(f".int8{suffix}") for suffix in (".onnx", ".json", ".md")]


def open_data(record: ClassifierRecord, data: str | None, decode: bool = True) -> Dataset:
    """Return the data that the classifier was trained on; ``decode`` is False for a dry run.

    Raises:
        UsageError: no data are named, and the model does not know them.
        BalancerError: the data give another split than in training: the folds would mix.
    """
    if data is None and record.config.data.path is None:
        raise UsageError("--int8 calibrates on training images, and this file names no data; give --data")
    path = record.config.data.path if data is None else data_path(data)
    config = record.data_config.model_copy(update={"path": path})
    dataset = load_dataset(config, require=("train", "val", "test"), decode=decode, expected_split=record.split_hash)
    if dataset.split_hash != record.split_hash:
        raise BalancerError(
            f"--int8 needs the data of the training (split {record.split_hash}); {dataset.source} gives split"
            f" {dataset.split_hash}"
        )
    return dataset


def write(record: ClassifierRecord, path: Path, data: Dataset, facts: JsonObject, threads: int) -> Integers:
    """Write the 8-bit variant of an ONNX file beside it, with a report as JSON and Markdown.

    Args:
        record: of the classifier.
        path: of the float32 file.
        data: of the training.
        facts: that the new file says of itself; how its integers were made is added.
        threads: for onnxruntime.
    """
    import onnx

    file, as_json, as_markdown = files(path)
    model, images = onnx.load(path), calibration_images(data)
    models = {"float32": model} | {name: quantise(model, images) for name, quantise in METHODS.items()}
    contents = {
        name: onnx_file.sealed_bytes(made, {**facts, "precision": {"quantisation": name, "images": len(images)}})
        for name, made in models.items()
    }
    variants = measure(record, contents, data, threads)
    chosen = better(variants[1], variants[2])
    write_bytes(file, contents[chosen.name])
    test = len(data.indices("test"))
    known = data.patients_known
    made = Integers(file, as_markdown, chosen.name, variants, len(images), test, known, processor_name(), threads)
    write_json(as_json, made.to_json())
    write_text(as_markdown, to_markdown(made.document()))
    return made


def calibration_images(data: Dataset) -> Array:
    """Return images of the training fold, uint8: CALIBRATION of them, or all if there are fewer."""
    train = data.indices("train")
    rng = np.random.default_rng(derive_seed(0, "int8 calibration"))
    return data.images[np.sort(rng.choice(train, min(CALIBRATION, len(train)), replace=False))]


def better(first: Variant, second: Variant) -> Variant:
    """Return the first variant, unless it is worse on validation."""
    return second if first.val_auroc < second.val_auroc - WORSE else first


def measure(record: ClassifierRecord, contents: dict[str, bytes], data: Dataset, threads: int) -> list[Variant]:
    """Return size, speed and AUROC of ONNX files, of which the first is the reference."""
    sessions = {name: onnx_file.session_of(content, threads) for name, content in contents.items()}
    images = {fold: data.images[data.indices(fold)] for fold in ("val", "test")}
    labels = {fold: data.labels[data.indices(fold)] for fold in images}
    variants: list[Variant] = []
    speeds = {n: seconds([_pass(s, images["val"][:n]) for s in sessions.values()]) for n in (TIMED, 1)}
    groups = [data.groups[i] for i in data.indices("test")]
    reference: tuple[Array, Array, Array] | None = None  # scores, calibrated probabilities and labels on test
    for i, (name, session) in enumerate(sessions.items()):
        log.info("%s: %d validation and %d test images", name, len(images["val"]), len(images["test"]))
        of_fold = {fold: check_scores(scores(logits_of(session, pixels))) for fold, pixels in images.items()}
        calibrated = with_temperature(of_fold["test"], record.temperature)
        called = labels_of(of_fold["test"], record.uncalibrated_threshold)
        reference = reference or (of_fold["test"], calibrated, called)
        variant = Variant(
            name=name,
            megabytes=len(contents[name]) / 1e6,
            images_per_second=min(TIMED, len(images["val"])) / speeds[TIMED][i],
            latency_ms=1000 * speeds[1][i],
            val_auroc=auroc(labels["val"], of_fold["val"]),
            test_auroc=auroc(labels["test"], of_fold["test"]),
            test_change=auroc_change(labels["test"], groups, of_fold["test"], reference[0]),
            largest_change=float(np.abs(calibrated - reference[1]).max()),
            changed_labels=int((called != reference[2]).sum()),
        )
        variants.append(variant)
    return variants


def _pass(session: onnx_file.Session, images: Array) -> Callable[[], object]:
    return lambda: logits_of(session, images)


def seconds(passes: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median seconds of each pass, timed in turns, so that a busy machine slows all alike."""
    taken: list[list[float]] = [[] for _ in passes]
    for _ in range(REPEATS + 2):  # two to warm up
        for run, times in zip(passes, taken, strict=True):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return [float(np.median(times[2:])) for times in taken]


def auroc(labels: Array, score: Array) -> float:
    """Return the AUROC of scores (n,), or of (n, C) the mean over classes, each against the rest."""
    return (ranking_metrics if score.ndim == 1 else multiclass_ranking)(labels, score)["auroc"]


def auroc_change(labels: Array, groups: Sequence[str], score: Array, reference: Array) -> Change | None:
    """Return the AUROC of scores less that of a reference on the same images, with an interval over patients.

    Args:
        labels: (n,) of the images.
        groups: patient (n,) of each image.
        score: (n,) or (n, C), as for :func:`auroc`.
        reference: of the same shape.

    Returns:
        The difference; None if a class has fewer than two patients.
    """
    several = score.ndim == 2
    n_classes = score.shape[1] if several else 2
    fewest = min(patients_per_class(labels, groups, n_classes))
    if fewest < 2:
        return None
    weights = patient_weights(labels, groups, RESAMPLES, 0, n_classes)

    def under_weights(of: Array) -> Array:
        columns = of.T if several else of[None]
        classes = range(len(columns)) if several else (1,)
        aurocs = [weighted_auroc(labels == k, column, weights) for k, column in zip(classes, columns, strict=True)]
        mean: Array = np.mean(aurocs, axis=0)
        return mean

    change = under_weights(score) - under_weights(reference)
    estimate = crossed_estimate(change[:, None, None], fewest)
    return Change(estimate.value, estimate.low, estimate.high)
