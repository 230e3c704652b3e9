"""Use a saved classifier: on a fold of a data set, or on single images.

Torch and scikit-learn are imported inside functions: an exported ONNX file predicts without either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from balancer.core import progress
from balancer.core.config import data_path
from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, refuse_unwritable, write_text
from balancer.core.pixels import COLOUR, GREY
from balancer.core.preview import Preview
from balancer.core.settings import DataConfig
from balancer.core.speed import seconds_each
from balancer.data.chest import is_chest
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.depth import Decoding, Ranges, is_dim, is_off_range, shared_ranges
from balancer.data.depth_notes import beyond_notes, depth_notes
from balancer.data.dicom_files import DicomRules
from balancer.data.images import decode_image, is_converted
from balancer.data.listing import SUFFIXES, image_files, left_out_note, strays
from balancer.reporting.document import Table, csv_text
from balancer.reporting.numbers import plural, short
from classifier.evaluation.fold_metrics import BinaryMetrics, MulticlassMetrics
from classifier.evaluation.thresholds import BOUND_NOTE, decide, is_at_bound, with_temperature
from classifier.predictor import Predictor, open_predictor
from classifier.training.record import ClassifierRecord

Array = np.ndarray
log = logging.getLogger("balancer")
TRIED, BUDGET = 16, 1.0  # images, and seconds, of an estimate
CONVERTED = {  # by the channels of the classifier
    GREY: "%s in colour, which this classifier does not know: read in grey (luminance)",
    COLOUR: "%s without colour, and this classifier was trained on colour: read with three equal channels",
}


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a saved classifier on a fold."""

    checkpoint: str
    regime: str
    trial_seed: int
    data: str
    fold: str
    classes: tuple[str, ...]
    metrics: BinaryMetrics | MulticlassMetrics

    def to_json(self) -> JsonObject:
        """Return the metrics, after where they come from."""
        source = {key: value for key, value in vars(self).items() if key != "metrics"}
        return {**source, **self.metrics.to_json()}

    def describe(self) -> str:
        """Return the metrics as text."""
        return describe(self.metrics, self.classes, self.regime, self.trial_seed, self.fold)


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction for one image."""

    file: str
    label: str
    probabilities: dict[str, float]  # by class
    novelty: float | None = None  # distance from the training data, in limits; None: the classifier does not know

    @property
    def is_unlike(self) -> bool:
        """Return whether the image lies farther from the training data than 99 of 100 validation images."""
        return self.novelty is not None and self.novelty > 1

    @property
    def likeness(self) -> str:
        """Return whether the image is like the training data, in a word or two."""
        return "not known" if self.novelty is None else "no" if self.is_unlike else "yes"

    @property
    def shown(self) -> dict[str, float]:
        """Return the probabilities that are shown: of every class, or of the positive one of two."""
        return dict(list(self.probabilities.items())[1:]) if len(self.probabilities) == 2 else self.probabilities

    @property
    def probability_pneumonia(self) -> float | None:
        """Return the probability of any pneumonia, where the classes are those of the chest set."""
        first, *others = self.probabilities
        if not is_chest((first, *others)):
            return None
        return self.probabilities[others[0]] if len(others) == 1 else 1 - self.probabilities[first]

    def to_json(self) -> JsonObject:
        """Return the prediction; of two classes of the chest set, the one probability of pneumonia says it all."""
        values = {**asdict(self), "probability_pneumonia": self.probability_pneumonia}
        if self.probability_pneumonia is not None and len(self.probabilities) == 2:
            del values["probabilities"]
        return {key: value for key, value in values.items() if value is not None}

    def describe(self) -> str:
        """Return the prediction as one line."""
        unlike = f"  (unlike the training data: {self.novelty:.1f} times the limit)" if self.is_unlike else ""
        return f"{self.label:<10} {'  '.join(f'p({c}) = {p:.4f}' for c, p in self.shown.items())}  {self.file}{unlike}"


@dataclass(frozen=True)
class FilePredictions:
    """The predictions for several images."""

    checkpoint: str
    members: int  # trials whose mean decides
    note: str
    threshold: float | None  # on calibrated probabilities; None if there are more than two classes
    rule: str  # how the labels were chosen, in words
    predictions: list[ImagePrediction]

    def to_json(self) -> JsonObject:
        """Return the predictions and the threshold."""
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        predictions = [prediction.to_json() for prediction in self.predictions]
        source = {"checkpoint": self.checkpoint, "members": self.members, "note": self.note}
        return {**source, **threshold, "predictions": predictions}

    def to_csv(self) -> str:
        """Return a line per image, with every digit."""
        shown = [p.to_json() for p in self.predictions]
        classes = list(shown[0].get("probabilities", ()))
        single = ["probability_pneumonia"] if "probability_pneumonia" in shown[0] else []
        header = ["file", "label", *single, *(f"probability_{name}" for name in classes)]
        rows = []
        for p in self.predictions:
            scores = [*(p.probability_pneumonia for _ in single), *(p.probabilities[name] for name in classes)]
            cells = [p.file, p.label, *scores, self.threshold, p.novelty]
            rows.append([None if cell is None else str(cell) for cell in cells])
        return csv_text([*header, "threshold", "novelty"], rows)

    def describe(self) -> str:
        """Return a line per image, and how the labels were chosen."""
        return "\n".join([*(prediction.describe() for prediction in self.predictions), f"{self.rule}; {self.note}"])

    def _repr_markdown_(self) -> str:
        """Return a table of the images, and how the labels were chosen, as a notebook shows them."""
        first = self.predictions[0].shown
        names = [Path(p.file).name.replace("`", "'") for p in self.predictions]
        rows = [
            [f"`{name}`", p.label, *(short(probability) for probability in p.shown.values()), p.likeness]
            for name, p in zip(names, self.predictions, strict=True)
        ]
        header = ["image", "called", *(f"p({name})" for name in first), "like the training data"]
        rule = self.rule if self.threshold is None else self.rule.replace(str(self.threshold), short(self.threshold))
        return f"{Table(header, rows, numeric=2, words=True).to_markdown()}\n\n{rule}; {self.note}"


def evaluate_checkpoint(
    checkpoint: Path, data: str | None, fold: str, device: str, threads: int | None = None, dry: bool = False
) -> Evaluation | Preview:
    """Evaluate a saved classifier on a fold; warn if the data are not those of the training.

    With ``dry``, only say what would be read, and how long that would take.

    Raises:
        BalancerError: if the fold is not the test fold and the split differs from that of the training.
        UsageError: if no data are named and the file does not know those of its training, as an exported one.
    """
    from balancer.core.device import open_device
    from classifier.evaluation import metrics as evaluation
    from classifier.training.checkpoint import load_classifier
    from classifier.training.prediction import predict

    where = open_device(device, threads)
    saved = load_classifier(checkpoint, where)
    if data is None and saved.config.data.path is None:
        raise UsageError(f"{checkpoint} names no data, since exported files hold no paths; give --data")
    path = {} if data is None else {"path": data_path(data)}
    source = _in_ranges_of_training(saved, saved.data_config.model_copy(update=path), fold, decode=not dry)
    if source.fingerprint != saved.fingerprint:
        log.warning("these data are not exactly those of the training: some file differs")
    if source.split_hash != saved.split_hash:
        splits = source.split_hash, saved.split_hash
        log.warning("these data (split %s) are not those of the training (split %s)", *splits)
        if fold != "test":
            raise BalancerError(
                f"the {fold} fold here is another than in training and could mix the two; evaluate on --fold test"
            )
    index = source.indices(fold)
    if dry:
        some, left = source.images[index[:TRIED]], source.undecoded
        an_image = seconds_each(lambda n: predict(saved.model, some[:n], saved.config, where), len(some), BUDGET)
        seconds = an_image * len(index) + (left.seconds if left else 0)
        reads = f"{checkpoint} and {len(index)} images of fold {fold} of {source.source}"
        settings = {"network": saved.config.model, "threshold": saved.config.threshold, "split": source.split_hash}
        return Preview(reads, "nothing", seconds, settings, left.describe() if left else "")
    score = predict(saved.model, source.images[index], saved.config, where)
    if source.classes != saved.classes:
        raise BalancerError(
            f"{checkpoint} decides between {', '.join(saved.classes)}, {source.source} has"
            f" {', '.join(source.classes)}; give --data of the same classes"
        )
    chosen = saved.uncalibrated_threshold, saved.temperature
    metrics = evaluation.evaluate(source.labels[index], score, *chosen, is_chest(saved.classes))
    return Evaluation(str(checkpoint), saved.regime, saved.trial_seed, source.source, fold, saved.classes, metrics)


def _in_ranges_of_training(saved: ClassifierRecord, config: DataConfig, fold: str, decode: bool) -> Dataset:
    """Return a data set whose images of more than 8 bits are as bright as they would have been in training."""
    expected = None if fold == "test" else saved.split_hash  # of test images another split is only warned of
    source = load_dataset(config, require=(fold,), decode=decode, expected_split=expected)
    _warn_of_own_ranges(source.ranges, saved.ranges)
    trained = {kind: white for kind, white in (saved.ranges or {}).items() if kind in source.ranges}
    if all(source.ranges[kind] == white for kind, white in trained.items()):
        return source
    both = _as_text(trained), _as_text(source.ranges)
    log.warning("images of more than 8 bits are read in the range of the training, %s; these data alone use %s", *both)
    return load_dataset(config, require=(fold,), ranges=trained)


def _warn_of_own_ranges(own: Ranges, trained: Ranges | None) -> None:
    """Warn of images of more than 8 bits whose range the checkpoint does not know."""
    unknown = {kind: white for kind, white in own.items() if kind not in (trained or {})}
    if unknown:
        why = "is not in this older checkpoint" if trained is None else "is not known: the training had no such images"
        log.warning("the training's range for images of more than 8 bits %s; read as %s", why, _as_text(unknown))


def _as_text(ranges: Ranges) -> str:
    return ", ".join(f"0 to {white:.0f} ({kind})" for kind, white in ranges.items())


def describe(
    metrics: BinaryMetrics | MulticlassMetrics, classes: Sequence[str], regime: str, trial_seed: int, fold: str
) -> str:
    """Return the metrics of a fold as text."""
    from classifier.evaluation import metrics as evaluation  # takes scikit-learn, which `predict` does without

    lines = [f"{regime}, seed {trial_seed}, {fold} n = {metrics.n}"]
    if is_at_bound(metrics.temperature):
        lines.append(f"Temperature {metrics.temperature:.2f}: {BOUND_NOTE}.")
    if isinstance(metrics, MulticlassMetrics):
        decisions, width = metrics.most_likely, max(11, *(len(name) for name in classes))
        table = [["truth", *classes, "sensitivity", "AUROC"]]
        each = zip(classes, decisions.confusion, decisions.sensitivity, metrics.auroc_of_class, strict=True)
        for name, row, sensitivity, auroc in each:
            table.append([name, *map(str, row), f"{sensitivity:.4f}", f"{auroc:.4f}"])
        lines.append(_figures(metrics, evaluation.MULTICLASS_RANKING))
        lines.append(f"most likely class: {_figures(decisions, evaluation.MULTICLASS_DECISION)}")
        return "\n".join([*lines, *("  " + " ".join(f"{cell:>{width}}" for cell in row) for row in table)])
    lines.append(_figures(metrics, evaluation.RANKING))
    for threshold, at in ((0.5, metrics.at_half), (metrics.threshold, metrics.at_threshold)):
        lines.append(f"threshold {threshold}: {_figures(at, evaluation.DECISION)}")
        lines.append("  TN {} FP {} FN {} TP {}".format(*at.confusion))
    lines.append("Thresholds are on the calibrated probability, as `classifier predict` prints and takes it.")
    return "\n".join(lines)


def _figures(metrics: object, keys: Sequence[str]) -> str:
    values = {key: getattr(metrics, key) for key in keys}
    return "  ".join(f"{key} {value:.4f}" for key, value in values.items() if value is not None)


def predict_files(
    checkpoint: Path,
    images: Sequence[Path],
    threshold: float | None,
    device: str,
    threads: int | None = None,
    regime: str | None = None,
    out: Path | None = None,
    dry: bool = False,
) -> FilePredictions | Preview:
    """Predict the label and the probabilities of each image in files and folders.

    Args:
        checkpoint: a model.pt, an exported file, or the folder of a training or of an ablation, whose trials decide
            together.
        images: files and folders.
        threshold: on calibrated probabilities; None is the threshold chosen on validation.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: that compute; None for OMP_NUM_THREADS, or one.
        regime: of an ablation; None for the one with the lowest NLL on validation.
        out: a CSV file to write as well.
        dry: whether to try a few images and only say what would be read, and how long that would take.

    Raises:
        UsageError: if the threshold is no probability, or is given though there are more than two classes: then the
            most likely class is the label.
        BalancerError: if a path is missing, a named file is no image, or no file is readable. Unreadable files in a
            folder are logged and left out. Also if a probability is not finite.
    """
    if threshold is not None and not 0 <= threshold <= 1:  # true of nan too
        raise UsageError(
            f"--threshold is {threshold}; expected a probability from 0 to 1, or none: the one chosen on validation"
        )
    predictor = open_predictor(checkpoint, regime, device, threads)
    saved = predictor.saved
    classes = saved.classes
    if threshold is not None and len(classes) > 2:
        raise UsageError(
            f"{checkpoint} has {len(classes)} classes: the most likely is the label; leave out --threshold"
        )
    if dry:
        return _preview(predictor, images, threshold, out)
    files, pixels = read_images(images, saved)
    judged = predictor.judge(pixels)
    uncalibrated, novelty = judged.scores, [None] * len(files) if judged.novelty is None else judged.novelty.tolist()
    scores = with_temperature(uncalibrated, saved.temperature)
    note = "trained on drawings, not X-rays" if saved.trained_on_drawings else "for research; not a medical device"
    if len(classes) > 2:
        predictions = [_of_classes(f, s, classes, away) for f, s, away in zip(files, scores, novelty, strict=True)]
        rule = f"the most likely of {len(classes)} classes"
        if predictor.members > 1:
            rule = f"the mean of {predictor.members} trials of {predictor.regime}; {rule}"
        return _written(FilePredictions(str(checkpoint), predictor.members, note, None, rule, predictions), out)
    cut = saved.threshold if threshold is None else threshold
    called = decide(uncalibrated, saved.temperature, saved.uncalibrated_threshold, threshold)
    rule = _rule_of_two(predictor, cut, is_tied=bool((called != (scores >= cut)).any()))
    predictions = [
        ImagePrediction(
            str(file), classes[int(positive)], {classes[0]: 1 - float(score), classes[1]: float(score)}, away
        )
        for file, positive, score, away in zip(files, called, scores, novelty, strict=True)
    ]
    return _written(FilePredictions(str(checkpoint), predictor.members, note, cut, rule, predictions), out)


def _rule_of_two(predictor: Predictor, threshold: float, is_tied: bool) -> str:
    """Return in words how the label of one of two classes is chosen.

    Args:
        predictor: what decides.
        threshold: on calibrated probabilities.
        is_tied: whether the temperature rounds probabilities together that the labels part.
    """
    saved = predictor.saved
    rule = f"threshold {threshold} ({'given' if threshold != saved.threshold else 'chosen on validation'})"
    if is_tied:
        rule += f"; the temperature {saved.temperature:.2f} rounds probabilities near 1 together, the labels part them"
    return f"the mean of {predictor.members} trials of {predictor.regime}; {rule}" if predictor.members > 1 else rule


def _preview(predictor: Predictor, images: Sequence[Path], threshold: float | None, out: Path | None) -> Preview:
    """Return what would be read; the time comes from a few of the images."""
    files = [file for path in images for file in named_files(path)]
    if out is not None:
        refuse_unwritable(out)
    some = [path for path in images if not path.is_dir()][:TRIED] or files[:TRIED]
    begin = time.perf_counter()
    pixels = read_images(some, predictor.saved)[1]
    reading = (time.perf_counter() - begin) / len(some)
    an_image = reading + seconds_each(lambda n: predictor.judge(pixels[:n]), len(pixels), BUDGET)
    saved, left = predictor.saved, len(files) - len(some)
    settings = {
        "network": saved.config.model,
        "regime": predictor.regime,
        "members": predictor.members,
        "threshold": threshold if threshold is not None else None if len(saved.classes) > 2 else saved.threshold,
    }
    unchecked = f"the pixels of {plural(left, 'image')}" if left else ""
    reads = f"{predictor.model} and {plural(len(files), 'image')}"
    return Preview(reads, str(out or "nothing"), an_image * len(files), settings, unchecked)


def _written(predictions: FilePredictions, out: Path | None) -> FilePredictions:
    """Return the predictions, after a warning of unlike images, and writing a table if there is a file to write."""
    if unlike := [p.file for p in predictions.predictions if p.is_unlike]:
        log.warning(
            "%s unlike the training data (first %s), farther off than 99 of 100 validation images: what the classifier"
            " says of such images means little",
            f"{len(unlike)} of {plural(len(predictions.predictions), 'image')} {'is' if len(unlike) == 1 else 'are'}",
            unlike[0],
        )
    if out is not None:
        write_text(out, predictions.to_csv())
        log.info("wrote %s", out)
    return predictions


def _of_classes(file: Path, score: Array, classes: Sequence[str], novelty: float | None) -> ImagePrediction:
    """Return the most likely class, with the probability of each, for a score (C,)."""
    probabilities = dict(zip(classes, score.tolist(), strict=True))
    return ImagePrediction(str(file), classes[int(score.argmax())], probabilities, novelty)


def named_files(path: Path) -> list[Path]:
    """Return the files that a path names: itself, or the images in it."""
    if not path.exists():
        raise BalancerError(f"{path} does not exist; give an image or a folder of images")
    if not path.is_dir():
        return [path]
    if files := image_files(path):
        return files
    raise BalancerError(f"{path} holds no image; expected files such as {' '.join(sorted(SUFFIXES))}")


def read_images(images: Sequence[Path], saved: ClassifierRecord) -> tuple[list[Path], Array]:
    """Return the readable files and their pixels, (n, size, size) or (n, size, size, 3) uint8 as the classifier takes.

    Grey files get three equal channels for a classifier of colour, and colour becomes luminance for one of grey; a
    warning says so. Samples of more than 8 bits have the range of the training. All files share one range where that is
    not known.
    """
    data, trained = saved.config.data, saved.ranges or {}
    rules = DicomRules.of(data)
    files: list[Path] = []
    decoded: list[Decoding] = []
    converted = 0
    for path in images:
        candidates = named_files(path)
        for note in left_out_note(strays(path, candidates, path)) if path.is_dir() else ():
            log.warning("%s: %s", path, note)
        for file in progress.each(candidates, f"reading {path.name}", "image"):
            try:
                decoded.append(decode_image(file, data.image_size, data.resize, trained, rules, saved.channels))
                files.append(file)
                converted += is_converted(file, decoded[-1].source, saved.channels, rules)
            except OSError as error:
                if not path.is_dir():
                    raise BalancerError(f"{file} is not a readable image ({error})") from error
                log.warning("left out: %s cannot be read (%s)", file, error)
    if not decoded:
        raise BalancerError(f"none of {len(images)} path(s) gave a readable image; give PNG or JPEG files, or a folder")
    if converted:
        which = f"{converted} of {plural(len(files), 'image')} {'is' if converted == 1 else 'are'}"
        log.warning(CONVERTED[saved.channels], which)
    own = shared_ranges([d.source for d in decoded if d.source.kind not in trained])
    _warn_of_own_ranges(own, saved.ranges)
    dim = [str(file) for file, d in zip(files, decoded, strict=True) if is_dim(d.source, {**own, **trained})]
    for note in depth_notes({}, dim) + beyond_notes(
        {str(file): d.source for file, d in zip(files, decoded, strict=True)}, trained
    ):
        log.warning(note)
    for i, file in enumerate(files):
        if decoded[i].source.kind in own and is_off_range(decoded[i].source, own):
            decoded[i] = decode_image(file, data.image_size, data.resize, own, rules, saved.channels)
    return files, np.stack([d.pixels for d in decoded])
