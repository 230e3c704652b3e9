"""What an audit finds: the content of ``audit.json``, key by key."""

from __future__ import annotations

from dataclasses import dataclass, field

from balancer.core.files import JsonObject
from balancer.metrics.resampling import AurocInterval

ByClass = dict[str, int]  # images of each class


@dataclass(frozen=True)
class Counts:
    """Images by class in the official splits, and in the folds in use."""

    splits: dict[str, ByClass]
    folds: dict[str, ByClass]


@dataclass(frozen=True)
class Sides:
    """The names of two sets of folds or splits that must share nothing."""

    left: str
    right: str


@dataclass(frozen=True)
class SharedPatients(Sides):
    """Patients with images on both sides, by class, and their images on the left and on the right."""

    patients: ByClass
    images: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class SharedFiles(Sides):
    """Groups of identical files with a file on both sides."""

    groups: int


@dataclass(frozen=True)
class SharedPairs(Sides):
    """Near duplicates with one image on each side."""

    pairs: int


@dataclass(frozen=True)
class ImageLevelSplit:
    """What a random split by image would leak."""

    fraction: float  # share of images taken for validation
    expected: float | None  # share of these with a training image of the same patient; None without training images


@dataclass(frozen=True)
class PatientKey:
    """Patients under one key; ``train_...`` count the official training split."""

    patients: int
    train_patients: int
    train_several: int  # patients with more than one image
    train_images_of_several: int
    train_most: int  # images of the patient with most
    image_level: ImageLevelSplit
    splits: list[SharedPatients]
    folds: list[SharedPatients]


@dataclass(frozen=True)
class Patients:
    """The patients that are known, under both keys of :mod:`balancer.audit.findings`; None where none is known.

    Where numbers do not restart, an image has one patient for certain, and the cautious key is None.
    """

    images: int
    named: int  # images whose patient is known
    narrow: PatientKey | None
    cautious: PatientKey | None


@dataclass(frozen=True)
class IdenticalGroup:
    """Files that are equal byte by byte."""

    names: list[str]
    splits: list[str]
    folds: list[str]
    classes: list[str]
    patients: list[str]  # sorted, once each

    @property
    def crosses(self) -> bool:
        """Return whether the files differ in patient, split or class."""
        return any(len(set(values)) > 1 for values in (self.patients, self.splits, self.classes))


@dataclass(frozen=True)
class IdenticalFiles:
    """All groups of identical files, and how many of them cross a border."""

    groups: int
    files: int
    in_split: dict[str, int]  # groups that lie within one official split
    across_splits: int
    across_patients: int
    label_conflicts: int  # groups under two classes or more
    folds: tuple[SharedFiles, ...]
    list: tuple[IdenticalGroup, ...]


@dataclass(frozen=True)
class NearPair:
    """Two images that look alike."""

    names: tuple[str, str]
    folds: tuple[str, str]
    classes: tuple[str, str]
    same_patient: bool | None  # None where a name tells no patient
    correlation: float  # once aligned
    bits: int  # of 256 in which the perceptual hashes differ


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of images that show one exposure twice, and pairs that come close to it, the most similar first."""

    compared: int
    blank: int
    candidates: int
    verified: int
    threshold: float  # correlation from which a pair is a near duplicate
    suspect_threshold: float  # correlation from which a pair of different patients is to be looked at
    copies: list[NearPair]
    same_patient: int  # copies of one patient
    across_classes: int  # copies under two classes
    folds: list[SharedPairs]
    suspects: list[NearPair]
    unrelated_most: float | None  # highest correlation of different patients below the suspects
    closest: list[NearPair]  # below the threshold

    def shown(self, most: int) -> list[NearPair]:
        """Return the pairs to look at: at most so many copies, then of suspects, then of the closest others."""
        pairs = [*self.copies[:most], *self.suspects[:most], *self.closest[: max(0, most - len(self.copies))]]
        return list({pair.names: pair for pair in pairs}.values())


@dataclass(frozen=True)
class PropertyResult:
    """What one property of an image tells; an AUROC above .5 means larger in the second class, or in test."""

    key: str
    words: str
    medians: dict[str, float | None]  # by class, in the official training split
    constant: bool
    classes: AurocInterval | None  # for the class; None where the property does not vary
    working: AurocInterval | None  # the same on the working images; None where they have no such property
    shift: dict[str, AurocInterval | None]  # for test against train, by class
    # Of more than two classes, each against the rest; on the files or, without files, on the working images.
    one_against_rest: dict[str, AurocInterval | None] = field(default_factory=dict)
    working_against_rest: dict[str, AurocInterval | None] = field(default_factory=dict)


@dataclass(frozen=True)
class JointResult(AurocInterval):
    """AUROC of a logistic regression on all properties, cross-validated by patient.

    Of more than two classes this is the mean over the classes, each against the rest.
    """

    folds: int
    properties: list[str]


@dataclass(frozen=True)
class Shortcuts:
    """How well the classes can be separated without looking at the anatomy, in the official training split."""

    from_files: bool  # measured on the files at their own size, else on the working images
    image_size: int  # pixels a side of the working images
    n: ByClass
    n_test: ByClass
    patients: int
    resamples: int
    properties: list[PropertyResult]
    together: JointResult | None  # None with too few patients
    together_working: JointResult | None


@dataclass(frozen=True)
class Sources:
    """Where the images of the official training split come from, and how well that alone tells the class."""

    name: str  # such as "column site"
    counts: dict[str, ByClass]  # by source, the largest first
    told: (
        AurocInterval | None
    )  # AUROC of the class by its share in the source; None with too few patients or one source
    folds: int  # of the cross-validation by patient; 0 without it


@dataclass(frozen=True)
class Audit:
    """What in a data set can make a result look better than it is."""

    data: JsonObject  # facts on the data set, as in env.json; its ``notes`` are for every reader
    counts: Counts
    patients: Patients
    identical: IdenticalFiles
    near: NearDuplicates
    shortcuts: Shortcuts
    sources: Sources | None = None  # None where the data name none

    @property
    def classes(self) -> list[str]:
        """Return the classes in label order."""
        return list(self.counts.folds["train"])
