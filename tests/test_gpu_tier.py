"""The benchmark of a graphics card, which must not fail on the one day when a card is at hand."""

import contextlib
import json
import time
from pathlib import Path

import gpu_parts
import gpu_tier
import pytest
from gpu_tier import Part, TooLong, bars, limited


@pytest.mark.nightly
def test_every_part_in_tiny_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "tier"
    assert gpu_tier.main(["--smoke", "--out", str(out)]) == 0
    report = json.loads((out / "gpu_tier.json").read_text())
    assert list(report["parts"]) == list(gpu_tier.PARTS)
    assert all(entry["figures"] for entry in report["parts"].values())
    pictures = sorted(path.stem for path in out.glob("*.png"))
    assert pictures == ["agreement", "backbones", "classifier_speed", "gan_speed", "gans"]
    assert set(report["bars"]) > {"largest difference of 20 losses, gan", "minutes of 40,000 steps at 128 px (under 8)"}
    assert report["bars"]["largest difference of 20 losses, gan"] == {"plain": 0.0}, "the CPU against itself"
    assert report["environment"]["versions"]["torch"]
    figures = report["parts"]["regimes"]["figures"]
    assert {"baseline", "augment", "gan", "combined"} <= set(json.dumps(figures).replace('"', " ").split())


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_tier: gpu_parts.Tier) -> gpu_parts.Figures:
        raise RuntimeError("CUDA error\nof many lines")

    def slow(_tier: gpu_parts.Tier) -> gpu_parts.Figures:
        time.sleep(5)
        return {}

    sound = Part(lambda tier: {"device": tier.device.type}, 60)
    monkeypatch.setattr(gpu_tier, "PARTS", {"first": Part(broken, 60), "second": Part(slow, 0.0005), "third": sound})
    monkeypatch.setattr(gpu_tier, "card", dict)
    assert gpu_tier.main(["--smoke", "--out", str(tmp_path)]) == 1
    parts = json.loads((tmp_path / "gpu_tier.json").read_text())["parts"]
    assert parts["first"]["error"].startswith("RuntimeError: CUDA error")
    assert parts["second"]["error"].startswith("TooLong")
    assert parts["third"]["figures"] == {"device": "cpu"}


def test_a_part_that_is_stopped_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole time ends a part too, and a part that goes on after any error, as compilers' callers do."""

    def slow(tier: gpu_parts.Tier) -> gpu_parts.Figures:
        tier.begun["64"] = {"reference": 1.0, "graph": 6.0}
        with contextlib.suppress(Exception):
            time.sleep(5)
        return {}

    monkeypatch.setattr(gpu_tier, "PARTS", {"gan_speed": Part(slow, 60), "second": Part(lambda tier: tier.begun, 60)})
    monkeypatch.setattr(gpu_tier, "ALL_SECONDS", 0.3)
    monkeypatch.setattr(gpu_tier, "card", dict)
    monkeypatch.setattr(gpu_tier, "environment", lambda *_: {})
    assert gpu_tier.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "gpu_tier.json").read_text())
    stopped = report["parts"]["gan_speed"]
    assert stopped["error"].startswith("TooLong")
    assert stopped["figures"] == {"64": {"reference": 1.0, "graph": 6.0}}
    assert report["bars"] == {"GAN step over the plain loop, 64 px (at least 5)": 6.0}
    assert "left out" in report["parts"]["second"]


def test_no_part_begins_once_the_time_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Part(lambda _: {"done": 1}, 60)
    monkeypatch.setattr(gpu_tier, "PARTS", {"first": sound})
    monkeypatch.setattr(gpu_tier, "ALL_SECONDS", -1.0)
    monkeypatch.setattr(gpu_tier, "card", dict)
    assert gpu_tier.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "left out" in json.loads((tmp_path / "gpu_tier.json").read_text())["parts"]["first"]


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu_tier.main(["--out", str(tmp_path), "--only", "gan_speed,bakbones"])
    assert caught.value.code == 2
    assert "'bakbones'" in capsys.readouterr().err


def test_bars_are_those_of_the_fastest_mode() -> None:
    gan = {"128": {"ran": {"graph": "graph"}, "reference": 20.0, "plain": 80.0, "graph": 200.0}}
    trials = {"64 baseline": {"reference": 1.0, "graph": 1400.0}, "64 augment": {"reference": 1.0, "graph": 700.0}}
    figures = bars({"gan_speed": gan, "classifier_speed": trials})
    assert figures["GAN step over the plain loop, 128 px (at least 5)"] == 10
    assert figures["minutes of 40,000 steps at 128 px (under 8)"] == pytest.approx(40_000 / 200 / 60)
    assert figures["minutes of the steps of 4 regimes x 5 seeds at 64 px (under 6)"] == pytest.approx(0.5)


def test_a_limit_ends_what_takes_too_long() -> None:
    with pytest.raises(TooLong), limited(0.01):
        time.sleep(5)
    with limited(5):
        pass
