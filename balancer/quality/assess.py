"""How good a set of synthetic images is: each figure beside the same figure between two sets of real images.

Sets of images go in, a :class:`~balancer.quality.results.QualityReport` comes out; nothing is written here. Every
figure depends on the number of images. So all are taken from the same three sides of equal size, drawn once per
reference: real images, other real images of other patients (the real baseline), and synthetic images.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from balancer.core.errors import BalancerError
from balancer.core.pixels import COLOUR, channels_of
from balancer.core.seeding import derive_seed
from balancer.core.settings import QualityConfig
from balancer.core.speed import slowness
from balancer.core.threads import allowed_processors
from balancer.data.records import sampling_unit
from balancer.metrics import spectrum, two_sample
from balancer.metrics.chance import MOST
from balancer.metrics.feature_choice import Choice
from balancer.metrics.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    chest_xray,
    extract,
    inception,
    inception_weights,
    random_conv,
    random_subset,
)
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_chance, kernel_distance
from balancer.metrics.manifold import NEIGHBOURS, manifold_overlap, recall_chance
from balancer.metrics.memorization import MOST_ASKED, Memorization, memorization
from balancer.quality.results import (
    HALF_SIZE,
    OTHER_REAL,
    PIXELS,
    SYNTHETIC,
    DistanceRow,
    QualityReport,
    SetDistance,
    ShiftRow,
    SpectrumComparison,
    TwoSampleRow,
)
from balancer.quality.sides import Comparison, ImageSet, Side, comparisons, equals, same_images, shift_sides, unseen

Array = np.ndarray
ResultT = TypeVar("ResultT")
MOST_OVERLAP = 20_000  # images a side, each of which is compared with each other
NOT_FIDS = "The distances here use other networks, named beside each figure, and are not FIDs."
NO_FID = (
    "FID was not computed: the Inception weights are not in the torch hub cache and could not be downloaded. "
    f"To get FID, put {INCEPTION_FILE} (from the torch-fidelity releases) into the cache's checkpoints folder, or give "
    f"--inception-weights FILE. {NOT_FIDS}"
)
FID_OFF = f"FID was not computed: --inception-weights is off. {NOT_FIDS}"


def assess(
    settings: QualityConfig,
    train: ImageSet,
    held_out: ImageSet | None,
    fake: Array,
    device: torch.device,
    test: ImageSet | None = None,
    choice: Choice | None = None,
    as_read: Array | None = None,
) -> QualityReport:
    """Return every figure on synthetic images, with notes on what could not be computed and why.

    Args:
        settings: networks, number and size of KID's subsets, seed, and whether to run two-sample tests.
        train: what the generator learnt from. Copies are searched for here. Half of its patients are a reference, and
            the other half the real baseline.
        held_out: real images that the generator never saw. They are the main reference, with as many images of
            ``train`` as the real baseline.
        fake: synthetic images (n, H, W) or (n, H, W, 3) uint8.
        device: where the feature networks and the two-sample test on pixels run.
        test: an official test set, only to show how far the parts of the data set lie apart.
        choice: the trained feature network; None for the one that ships with the package.
        as_read: the synthetic images before they were coded as the real ones are; None where they were not. Equal
            images are looked for among these too.
    """
    choice = choice or Choice(chest_xray(device))
    notes: list[str] = list(choice.notes)
    held_out = unseen(train, held_out, notes)
    compared = comparisons(settings, train, held_out, len(fake), notes)
    networks = _networks(choice, settings.inception, device, notes, channels_of(fake))
    notes += _count_notes(settings, networks, compared)
    shift = shift_sides(settings, train, test)
    features = [_Features(network, compared, shift or (), fake, device) for network in networks]
    main = next((c for c in reversed(compared) if c.other), None)  # the held-out images, if there are any
    if held_out is None and main:
        notes.append(
            f"No held-out images: the synthetic images are compared with {train.name}, which the generator may have "
            "seen. The figures can be too good."
        )
    return QualityReport(
        n_fake=len(fake),
        reference=main.reference if main else None,
        same_images=same_images(fake, [s for s in (held_out, train) if s], as_read),
        held_out_copies=int(equals(fake, held_out, as_read).sum()) if held_out else 0,
        distances=[_distance_row(settings, f, c) for f in features for c in compared],
        shift=[_shift_row(settings, f, *shift) for f in features if shift],
        memorization=_if_possible("memorisation", notes, lambda: _memorization(train, held_out, fake, as_read, notes)),
        two_sample=_two_sample(settings, features, main, fake, device, notes) if main and settings.two_sample else [],
        spectrum=_if_possible("spectrum", notes, lambda: _spectrum(settings, main, fake)) if main else None,
        notes=notes,
        unit=sampling_unit(train.groups),
        own_network=choice.own,
    )


def report_seconds(settings: QualityConfig, side: int, images: int) -> float:
    """Return a rough estimate: the time on one core of the reference machine, scaled to the speed of this one.

    Features and the search for copies cost time per image, the tests on pixels, each with its control, by the images'
    size. The tests run side by side, and the longest decides where processors are many.
    """
    tests = [2 * two_sample.estimate_pixel_seconds(s) for s in (side, side // 2)] if settings.two_sample else [0.0]
    longest, at_once = max(tests) / 2, tests_at_once(torch.device("cpu"))
    return (15 + 0.01 * images + max(longest, sum(tests) / at_once)) * slowness()


def _if_possible(what: str, notes: list[str], compute: Callable[[], ResultT]) -> ResultT | None:
    """Return a part of the report, or None with a note where these images cannot give it."""
    try:
        return compute()
    except BalancerError as error:
        note = f"No {what}: {error}."
        notes += [note] if note not in notes else []
        return None


def _networks(
    choice: Choice, weights: str, device: torch.device, notes: list[str], channels: int
) -> list[FeatureNetwork]:
    path = inception_weights(weights)
    if path is None:
        notes.append(FID_OFF if weights == "off" else NO_FID)
    trained = [choice.network] if choice.network else []
    networks = [*trained, random_conv(device, channels), *([inception(path, device)] if path else [])]
    if channels == COLOUR:
        blind = [f"`{network.name}`" for network in networks if not network.sees_colour]
        notes.append(
            f"The images are in colour. Spectra and the search for near copies{' and ' * bool(blind)}"
            f"{' and '.join(blind)} use their luminance, which differences of colour alone do not change."
        )
    return networks


class _Features:
    """Features on one network, computed once, of the images that the sides use.

    Of a large set these are a few. Where they are more than half of a set, features of all its images are kept on disk:
    other seeds and counts draw other images, and a later report then finds all of them.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        compared: list[Comparison],
        shift: Sequence[Side],
        fake: Array,
        device: torch.device,
    ) -> None:
        self.network = network
        sides = [*shift, *(side for c in compared for side in (c.real, c.other) if side)]
        self._real = {}
        for name, source in {side.source.name: side.source for side in sides}.items():
            used, n = _union([side.positions for side in sides if side.source.name == name]), len(source.images)
            used, images = (np.arange(n), source.images) if 2 * len(used) > n else (used, source.images[used])
            self._real[name] = used, extract(network, images, device, name, keep=True)
        used = _union([c.fake for c in compared])
        self._fake = used, extract(network, fake[used], device, "synthetic")

    def of(self, side: Side) -> Array:
        return _rows_of(*self._real[side.source.name], side.positions)

    def of_fake(self, positions: Array) -> Array:
        return _rows_of(*self._fake, positions)


