"""What the REST interface answers, as records: FastAPI makes JSON and the OpenAPI description of them."""

from __future__ import annotations

from dataclasses import dataclass

from balancer.reporting.document import Document

NOTICE = "Research only, not for clinical use."
CONVERTED = {  # by the channels of the model
    1: "The image is in colour, and this model knows grey images alone: it was read in grey.",
    3: "The image has no colour, and this model was trained on images in colour: its three channels are equal.",
}
DRAWINGS = "This model was trained on drawings, not X-rays: what it says means nothing for a patient."


@dataclass(frozen=True)
class TestFigures:
    """How well a model did on its own test images."""

    images: int
    auroc: float
    sensitivity: float | None  # at the threshold; none with more than two classes
    specificity: float | None


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it sees an image."""

    name: str
    network: str
    regime: str
    trial_seed: int
    classes: tuple[str, ...]
    image_size: int  # px: the network sees squares of this side
    threshold: float | None  # on calibrated probabilities of the last class; none with more than two classes
    threshold_rule: str  # as the settings name it
    threshold_purpose: str  # what the threshold was chosen for
    temperature: float
    trained_on_drawings: bool
    knows_training_data: bool  # whether it can tell an image unlike its training data
    test: TestFigures | None  # of the run that the model lies in; none without one


@dataclass(frozen=True)
class Service:
    """What is served."""

    notice: str
    version: str
    models: list[ModelFacts]
    methods: dict[str, str]  # of heat maps: name and title
    most_megabytes: float
    most_megapixels: float
    shows_training_images: bool


@dataclass(frozen=True)
class ImageFacts:
    """What an upload holds."""

    format: str
    width: int
    height: int


@dataclass(frozen=True)
class ClassProbability:
    """The probability of a class."""

    name: str
    calibrated: float
    uncalibrated: float  # as the network gives it, without the temperature


@dataclass(frozen=True)
class Neighbour:
    """A training image near the upload in the classifier's features."""

    label: str
    distance: float
    picture: str | None  # a PNG as a data URL; only under --show-training


@dataclass(frozen=True)
class Familiarity:
    """How far the upload lies from the training data in the classifier's features."""

    unlike_training_data: bool  # farther off than 99 of 100 validation images
    distance: float
    limit: float
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class HeatMap:
    """Where the network saw evidence for a class."""

    class_name: str
    method: str
    layer: str | None
    cells: tuple[int, int]  # rows and columns that the method can tell apart
    is_empty: bool  # nothing speaks for the class
    picture: str  # a PNG as a data URL, transparent where there is no evidence
    values: list[list[float]] | None  # rows of numbers in [0, 1]; only where they are asked for


@dataclass(frozen=True)
class Prediction:
    """What one model says of the upload."""

    model: str
    label: str
    probabilities: list[ClassProbability]  # in the order of the classes
    threshold: float | None
    familiarity: Familiarity | None  # none: an earlier version made the model
    notes: list[str]
    shape: str  # key of the answer's pictures
    heat_map: HeatMap | None
    input_picture: str | None  # a PNG as a data URL: the pixels that the network got


@dataclass(frozen=True)
class ShownPicture:
    """The upload in the shape that heat maps lie on."""

    picture: str  # a PNG as a data URL, square
    aspect_ratio: float  # width over height as it should be shown


@dataclass(frozen=True)
class Answer:
    """What the models say of an upload."""

    notice: str
    image: ImageFacts
    predictions: list[Prediction]
    pictures: dict[str, ShownPicture]  # by shape: squash, pad or crop; none without heat maps


@dataclass(frozen=True)
class Example:
    """An image to try."""

    number: int
    label: str
    thumbnail: str  # a PNG as a data URL


@dataclass(frozen=True)
class CardSection:
    """A part of a model card."""

    title: str
    paragraphs: list[str]
    bullets: list[str]
    header: list[str]  # of the table; empty without one
    rows: list[list[str]]


@dataclass(frozen=True)
class Card:
    """The model card: what a model was made from, how it did, and what it is not for."""

    title: str
    sentences: list[str]  # warnings, the verdict and its reasons
    sections: list[CardSection]

    @classmethod
    def of(cls, document: Document) -> Card:
        """Return the text and the tables of a document."""
        sections = [
            CardSection(
                part.title,
                part.paragraphs,
                part.bullets,
                part.table.header if part.table else [],
                part.table.rows if part.table else [],
            )
            for part in document.sections
        ]
        first = [*document.warnings, document.answer, *document.headline, *document.caveats, *document.introduction]
        return cls(document.title, [sentence for sentence in first if sentence], sections)


@dataclass(frozen=True)
class Health:
    """Whether the service answers."""

    status: str
    models: int
    version: str


@dataclass(frozen=True)
class Problem:
    """Why a request was refused, in one line."""

    detail: str
