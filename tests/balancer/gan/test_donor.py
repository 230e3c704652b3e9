"""Training that starts from another run's weights: what is taken, what is refused, and exact resumption."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import balancer, done, refused
from gan_helpers import CPU, assert_same, config, contents, dataset, interrupt_after, run_training

from balancer.core.errors import BalancerError, Interrupted
from balancer.core.sealed import write_json
from balancer.data.dataset import Dataset
from balancer.data.thinning import UNUSED
from balancer.gan.checkpoint import BEST, CHECKPOINT
from balancer.gan.donor import open_donor, start_from
from balancer.gan.step import build_state, train_step

pytestmark = pytest.mark.usefixtures("cheap_features")
FULL, THINNED = "0123456789abcdef", "fedcba9876543210"


def finished(path: Path, data: Dataset | None = None, **changes: Any) -> Path:
    """A finished run of two steps on PNEUMONIA, unless told otherwise."""
    settings = config(**{"steps": 2, "target_class": "PNEUMONIA", **changes})
    run_training(path, settings, data)
    write_json(path / "env.json", {"command": "gan-train"})
    (path / "done").touch()
    return path


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gan_helpers import pixel_features

    from balancer.gan import monitor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "feature_network", lambda _config, _data, device: pixel_features(device))
        return finished(tmp_path_factory.mktemp("donor") / "pneumonia")


def thinned(label: int) -> Dataset:
    """The data set without some training images of a class, and with the hash of the split before."""
    data = dataset()
    folds = data.folds.astype("<U6")
    folds[data.indices("train", label)[:3]] = UNUSED
    return replace(data, folds=folds, split_hash=THINNED, full_split_hash=FULL)


def test_weights_are_the_donors(donor: Path) -> None:
    settings = config(init_from=str(donor))
    state, saved = build_state(settings, CPU), open_donor(settings, dataset())
    start_from(saved, state)
    content = contents(donor / CHECKPOINT)
    assert_same(state.G.state_dict(), content["G_ema"])
    assert_same(state.ema.module.state_dict(), content["G_ema"])
    assert_same(state.D.state_dict(), content["D"])
    assert not state.optimizer_G.state
    (ancestor,) = state.ancestors
    assert (ancestor.run, ancestor.class_name, ancestor.split_hash, ancestor.step) == (
        "pneumonia",
        "PNEUMONIA",
        FULL,
        2,
    )


def test_without_a_donor_there_is_none() -> None:
    assert open_donor(config(), dataset()) is None


def test_training_goes_on_from_there(donor: Path, tmp_path: Path) -> None:
    """The first step is that of the donor's weights, and the run says what it came from."""
    settings = config(init_from=str(donor), steps=1)
    run_training(tmp_path / "run", settings)
    state = build_state(settings, CPU)
    start_from(open_donor(settings, dataset()), state)
    from balancer.gan.trainer import next_batch, training_images

    train_step(settings, state, next_batch(settings, training_images(dataset(), 0, CPU), 0, CPU))
    for name in (CHECKPOINT, BEST):
        content = contents(tmp_path / "run" / name)
        assert_same(content["G_ema"], state.ema.module.state_dict())
        assert [a["class_name"] for a in content["ancestors"]] == ["PNEUMONIA"]
    assert "ancestors" not in contents(donor / BEST)


@pytest.mark.parametrize("data", [dataset(), thinned(0)], ids=["same split", "thinned"])
def test_a_donor_of_another_class_serves(data: Dataset, donor: Path) -> None:
    assert open_donor(config(init_from=str(donor)), data) is not None


