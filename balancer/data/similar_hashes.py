"""Pairs of hashes that differ in few bits: all of them, or, in a large set, nearly all of them in n log n.

To compare every hash with every other takes a minute for 100,000 images, and half an hour for half a million. So a
large set is sorted instead (Charikar 2002, "Similarity estimation techniques from rounding algorithms"; Ravichandran,
Pantel & Hovy 2005, doi:10.3115/1219840.1219917). The bits are put in random order, the hashes are sorted, and each is
compared with its next neighbours. Hashes that differ in few bits share their first bits in some of the orders. So
they come to stand side by side.
"""

from __future__ import annotations

import numpy as np

from balancer.core.seeding import derive_seed

Array = np.ndarray
MOST_COMPARED = 100_000  # hashes that are all compared with one another
CHUNK, PART = 512, 4096  # hashes that are compared at a time: so many with so many
ORDERS = 100  # of the bits
NEIGHBOURS = 20  # next in an order, that are compared
SORTED_BITS = 64  # of an order; half a million random hashes differ long before
NONE = np.empty((0, 3), dtype=np.int64)


def close_pairs(bits: Array, most: int) -> Array:
    """Return pairs of hashes that differ in at most ``most`` bits.

    Args:
        bits: (n, length) bool. Up to :data:`MOST_COMPARED` hashes all pairs are returned. Of more, some are missed. Of
            500 pairs planted among half a million hashes of 256 bits, with the correlations of X-rays, all were found
            that differed in 40 bits, 98 % in 48, 91 % in 56 and 70 % in 64; of 100,000, all in 48 and 95 % in 64.
        most: number of bits.

    Returns:
        (k, 3) int64 of (a, b, differing bits), ``a < b``, sorted by both.
    """
    return every_pair(bits, most) if len(bits) <= MOST_COMPARED else pairs_of_neighbours(bits, most)


def every_pair(bits: Array, most: int) -> Array:
    """Return all pairs; arguments and result as for :func:`close_pairs`.

    The product of two hashes of -1 and 1 is their length less twice the bits that differ, which float32 holds exactly.
    """
    hashes = np.where(bits, np.float32(1), np.float32(-1))
    n, length = hashes.shape
    chunks = [NONE]
    for start in range(0, n, CHUNK):
        near = [NONE]
        for other in range(start, n, PART):
            differing = (length - hashes[start : start + CHUNK] @ hashes[other : other + PART].T) / 2
            a, b = np.nonzero(np.triu(differing <= most, k=1 + start - other))
            near.append(np.stack([a + start, b + other, differing[a, b].astype(np.int64)], axis=1))
        pairs = np.concatenate(near)
        chunks.append(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    return np.concatenate(chunks)


def pairs_of_neighbours(bits: Array, most: int) -> Array:
    """Return most pairs; arguments and result as for :func:`close_pairs`."""
    n, length = bits.shape
    rng = np.random.default_rng(derive_seed(0, "orders of bits"))
    words = np.packbits(np.pad(bits, ((0, 0), (0, -length % 64))), axis=1).view(np.uint64)
    pairs = NONE
    for _ in range(ORDERS):
        columns = rng.permutation(length)[:SORTED_BITS]
        first = np.ascontiguousarray(np.packbits(bits[:, columns], axis=1)).view(">u8").ravel()
        order = np.argsort(first.astype(np.uint64), kind="stable")
        in_order, near = words[order], [pairs]
        for step in range(1, min(NEIGHBOURS, n - 1) + 1):
            differing = np.bitwise_count(in_order[step:] ^ in_order[:-step]).sum(axis=1, dtype=np.int64)
            at = np.flatnonzero(differing <= most)
            ends = np.sort(np.stack([order[at], order[at + step]], axis=1), axis=1)
            near.append(np.column_stack([ends, differing[at]]))
        pairs = np.unique(np.concatenate(near), axis=0)
    return pairs
