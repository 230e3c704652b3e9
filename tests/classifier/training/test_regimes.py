"""Regimes: the 2 x 2 design, its controls, and nothing by accident."""

import dataclasses
import itertools

import pytest

from balancer.core.errors import UsageError
from classifier.report.figures import COLOURS
from classifier.training.regimes import REGIMES, select_regimes


def names(*args: str) -> list[str]:
    return [r.name for r in select_regimes(args)]


def test_all_is_the_two_by_two_design() -> None:
    chosen = select_regimes(["all"])
    assert [r.name for r in chosen] == ["baseline", "augment", "gan", "combined"]
    assert {(r.augment, r.synthetic) for r in chosen} == set(itertools.product((False, True), repeat=2))
    off = dataclasses.asdict(REGIMES["baseline"]) | {"name": "", "augment": None, "synthetic": None}
    assert all(dataclasses.asdict(r) | {"name": "", "augment": None, "synthetic": None} == off for r in chosen)
    switches = {r.name: (r.augment, r.synthetic) for r in chosen}
    assert (switches["augment"], switches["gan"]) == ((True, False), (False, True))


def changed(name: str, against: str) -> set[str]:
    """The switches in which two regimes differ."""
    one, two = (dataclasses.asdict(REGIMES[n]) for n in (name, against))
    return {key for key in one if one[key] != two[key]} - {"name", "group"}


def test_controls_change_one_thing_with_and_without_augmentation() -> None:
    controls = names("controls")
    plain = [n for n in controls if not n.endswith("_augment")]
    assert plain == ["duplicate", "weighted", "oversample", "focal", "synthetic_only"]
    assert set(controls) == {*plain, *(f"{n}_augment" for n in plain)}
    for name in plain:
        assert changed(name, "baseline") == ({"synthetic", "replace"} if name == "synthetic_only" else {name})
        assert changed(f"{name}_augment", name) == {"augment"}


def test_checks_spoil_one_thing() -> None:
    assert {n: changed(n, "baseline") for n in names("checks")} == {
        "baseline_again": {"seed_offset"},
        "flipped": {"flipped"},
        "permuted": {"permuted"},
    }


def test_the_reference_differs_in_the_balancing_alone() -> None:
    for regime in REGIMES.values():
        reference = REGIMES[regime.reference]
        assert reference.augment == regime.augment
        assert changed(reference.name, "baseline") <= {"augment"}


def test_the_order_is_the_registrys_and_nothing_comes_twice() -> None:
    assert names("gan", "baseline", "gan") == ["baseline", "gan"]
    assert names("checks", "shortcut", "controls", "all") == list(REGIMES)
    assert names("all", "combined", "weighted") == ["baseline", "augment", "gan", "combined", "weighted"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gann", "did you mean 'gan'"),
        ("every", "known: all"),
        ("", "known"),
        ("BASELINE", "did you mean 'baseline'"),
        ("gan augment", "put commas"),
    ],
)
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