def _union(positions: list[Array]) -> Array:
    return np.unique(np.concatenate(positions)) if positions else np.arange(0)


def _rows_of(used: Array, features: Array, positions: Array) -> Array:
    rows: Array = features[np.searchsorted(used, positions)]
    return rows


def _distance_row(settings: QualityConfig, features: _Features, c: Comparison) -> DistanceRow:
    real, fake = features.of(c.real), features.of_fake(c.fake)
    synthetic = _distance(settings, real, fake)
    baseline = _distance(settings, real, features.of(c.other)) if c.other else None
    return DistanceRow(
        **vars(synthetic),
        features=features.network.name,
        frechet_name="FID" if features.network.name == "inception-2048" else "Fréchet distance",
        reference=c.reference,
        n_real=len(c.fake),
        n_fake=len(c.fake),
        kid_subsets=settings.kid_subsets,
        kid_subset_size=kid_subset_size(settings, len(c.fake)),
        frechet_real_baseline=baseline.frechet if baseline else None,
        kid_real_baseline=baseline.kid if baseline else None,
        kid_sd_real_baseline=baseline.kid_sd if baseline else None,
        overlap_real_baseline=baseline.overlap if baseline else None,
        kid_chance=kernel_chance(*_shuffled(real, fake, settings.seed), settings.seed) if baseline else None,
        recall_chance=(
            recall_chance(*_shuffled(real, fake, settings.seed), settings.seed)
            if baseline and synthetic.overlap
            else None
        ),
    )