def test_what_the_donor_learnt_from_must_be_in_the_training_fold(donor: Path, tmp_path: Path) -> None:
    """Images of another split, or those that thinning took out, also by way of the donor's own donor."""
    of_normal = finished(tmp_path / "normal", target_class="NORMAL")
    chained = finished(tmp_path / "chained", init_from=str(of_normal))
    for run, data in (
        (donor, dataset(split_hash=THINNED)),
        (donor, thinned(1)),
        (of_normal, thinned(0)),
        (chained, thinned(0)),
    ):
        with pytest.raises(BalancerError, match=rf"init_from.*{run.name}.*{FULL}.*{THINNED}") as caught:
            open_donor(config(init_from=str(run)), data)
        assert "\n" not in str(caught.value)
    assert [a.run for a in open_donor(config(init_from=str(chained)), dataset()).ancestors] == ["normal"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z_dim": 7}, r"z_dim \(saved 5, asked 7\)"),
        ({"generator_width": 3}, r"generator_width \(saved 2, asked 3\)"),
        ({"discriminator_norm": "none"}, "discriminator_norm"),
        ({"architecture": "upsample"}, r"architecture \(saved 'dcgan', asked 'upsample'\)"),
        ({"data": {"path": "phantom", "image_size": 32}}, r"image_size \(saved 16, asked 32\)"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, Any], message: str, donor: Path) -> None:
    with pytest.raises(BalancerError, match=message):
        open_donor(config(init_from=str(donor), **changes), dataset())


def test_other_colours_are_refused(donor: Path) -> None:
    grey = dataset()
    colour = replace(grey, images=np.repeat(grey.images[..., None], 3, axis=3))
    with pytest.raises(BalancerError, match="--channels 1"):
        open_donor(config(init_from=str(donor)), colour)


def test_runs_that_are_no_donors(donor: Path, tmp_path: Path) -> None:
    unfinished, of_all = tmp_path / "unfinished", tmp_path / "all"
    for copy in (unfinished, of_all):
        shutil.copytree(donor, copy)
    (unfinished / "done").unlink()
    shutil.copytree(donor, of_all / "classes" / "NORMAL")
    for run, message in ((tmp_path, "gan-train"), (unfinished, "--resume"), (of_all, "classes/NORMAL")):
        with pytest.raises(BalancerError, match=message):
            open_donor(config(init_from=str(run)), dataset())


def test_resumed_equals_uninterrupted(donor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With frozen layers; and once there is a checkpoint, the donor may be gone."""
    gone = tmp_path / "donor"
    shutil.copytree(donor, gone)
    settings = config(init_from=str(gone), freeze_discriminator=1, lr_schedule="cosine", snapshot_every=3)
    run_training(tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4, signal.SIGINT)
        with pytest.raises(Interrupted):
            run_training(tmp_path / "parts", settings)
    shutil.rmtree(gone)
    run_training(tmp_path / "parts", settings, resume=True)
    whole, parts = (contents(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert_same(whole, parts)
    first = contents(donor / CHECKPOINT)["D"]
    assert torch.equal(whole["D"]["layers.0.weight"], first["layers.0.weight"])
    assert not torch.equal(whole["D"]["layers.2.weight"], first["layers.2.weight"])


@pytest.mark.nightly
def test_the_command(runs_cwd: Path, chest_folder: Path) -> None:
    """A donor by its name, what the synthesis says of it, an export without its path, and a donor that is not there."""
    small = ["--data", chest_folder, "--image-size", "16", "--batch-size", "4", "--steps", "4"]
    small += ["--set", "generator_width=2", "--set", "discriminator_width=2", "--set", "min_diversity=0"]
    done(balancer("gan-train", *small, "--class", "PNEUMONIA", "--name", "first"))
    done(balancer("gan-train", *small, "--init-from", "first", "--name", "second"))
    done(balancer("synthesize", "--n", "8", "--gan-run", "second", "--inception-weights", "off", "--out", "images"))
    assert "run `first`, step 4" in Path("images/report.md").read_text()
    done(balancer("export", "second", "--to", "safetensors", "--out", "g.safetensors"))
    assert str(runs_cwd).encode() not in Path("g.safetensors").read_bytes()
    from balancer.export import load_generator

    assert load_generator(Path("g.safetensors"))[1].init_from == "first"
    shutil.rmtree("runs/gan-train/first")
    refused(balancer("gan-train", *small, "--init-from", "first", "--name", "third"), 1, "first")
    assert not Path("runs/gan-train/third").exists()
