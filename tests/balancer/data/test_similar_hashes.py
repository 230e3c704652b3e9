"""Pairs of similar hashes: all of a small set, and of a large one those that stand side by side in a random order."""

import numpy as np
import pytest

from balancer.data import similar_hashes
from balancer.data.near_duplicates import BITS
from balancer.data.similar_hashes import CHUNK, close_pairs, every_pair, pairs_of_neighbours

RNG = np.random.default_rng(0)


def planted(n: int, pairs: list[tuple[int, int, int]], length: int = 256) -> np.ndarray:
    """Random hashes; the second of each pair differs from the first in so many bits."""
    bits = RNG.random((n, length)) < 0.5
    for first, second, apart in pairs:
        bits[second] = bits[first]
        bits[second, RNG.choice(length, apart, replace=False)] ^= True
    return bits


def by_bits(bits: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    distance = (bits[:, None] ^ bits[None]).sum(axis=2)
    return [(a, b, int(distance[a, b])) for a, b in zip(*np.nonzero(np.triu(distance <= most, 1)), strict=True)]


def test_every_pair_within_the_distance_is_there() -> None:
    """More hashes than one chunk, some of them near across the chunks; the reference compares bit by bit."""
    bits = planted(CHUNK + 90, [(0, 1, 0), (3, 600, BITS), (4, 601, BITS + 1), (511, 512, 20), (598, 599, BITS - 1)])
    expected = by_bits(bits, BITS)
    assert len(expected) == 4
    assert list(map(tuple, every_pair(bits, BITS).tolist())) == expected


@pytest.mark.parametrize("length", [256, 70])
def test_neighbours_in_random_orders_are_nearly_all_pairs(length: int) -> None:
    """Every pair that is returned is one, in the order of a small set; pairs that differ in an eighth are all there."""
    most = length // 4
    pairs = [(2 * k, 2 * k + 1, apart) for k, apart in enumerate([0, 1, length // 16, length // 8] * 12)]
    bits = planted(600, [*pairs, (100, 101, most), (102, 103, most + 1)], length)
    near, every = (list(map(tuple, of(bits, most).tolist())) for of in (pairs_of_neighbours, every_pair))
    assert set(near) <= set(every)
    assert near == sorted(near)
    assert set(pairs) <= set(near)


def test_the_size_decides_how_pairs_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = planted(50, [(7, 30, 5)])
    assert close_pairs(bits, BITS).tolist() == [[7, 30, 5]]
    monkeypatch.setattr(similar_hashes, "MOST_COMPARED", 49)
    monkeypatch.setattr(similar_hashes, "every_pair", None)
    assert close_pairs(bits, BITS).tolist() == [[7, 30, 5]]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_hashes(n: int) -> None:
    bits = np.zeros((n, 256), dtype=bool)
    for look in (every_pair, pairs_of_neighbours):
        assert look(bits, BITS).tolist() == ([[0, 1, 0]] if n == 2 else [])
