"""How patients are dealt to sites: by source, and with label skew against scipy; and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memory_data import in_memory
from scipy import stats

from balancer.core.errors import BalancerError, UsageError
from balancer.data.dataset import Dataset
from classifier.federation.partition import (
    NOWHERE,
    Partition,
    by_dirichlet,
    by_source,
    check_sites,
    deal,
    read_sites,
    site_shares,
)

PRIOR = np.array([0.25, 0.75])


def with_patients(data: Dataset, each: int = 2) -> Dataset:
    """The same images, of which so many in a row are of one patient of a fold and class."""
    groups = [
        f"{fold}-{label}-{i // each}" for i, (fold, label) in enumerate(zip(data.folds, data.labels, strict=True))
    ]
    return replace(data, groups=groups)


def with_sources(data: Dataset, *of_class: tuple[str, ...]) -> Dataset:
    """The images of each class come from so many sources in turn, by patient."""
    names = [of_class[r.label] for r in data.records]
    sources = [n[int(g.split("-")[-1]) % len(n)] for n, g in zip(names, data.groups, strict=True)]
    return replace(data, records=[replace(r, source=s) for r, s in zip(data.records, sources, strict=True)])


def parts(data: Dataset, partition: Partition) -> list[set[str]]:
    """The patients of each site."""
    return [{data.groups[i] for i in np.flatnonzero(partition.sites == k)} for k in range(len(partition.names))]


def check_whole(data: Dataset, partition: Partition) -> None:
    """No patient at two sites, every image outside test at one, no test image at any."""
    of_site = parts(data, partition)
    assert sum(map(len, of_site)) == len(set().union(*of_site))
    assert ((partition.sites == NOWHERE) == (data.folds == "test")).all()


def test_by_source_pairs_the_sources_of_the_classes(small_data: Dataset) -> None:
    partition = by_source(small_data, None)
    check_whole(small_data, partition)
    assert len(partition.names) == 2
    sites = dict(enumerate(partition.sites.tolist()))
    of_source = {(small_data.records[i].source, site) for i, site in sites.items() if site != NOWHERE}
    assert len(of_source) == 4
    assert {source for source, site in of_source if f"{source}" not in partition.names[site]} == set()


def test_a_source_too_many_goes_to_the_first_site_again() -> None:
    data = with_sources(with_patients(in_memory((40, 40))), ("a", "b", "c"), ("x", "y"))
    partition = by_source(data, None)
    assert len(partition.names) == 2
    assert sorted("".join(partition.names).replace(" + ", "")) == list("abcxy")
    check_whole(data, partition)


def test_a_class_of_one_source_is_refused() -> None:
    data = with_sources(with_patients(in_memory((40, 40))), ("a",), ("x", "y"))
    with pytest.raises(UsageError, match=r"source.*NORMAL has 1 source.*dirichlet"):
        by_source(data, None)


def test_a_patient_of_two_sources_goes_where_most_images_lie() -> None:
    data = with_sources(with_patients(in_memory((40, 40)), 4), ("a", "b"), ("x", "y"))
    records = [replace(r, source="b") if r.name == "0.png" else r for r in data.records]
    data = replace(data, records=records)
    partition = by_source(data, None)
    check_whole(data, partition)
    assert partition.sites[0] == partition.sites[1]


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_shares_of_a_site_are_scipys_dirichlet(alpha: float) -> None:
    shares = site_shares(PRIOR, 3000, alpha, np.random.default_rng(1))
    expected = stats.dirichlet(alpha * PRIOR)
    np.testing.assert_allclose(shares.mean(axis=0), expected.mean(), atol=0.03)
    np.testing.assert_allclose(shares.var(axis=0), expected.var(), atol=0.02)
    assert stats.kstest(shares[:, 0], stats.beta(*(alpha * PRIOR)).cdf).pvalue > 0.01


def test_patients_are_dealt_by_the_shares() -> None:
    """One site of NORMAL, one of PNEUMONIA: with pure shares each takes its class until there is no more."""
    labels, shares = [0] * 50 + [1] * 50, np.array([[1.0, 0.0], [0.0, 1.0]])
    sites = deal(labels, [1] * 100, shares, np.random.default_rng(0))
    assert sites == labels


def test_sites_are_of_equal_size_in_images() -> None:
    data = with_patients(in_memory((120, 360), val=(40, 80)), 3)
    partition = by_dirichlet(data, 4, 0.5)
    check_whole(data, partition)
    for fold in ("train", "val"):
        sizes = [int(((partition.sites == k) & (data.folds == fold)).sum()) for k in range(4)]
        assert max(sizes) - min(sizes) <= 3
    again = by_dirichlet(data, 4, 0.5)
    assert (again.sites == partition.sites).all()


def test_skew_grows_as_alpha_falls() -> None:
    data = with_patients(in_memory((300, 300), val=(60, 60)), 1)

    def spread(alpha: float) -> float:
        sites = by_dirichlet(data, 5, alpha).sites
        shares = [data.labels[(sites == k) & (data.folds == "train")].mean() for k in range(5)]
        return float(np.std(shares))

    assert spread(1000) < 0.1 < spread(0.3)


def test_more_sites_than_patients_are_refused() -> None:
    data = with_patients(in_memory((16, 16)), 8)
    with pytest.raises(BalancerError, match="5 sites, and the training fold has 4 patient"):
        check_sites(data, Partition(tuple("abcde"), np.zeros(len(data.labels), int)), 2)


@pytest.mark.parametrize(("fold", "words"), [("train", "training"), ("val", "validation")])
def test_a_site_with_one_class_is_refused(fold: str, words: str) -> None:
    data = with_patients(in_memory((40, 40)), 1)
    sites = np.where(data.folds == "test", NOWHERE, np.arange(len(data.labels)) % 2)
    sites[(data.folds == fold) & (data.labels == 0)] = 0
    with pytest.raises(BalancerError, match=rf"site 1 \(b\) has 0 NORMAL and \d+ PNEUMONIA {words} images"):
        check_sites(data, Partition(("a", "b"), sites), 2)


def test_a_site_smaller_than_a_batch_is_refused() -> None:
    data = with_patients(in_memory((40, 40)), 1)
    sites = np.where(data.folds == "test", NOWHERE, np.arange(len(data.labels)) % 2)
    with pytest.raises(BalancerError, match=r"40 training images.*batch has 64.*--batch-size"):
        check_sites(data, Partition(("a", "b"), sites), 64)


def test_a_site_gets_its_own_images_alone(tmp_path: Path) -> None:
    data = with_patients(in_memory((40, 40)), 1)
    partition = by_dirichlet(data, 2, 10)
    partition.write(tmp_path / "sites.csv", data)
    assert (read_sites(tmp_path / "sites.csv") == partition.sites).all()
    mine, other = (partition.data_of(data, k) for k in range(2))
    assert not set(mine.indices("train")) & set(other.indices("train"))
    assert not len(mine.indices("test"))
    assert len(partition.data_of(data, 0, with_test=True).indices("test")) == len(data.indices("test"))
    assert mine.images is data.images  # nothing is copied
