"""`balancer fetch`: PneumoniaMNIST from a server on this machine, the chest X-ray folder from a pretended kagglehub."""

import hashlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import balancer, done, refused
from loopback import serving
from PIL import Image

from balancer.data import fetch
from balancer.data.chest import CLASSES
from balancer.data.fetch import ARCHIVES, KAGGLE_COUNTS, Archive
from balancer.data.medmnist import SETS


def test_the_published_files() -> None:
    """Names as MedMNIST gives them, one hash each, from one record of one host."""
    assert [a.name for a in ARCHIVES["pneumoniamnist"].values()] == [
        "pneumoniamnist.npz",
        "pneumoniamnist_64.npz",
        "pneumoniamnist_128.npz",
        "pneumoniamnist_224.npz",
    ]
    assert list(ARCHIVES["pneumoniamnist"]) == [28, 64, 128, 224]
    assert all(
        a.url.startswith("https://zenodo.org/records/10519652/files/") for a in ARCHIVES["pneumoniamnist"].values()
    )
    assert all(len(bytes.fromhex(a.md5)) == 16 for a in ARCHIVES["pneumoniamnist"].values())
    assert len({a.md5 for sizes in ARCHIVES.values() for a in sizes.values()}) == 4 * 11
    assert ARCHIVES["pneumoniamnist"][28].md5 == "28209eda62fecd6e6a2d98b1501bb15f"  # as info.py of medmnist 3.0.2
    assert ARCHIVES["organsmnist"][224].md5 == "b354719e553fbbb2513d5533f52a4cb1"
    assert {len(one.classes) for one in SETS.values()} == {2, 4, 5, 7, 8, 9, 11}


def test_fetch_as_a_user_types_it(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloaded once; then its hash is checked; another file in its place is replaced with --force alone."""
    path, md5 = Path("data/set.npz"), hashlib.md5(b"images").hexdigest()
    with serving(b"images") as site:
        monkeypatch.setitem(ARCHIVES["pneumoniamnist"], 64, Archive(f"{site.url}?download=1", md5))
        text = done(balancer("fetch", "pneumoniamnist", "--size", "64")).stdout
        assert path.read_bytes() == b"images"
        assert f"--data {path} --image-size 64" in text
        assert "there already" in done(balancer("fetch", "pneumoniamnist", "--size", "64")).stdout
        assert len(site.requests) == 1
        result = done(balancer("fetch", "pneumoniamnist", "--size", 64, "--to", "else", "--json"))
        facts = {"path": "else/set.npz", "url": f"{site.url}?download=1", "md5": md5, "fetched": True}
        assert json.loads(result.stdout) == facts
        path.write_bytes(b"mine")
        refused(balancer("fetch", "pneumoniamnist", "--size", "64"), 1, "--force", hashlib.md5(b"mine").hexdigest())
        assert path.read_bytes() == b"mine"
        done(balancer("fetch", "pneumoniamnist", "--size", "64", "--force"))
        assert path.read_bytes() == b"images"


def test_what_cannot_be_asked_for(runs_cwd: Path) -> None:
    refused(balancer("fetch", "pneumoniamnist", "--size", "32"), 2, "--size is 32", "28, 64, 128, 224")
    refused(balancer("fetch", "chestmnist"), 2, "multi-label")
    refused(balancer("fetch", "organmnist3d"), 2, "volumes")
    refused(balancer("fetch", "pneumonianist"), 2, "did you mean 'pneumoniamnist'?")
    refused(balancer("fetch", "kaggle", "--size", "28"), 2, "--size is of the sets of MedMNIST")
    assert list(runs_cwd.iterdir()) == []


# ---------------------------------------------------------------- Kaggle

Download = Callable[..., str]


def kagglehub(monkeypatch: pytest.MonkeyPatch, download: Download) -> list[dict[str, object]]:
    """A kagglehub whose download is ``download(folder)``; returns what it is called with."""
    calls: list[dict[str, object]] = []

    def dataset_download(handle: str, *, output_dir: str, force_download: bool) -> str:
        calls.append({"handle": handle, "output_dir": output_dir, "force": force_download})
        return download(Path(output_dir))

    module = types.ModuleType("kagglehub")
    module.dataset_download = dataset_download
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return calls


def chest_xrays(folder: Path, lacking: int = 0) -> str:
    """The layout of Kaggle's archive, the numbers of a tenth of a per cent of it; one image copied."""
    picture = folder / "one.png"
    folder.mkdir(parents=True)
    Image.new("L", (16, 16)).save(picture)
    for split, counts in SMALL.items():
        for cls, n in zip(CLASSES, counts, strict=True):
            of_class = folder / "chest_xray" / split / cls
            of_class.mkdir(parents=True)
            for i in range(n - lacking * (split == "test")):
                (of_class / f"{i}.png").write_bytes(picture.read_bytes())
    picture.unlink()
    return str(folder)


SMALL = {"train": (3, 7), "val": (2, 2), "test": (4, 5)}


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "KAGGLE_COUNTS", SMALL)


def test_the_counts_are_the_published_ones() -> None:
    """data/README.md; Kermany et al. 2018 have 5,856 children's images, 5,232 of them to train."""
    assert KAGGLE_COUNTS == {"train": (1341, 3875), "val": (8, 8), "test": (234, 390)}
    assert sum(map(sum, KAGGLE_COUNTS.values())) == 5856


def test_kaggle_ends_where_the_other_commands_look(
    runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, small_counts: None
) -> None:
    calls = kagglehub(monkeypatch, chest_xrays)
    text = done(balancer("fetch", "kaggle")).stdout
    assert calls == [
        {"handle": "paultimothymooney/chest-xray-pneumonia", "output_dir": "data/chest_xray", "force": False}
    ]
    assert "train 3 + 7, val 2 + 2, test 4 + 5" in text
    assert f"BALANCER_DATA={runs_cwd / 'data/chest_xray/chest_xray'}" in text
    done(balancer("gan-train", "--dry-run", "--image-size", "16", "--batch-size", "2", "-q"))


def test_force_touches_the_data_sets_own_folder_only(
    runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, small_counts: None
) -> None:
    """kagglehub empties what it is given: that must never be the folder that the user names."""
    calls = kagglehub(monkeypatch, chest_xrays)
    done(balancer("fetch", "kaggle", "--to", "mine", "--force"))
    assert calls[0]["output_dir"] == "mine/chest_xray"
    assert calls[0]["force"] is True


def test_kaggle_with_other_counts(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch, small_counts: None) -> None:
    kagglehub(monkeypatch, lambda folder: chest_xrays(folder, lacking=1))
    refused(balancer("fetch", "kaggle"), 1, "test 3 + 4 images; expected", "test 4 + 5", "--force")


def test_kaggle_that_fails(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: Path) -> str:
        raise RuntimeError("Max retries exceeded\nwith url: ...")

    kagglehub(monkeypatch, offline)
    by_hand = "move its chest_xray folder to data/chest_xray"
    refused(balancer("fetch", "kaggle"), 1, "(Max retries exceeded)", by_hand)

    def taken(_: Path) -> str:
        raise FileExistsError("output_dir is not empty")

    kagglehub(monkeypatch, taken)
    refused(balancer("fetch", "kaggle"), 1, "holds files already", "--force")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    refused(balancer("fetch", "kaggle"), 1, "pip install -e", "[kaggle]", by_hand)
