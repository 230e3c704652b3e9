"""Regimes: the 2 x 2 design, its controls, and nothing by accident."""

import dataclasses
import itertools

import pytest

from balancer.errors import UsageError
from classifier.figures import COLOURS
from classifier.regimes import REGIMES, select_regimes


def names(*asked: str) -> list[str]:
    return [r.name for r in select_regimes(asked)]


def test_all_is_the_two_by_two_design() -> None:
    chosen = select_regimes(["all"])
    assert [r.name for r in chosen] == ["baseline", "augment", "gan", "combined"]
    assert {(r.augment, r.synthetic) for r in chosen} == set(itertools.product((False, True), repeat=2))
    assert not any(r.duplicate or r.weighted or r.control for r in chosen)
    switches = {r.name: (r.augment, r.synthetic) for r in chosen}
    assert (switches["augment"], switches["gan"]) == ((True, False), (False, True))


def test_controls_change_one_thing_with_and_without_augmentation() -> None:
    chosen = {r.name: r for r in select_regimes(["controls"])}
    assert list(chosen) == ["duplicate", "duplicate_augment", "weighted", "weighted_augment"]
    for name, regime in chosen.items():
        assert (regime.duplicate, regime.weighted) == (name.startswith("dup"), name.startswith("wei"))
        assert regime.augment == name.endswith("_augment")
        assert regime.control
        assert not regime.synthetic


def test_the_order_is_the_registrys_and_nothing_comes_twice() -> None:
    assert names("gan", "baseline", "gan") == ["baseline", "gan"]
    assert names("controls", "all") == list(REGIMES)
    assert names("all", "combined", "weighted") == ["baseline", "augment", "gan", "combined", "weighted"]


@pytest.mark.parametrize(("name", "hint"), [("gann", "did you mean 'gan'"), ("every", "known: all"), ("", "known")])
def test_unknown_regimes_are_refused(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"regime is '{name}'; {hint}"):
        select_regimes(["baseline", name])


def test_no_regime_is_refused() -> None:
    with pytest.raises(UsageError, match="no regime given"):
        select_regimes([])


def test_regimes_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        REGIMES["gan"].augment = True


def test_every_regime_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(REGIMES)
    assert len(set(COLOURS.values())) == len(REGIMES)
