"""Digests in little memory, and equal ones among them."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from balancer.data.digests import Digests, equal_positions

DIGESTS = [hashlib.sha256(bytes([i % 3])).hexdigest() for i in range(5)]


@given(st.lists(st.text("ab\udcff", max_size=2), max_size=12))
def test_equal_keys_are_grouped(keys: list[str]) -> None:
    groups = equal_positions(keys)
    assert all(len(group) > 1 and len({keys[i] for i in group}) == 1 for group in groups)
    assert {i for group in groups for i in group} == {i for i, key in enumerate(keys) if keys.count(key) > 1}
    assert len({keys[group[0]] for group in groups}) == len(groups)
    assert groups == sorted(groups)


def test_digests_read_as_a_list_of_texts() -> None:
    made = Digests(iter(DIGESTS))
    assert list(made) == DIGESTS
    assert [made[i] for i in range(-5, 5)] == DIGESTS * 2
    assert made[1:4] == DIGESTS[1:4]
    assert len(made) == 5
    assert made.count(DIGESTS[0]) == 2
    assert DIGESTS[2] in made
    assert equal_positions(made) == equal_positions(DIGESTS) == [[0, 3], [1, 4]]
    assert list(Digests([])) == []