def _shuffled(real: Array, fake: Array, seed: int) -> tuple[Array, Array]:
    """Return both sets of features in random order: names sort images by source, and the first ones may be unlike."""
    order = np.random.default_rng(derive_seed(seed, "chance")).permutation(len(real))
    return real[order], fake[order]


def _count_notes(settings: QualityConfig, networks: list[FeatureNetwork], comparisons: list[Comparison]) -> list[str]:
    """Return what small counts do to distances."""
    notes = []
    for c in comparisons:
        n = len(c.fake)
        size, many = kid_subset_size(settings, n), [network.name for network in networks if n <= network.dim]
        if size < settings.kid_subset_size:
            notes.append(
                f"KID against {c.reference}: with {n} images a side its subsets hold {size} images, not "
                f"{settings.kid_subset_size}."
            )
        if n > MOST_OVERLAP:
            notes.append(
                f"Precision, recall, density and coverage against {c.reference} are those of {MOST_OVERLAP:,} of the"
                f" {n:,} images a side: they compare every image with every other."
            )
        if c.other and n > MOST:
            notes.append(
                f"What chance does to KID and recall against {c.reference} was drawn with {MOST:,} of the {n:,} images"
                " a side, so a small difference may pass for chance."
            )
        if many:
            notes.append(
                f"Fréchet distance to {c.reference}: {n} images a side are no more than the features of "
                f"{', '.join(many)}, which biases the distance upwards. Compare it only with its real baseline, or at "
                "the same number of images. KID is unbiased."
            )
    return notes


