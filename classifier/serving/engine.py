"""From an uploaded file to what the models say of it. All of this runs in one thread: the networks are shared."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balancer.core.errors import nearest
from balancer.data.dataset import Dataset
from balancer.data.depth import Decoding, is_dim, shared_ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.images import decode_image, is_converted
from classifier.evaluation.thresholds import decide, with_temperature
from classifier.explain.heatmaps import explain
from classifier.explain.methods import METHODS
from classifier.explain.pictures import heat_rgba
from classifier.serving import answers
from classifier.serving.limits import Limits
from classifier.serving.models import ServedModel
from classifier.serving.pictures import data_url
from classifier.serving.uploads import Picture, Refused, examine
from classifier.training.prediction import predict_with_features
from classifier.training.record import ClassifierRecord

Array = np.ndarray
SHOWN = 512  # px: the side of the picture that heat maps lie on
SMOOTH = 256  # px: the least side of a heat map as a picture


@dataclass(frozen=True)
class HeatMapRequest:
    """Which heat maps are wanted."""

    method: str = "gradcam"
    class_name: str | None = None  # None: the class that each model calls
    values: bool = False  # also as numbers


def answer(
    content: bytes,
    models: Sequence[ServedModel],
    limits: Limits,
    heat_map: HeatMapRequest | None = None,
    training: Dataset | None = None,
) -> answers.Answer:
    """Return what models say of an image file.

    Args:
        content: of the file.
        models: to ask, in this order.
        limits: of what is read.
        heat_map: which heat maps to add, with the pictures that a page shows; None for none.
        training: the training images, if those near the upload are to be shown.

    Raises:
        Refused: if the file cannot be read, or method or class is unknown.
    """
    if heat_map is not None:
        _check(heat_map, models)
    picture = examine(content, limits)
    predictions = [_predict(content, model, heat_map, training) for model in models]
    pictures = {}
    if heat_map is not None:
        for how in dict.fromkeys(prediction.shape for prediction in predictions):
            pictures[how] = _shown(content, picture, how, models[0].saved)
    image = answers.ImageFacts(picture.format, picture.width, picture.height)
    return answers.Answer(answers.NOTICE, image, predictions, pictures)


def _check(wanted: HeatMapRequest, models: Sequence[ServedModel]) -> None:
    if wanted.method not in METHODS:
        raise Refused(422, f"method is {wanted.method[:80]!r}; {nearest(wanted.method[:80], METHODS)}")
    classes = models[0].classes
    if wanted.class_name is not None and wanted.class_name not in classes:
        raise Refused(422, f"class is {wanted.class_name[:80]!r}; expected one of {', '.join(classes)}")


def decoded(content: bytes, size: int, how: str, saved: ClassifierRecord) -> Decoding:
    """Return an image file at a working size, as `classifier predict` reads it for a classifier.

    Raises:
        Refused: if it cannot be decoded.
    """
    try:
        rules = DicomRules.of(saved.config.data)
        return decode_image(io.BytesIO(content), size, how, saved.ranges or {}, rules, saved.channels)
    except OSError as error:
        reason = str(error).encode("ascii", "replace").decode()[:120]
        raise Refused(422, f"the image cannot be read ({reason}); export it again") from error


def _shown(content: bytes, picture: Picture, how: str, saved: ClassifierRecord) -> answers.ShownPicture:
    """Return the upload as a square, in which a heat map's places are those of the network."""
    pixels = decoded(content, min(SHOWN, max(picture.width, picture.height)), how, saved).pixels
    return answers.ShownPicture(data_url(pixels), picture.width / picture.height if how == "squash" else 1.0)


def _predict(
    content: bytes, model: ServedModel, heat_map: HeatMapRequest | None, training: Dataset | None
) -> answers.Prediction:
    saved = model.saved
    data = saved.config.data
    image = decoded(content, data.image_size, data.resize, saved)
    scores, features = predict_with_features(saved.model, image.pixels[None], saved.config, model.device)
    calibrated = with_temperature(scores, saved.temperature)
    label = int(scores[0].argmax()) if scores.ndim == 2 else int(_is_positive(model, scores))
    return answers.Prediction(
        model=model.name,
        label=model.classes[label],
        probabilities=[
            answers.ClassProbability(*values)
            for values in zip(model.classes, _of_classes(calibrated), _of_classes(scores), strict=True)
        ],
        threshold=model.facts.threshold,
        familiarity=_familiarity(model, features, training),
        notes=_notes(model, image, content),
        shape=data.resize,
        heat_map=None if heat_map is None else _heat_map(model, image.pixels, label, heat_map),
        input_picture=None if heat_map is None else data_url(image.pixels),
    )


def _is_positive(model: ServedModel, scores: Array) -> bool:
    return bool(decide(scores, model.saved.temperature, model.saved.uncalibrated_threshold)[0])


def _of_classes(scores: Array) -> list[float]:
    """Return the probability of each class for the scores (1,) or (1, C) of one image."""
    probabilities: list[float] = scores[0].tolist() if scores.ndim == 2 else [1 - float(scores[0]), float(scores[0])]
    return probabilities


def _familiarity(model: ServedModel, features: Array, training: Dataset | None) -> answers.Familiarity | None:
    reference = model.saved.reference
    if reference is None:
        return None
    novelty = reference.novelty(features)
    neighbours = []
    for row, distance in zip(novelty.nearest, novelty.distances, strict=True):
        label = model.classes[int(reference.labels[row])]
        shown = None if training is None else data_url(training.images[int(reference.positions[row])])
        neighbours.append(answers.Neighbour(label, distance, shown))
    return answers.Familiarity(novelty.is_unlike, novelty.distance, novelty.limit, neighbours)


def _notes(model: ServedModel, image: Decoding, content: bytes) -> list[str]:
    """Return what a reader must know of how the image was read, and of the model."""
    source, saved = image.source, model.saved
    ranges, rules = saved.ranges or {}, DicomRules.of(saved.config.data)
    notes = [answers.DRAWINGS] if model.facts.trained_on_drawings else []
    if is_converted(io.BytesIO(content), source, saved.channels, rules):
        notes.append(answers.CONVERTED[saved.channels])
    if source.kind and source.kind not in ranges:
        notes.append(
            "The image has more than 8 bits a sample, and the model knows no range for such images: the range of this"
            " image alone was used."
        )
    if source.kind in ranges and source.peak > ranges[source.kind]:
        notes.append("Samples above the range of the training are shown, and were read, as white.")
    if is_dim(source, {**shared_ranges([source]), **ranges}):
        notes.append("The image uses little of its range and is nearly black.")
    return notes


def _heat_map(model: ServedModel, pixels: Array, label: int, wanted: HeatMapRequest) -> answers.HeatMap:
    target = label if wanted.class_name is None else model.classes.index(wanted.class_name)
    maps = explain(model.saved, pixels[None], wanted.method, target)
    values = maps.maps[0]
    return answers.HeatMap(
        class_name=model.classes[target],
        method=wanted.method,
        layer=maps.layer,
        cells=maps.cells,
        is_empty=bool(maps.empty[0]),
        picture=data_url(heat_rgba(values, SMOOTH)),
        values=[[round(float(v), 4) for v in row] for row in values] if wanted.values else None,
    )
