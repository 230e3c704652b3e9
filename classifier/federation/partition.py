"""A simulated federation: the patients of the training and the validation fold, dealt out to sites."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from balancer.core.errors import BalancerError, UsageError
from balancer.core.sealed import read_with_sum, write_with_sum
from balancer.core.seeding import derive_seed
from balancer.data.dataset import Dataset
from balancer.data.records import sampling_unit
from balancer.data.split import DEVELOPMENT
from balancer.data.thinning import UNUSED
from balancer.reporting.numbers import listed, plural

Array = np.ndarray
FILE = "sites.csv"
NOWHERE = -1  # the site of an image that no site has
USUAL_SITES = 3  # of label skew


@dataclass(frozen=True)
class Partition:
    """Which site has which image."""

    names: tuple[str, ...]
    sites: Array  # (n,) the site of each image of the training and the validation fold; NOWHERE for the others

    def title(self, site: int) -> str:
        """Return what messages call a site."""
        number, name = f"site {site}", self.names[site]
        return number if name == number else f"{number} ({name})"

    def data_of(self, data: Dataset, site: int, with_test: bool = False) -> Dataset:
        """Return the data of one site: the same images, of which all others are in no fold.

        The test images are in no fold either, unless ``with_test``: a site never needs them.
        """
        mine = self.sites == site
        if with_test:
            mine |= data.folds == "test"
        return replace(data, folds=np.where(mine, data.folds, UNUSED))

    def write(self, path: Path, data: Dataset) -> None:
        """Write the site of each image."""
        buffer = io.StringIO()
        rows = csv.writer(buffer, lineterminator="\n")
        rows.writerow(["name", "fold", "site"])
        rows.writerows(
            [record.name, fold, int(site)]
            for record, fold, site in zip(data.records, data.folds.tolist(), self.sites, strict=True)
        )
        write_with_sum(path, buffer.getvalue())


def read_sites(path: Path) -> Array:
    """Return the site (n,) of each image that :meth:`Partition.write` wrote."""
    return np.array([int(row["site"]) for row in csv.DictReader(io.StringIO(read_with_sum(path)))])


def by_source(data: Dataset, sites: int | None) -> Partition:
    """Deal out patients by the source of their images, class by class, the largest source first.

    The largest sources of all classes make the first site, the second largest the second, and so on; a source too many
    goes to the sites from the first on again. Of the chest X-rays, IM and bacteria make one site, NORMAL2-IM and virus
    the other. A patient with images of several sites goes where most of them lie.

    Raises:
        UsageError: a class has fewer sources than there are sites.
    """
    known = np.isin(data.folds, DEVELOPMENT)
    of_class: list[list[str]] = []
    for label in range(len(data.classes)):
        counts = Counter(data.records[i].source for i in np.flatnonzero(known & (data.labels == label)))
        of_class.append(sorted(counts, key=lambda source: (-counts[source], source)))
    number = sites or min(map(len, of_class))
    for name, sources in zip(data.classes, of_class, strict=True):
        if len(sources) < max(number, 2):
            named = listed([source or "no name" for source in sources]) or "none"
            raise UsageError(
                f"simulate is 'source', and class {name} has {plural(len(sources), 'source')} ({named});"
                f" {max(number, 2)} sites need as many of each class: give --simulate dirichlet, or fewer --sites"
            )
    site_of = {
        (label, source): k % number for label, sources in enumerate(of_class) for k, source in enumerate(sources)
    }
    votes: dict[str, list[int]] = defaultdict(lambda: [0] * number)
    for i in np.flatnonzero(known):
        votes[data.groups[i]][site_of[int(data.labels[i]), data.records[i].source]] += 1
    chosen = {patient: int(np.argmax(count)) for patient, count in votes.items()}
    names = [" + ".join(source for sources in of_class for source in sources[k::number]) for k in range(number)]
    return Partition(tuple(names), _of_images(data, chosen))


def by_dirichlet(data: Dataset, sites: int | None, alpha: float) -> Partition:
    """Deal out patients with label skew (Hsu et al. 2019, arXiv:1909.06335), to sites of equal size.

    Each site draws its shares of the classes from Dirichlet(alpha p), where p are the classes' shares of the patients.
    Then the site with the fewest images draws a class by its shares, among the classes that have patients left, and
    takes a patient of the class. The shares of a site hold for its training and its validation fold. The draws follow
    from the split, so all trial seeds share the sites.
    """
    number = sites or USUAL_SITES
    rng = np.random.default_rng(derive_seed(data_seed(data), "sites"))
    patients: dict[str, dict[str, list[int]]] = {fold: defaultdict(list) for fold in DEVELOPMENT}
    for i in np.flatnonzero(np.isin(data.folds, DEVELOPMENT)).tolist():
        patients[str(data.folds[i])][data.groups[i]].append(i)
    classes = len(data.classes)
    labels = {
        fold: {p: int(np.bincount(data.labels[i], minlength=classes).argmax()) for p, i in of_fold.items()}
        for fold, of_fold in patients.items()
    }
    prior = np.bincount(list(labels["train"].values()), minlength=classes) / max(len(labels["train"]), 1)
    shares = site_shares(prior, number, alpha, rng)
    chosen: dict[str, int] = {}
    for fold, of_fold in patients.items():
        names = sorted(of_fold)
        sizes = [len(of_fold[name]) for name in names]
        dealt = deal([labels[fold][name] for name in names], sizes, shares, rng)
        chosen |= dict(zip(names, dealt, strict=True))
    return Partition(tuple(f"site {k}" for k in range(number)), _of_images(data, chosen))


def data_seed(data: Dataset) -> int:
    """Return a seed that the split of the data gives, so that every trial seed has the same sites."""
    return int(data.split_hash, 16) % 2**31


def site_shares(prior: Array, sites: int, alpha: float, rng: np.random.Generator) -> Array:
    """Return the classes' shares of each site, (sites, classes): a draw each from Dirichlet(alpha prior)."""
    return rng.dirichlet(np.maximum(alpha * prior, 1e-9), sites)