def kid_subset_size(settings: QualityConfig, n: int) -> int:
    """Return the number of images per KID subset: the setting, or half of the images there are.

    Subsets of all images would be equal and show an SD of 0.
    """
    return min(settings.kid_subset_size, max(2, n // 2))


def _distance(settings: QualityConfig, real: Array, other: Array) -> SetDistance:
    """Return distances and overlap of two sets of features (n, dim)."""
    size = kid_subset_size(settings, len(real))
    kid = kernel_distance(real, other, settings.kid_subsets, size, settings.seed)
    overlap = manifold_overlap(*_drawn(settings, real, other)) if len(real) > NEIGHBOURS else None
    return SetDistance(frechet_distance(real, other), kid.mean, kid.sd, overlap)


def _drawn(settings: QualityConfig, real: Array, other: Array) -> tuple[Array, Array]:
    """Return the features of each side whose neighbours are sought, as many of both: all, or MOST_OVERLAP of them."""
    if len(real) <= MOST_OVERLAP:
        return real, other
    first, second = (random_subset(len(real), MOST_OVERLAP, settings.seed, "overlap", side) for side in ("a", "b"))
    return real[first], other[second]


def _shift_row(
    settings: QualityConfig, features: _Features, train: Side, test: Side, first: Side, second: Side
) -> ShiftRow:
    shift = _distance(settings, features.of(train), features.of(test))
    baseline = _distance(settings, features.of(first), features.of(second))
    return ShiftRow(
        **vars(shift),
        features=features.network.name,
        reference=f"{train.source.name} against {test.source.name}",
        n=len(train.positions),
        frechet_real_baseline=baseline.frechet,
        kid_real_baseline=baseline.kid,
        overlap_real_baseline=baseline.overlap,
    )


def _memorization(
    train: ImageSet, held_out: ImageSet | None, fake: Array, as_read: Array | None, notes: list[str]
) -> Memorization:
    """Search for copies, with held-out patients as the baseline where there are two, else other training patients."""
    exact = equals(fake, train, as_read)
    if held_out is None or len(set(held_out.groups)) < 2:
        result = memorization(train.images, fake, train_groups=train.groups, exact=exact)
    else:
        result = memorization(train.images, fake, held_out.images, train.groups, held_out.groups, exact=exact)
    for real in (train, held_out):
        if real and (patients := len(set(real.groups))) > MOST_ASKED:
            notes.append(
                f"How near {sampling_unit(real.groups)}s of {real.name} lie to training images was asked of"
                f" {MOST_ASKED:,} of {patients:,}. Every synthetic image was compared with every training image."
            )
    return result


def _two_sample(
    settings: QualityConfig,
    features: list[_Features],
    c: Comparison,
    fake: Array,
    device: torch.device,
    notes: list[str],
) -> list[TwoSampleRow]:
    """Train classifiers to separate the sides, on each network's features and on pixels.

    Each classifier has a control: the same test with other real images in place of the synthetic ones.
    """
    assert c.other is not None, "the main comparison has a real baseline"
    stop = threading.Event()
    logistic, pixel = two_sample.logistic_two_sample, partial(two_sample.pixel_two_sample, device=device, stop=stop)
    tests: list[tuple[str, Callable[..., two_sample.TwoSample], Array, Array, Array]] = [
        *((f.network.name, logistic, f.of(c.real), f.of_fake(c.fake), f.of(c.other)) for f in features),
        (PIXELS, pixel, c.real.images, fake[c.fake], c.other.images),
    ]
    if min(fake.shape[1:3]) >= 2 * two_sample.SMALLEST_SIDE:
        tests.append((HALF_SIZE, pixel, halved(c.real.images), halved(fake[c.fake]), halved(c.other.images)))
    with _side_by_side(device, stop) as pool:
        begun = []
        for on, test, real, synthetic, other in tests:
            against = partial(test, real, groups=c.real.groups, seed=settings.seed)
            control = partial(against, other, other_groups=c.other.groups)
            begun.append((on, pool.submit(against, synthetic), pool.submit(control)))
        return [row for test in begun for row in _rows(*test, c.reference, notes)]


def _rows(
    on: str,
    synthetic: Future[two_sample.TwoSample],
    other: Future[two_sample.TwoSample],
    reference: str,
    notes: list[str],
) -> Iterator[TwoSampleRow]:
    """Yield the outcomes of a test and of its control, each with a note instead where these images cannot give it."""
    result, control = (_if_possible("two-sample test", notes, outcome.result) for outcome in (synthetic, other))
    for compared, outcome, beside in ((SYNTHETIC, result, control), (OTHER_REAL, control, None)):
        if outcome:
            words = two_sample.interpretation(outcome, beside)
            yield TwoSampleRow(**vars(outcome), on=on, compared=compared, reference=reference, interpretation=words)


def tests_at_once(device: torch.device) -> int:
    """Return how many tests run side by side: as many as processors allow, each with the threads of this one."""
    return max(1, allowed_processors() // torch.get_num_threads()) if device.type == "cpu" else 1


@contextlib.contextmanager
def _side_by_side(device: torch.device, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Yield what runs tests in threads, since torch works without the interpreter's lock.

    Each test computes what it would compute alone. Where the block ends with an error or a signal, ``stop`` is set.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(tests_at_once(device), initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def halved(images: Array) -> Array:
    """Return images (n, H, W) or (n, H, W, 3) uint8 at half the size, (n, H // 2, W // 2) or (n, H // 2, W // 2, 3).

    Each pixel is the mean of 2 x 2 pixels, which no checkerboard survives.
    """
    n, height, width, *colours = images.shape
    blocks = images[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, *colours)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _spectrum(settings: QualityConfig, c: Comparison, fake: Array) -> SpectrumComparison:
    assert c.other is not None, "the main comparison has a real baseline"
    n, result = len(c.fake), spectrum.compare_spectra(c.real.images, fake[c.fake], c.other.images, settings.seed)
    return SpectrumComparison(**vars(result), n_real=n, n_fake=n, interpretation=spectrum.interpretation(result))