def deal(labels: Sequence[int], sizes: Sequence[int], shares: Array, rng: np.random.Generator) -> list[int]:
    """Return the site of each patient, by its class and its number of images; see :func:`by_dirichlet`."""
    left = [list(rng.permutation(np.flatnonzero(np.asarray(labels) == c))) for c in range(shares.shape[1])]
    images, site_of = np.zeros(len(shares)), [NOWHERE] * len(labels)
    for _ in labels:
        site = int(np.argmin(images))
        there = np.array([bool(pool) for pool in left])
        weights = shares[site] * there
        weights = weights / weights.sum() if weights.sum() > 0 else there / there.sum()
        patient = left[int(rng.choice(len(left), p=weights))].pop()
        site_of[patient] = site
        images[site] += sizes[patient]
    return site_of


def check_sites(data: Dataset, partition: Partition, batch_size: int) -> None:
    """Refuse a partition with a site that cannot train or cannot choose a threshold.

    Raises:
        BalancerError: more sites than patients, a site without images or with one class, or one smaller than a batch.
    """
    number = len(partition.names)
    units = len({data.groups[i] for i in data.indices("train")})
    unit = sampling_unit(data.groups)
    if number > units:
        raise BalancerError(f"{number} sites, and the training fold has {plural(units, unit)}; give fewer --sites")
    for site in range(number):
        check_site(partition.data_of(data, site), partition.title(site), batch_size, "give fewer --sites or")


def check_site(data: Dataset, name: str, batch_size: int, advice: str = "") -> None:
    """Refuse the data of one site that cannot train or cannot choose a threshold.

    Raises:
        BalancerError: naming the fold, and what it holds.
    """
    for fold, words in (("train", "training"), ("val", "validation")):
        counts = data.counts(fold)
        if not all(counts):
            held = listed([f"{n} {cls}" for n, cls in zip(counts, data.classes, strict=True)])
            raise BalancerError(
                f"{name} has {held} {words} images; expected some of each class:"
                f" {advice or 'give'} another split of the images"
            )
    if (images := sum(data.counts("train"))) < batch_size:
        raise BalancerError(
            f"{name} has {plural(images, 'training image')}, a batch has {batch_size}; {advice or 'give'} a smaller"
            " --batch-size"
        )


def _of_images(data: Dataset, site_of: dict[str, int]) -> Array:
    known = np.isin(data.folds, DEVELOPMENT)
    return np.array([site_of[g] if k else NOWHERE for g, k in zip(data.groups, known, strict=True)])
