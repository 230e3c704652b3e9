"""What a dry run knows of images that were never decoded: all that a run would use, but the pixels."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data import decoded, images
from balancer.data.dataset import Dataset, load_dataset


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded."""
    files: list[Path] = []

    def counted(file: Path, *more: object) -> images.Decoding:
        files.append(file)
        return images.decode_image(file, *more)

    monkeypatch.setattr(decoded, "decode_image", counted)
    return files


def facts(data: Dataset) -> tuple[object, ...]:
    """All that is known of a data set but its pixels."""
    lists = data.labels.tolist(), data.folds.tolist(), data.records, data.groups, list(data.digests)
    return *lists, data.split_hash, data.fingerprint, data.bad, data.notes, data.images.shape


def test_headers_tell_all_but_the_pixels(chest_folder: Path, empty_cache: Path, decodings: list[Path]) -> None:
    (chest_folder / "test/NORMAL/empty.png").write_bytes(b"")
    config = DataConfig(path=str(chest_folder), image_size=36, max_bad=0.1)  # enlarges the images, which a note says
    dry = load_dataset(config, decode=False)
    assert dry.undecoded
    assert dry.undecoded.images == len(dry.records) == 114
    assert dry.undecoded.seconds > 0
    assert len(decodings) < 2 * decoded.DECODED
    assert not list((empty_cache / "images").iterdir())
    run = load_dataset(config)
    assert run.undecoded is None
    assert facts(dry) == facts(run)
    assert len(np.unique(run.images, axis=0)) > len(np.unique(dry.images, axis=0)) == 1


def test_what_the_cache_holds_is_used(chest_folder: Path, empty_cache: Path, decodings: list[Path]) -> None:
    config = DataConfig(path=str(chest_folder), image_size=16)
    run = load_dataset(config)
    decodings.clear()
    dry = load_dataset(config, decode=False)
    assert dry.undecoded is None
    assert not decodings
    assert np.array_equal(dry.images, run.images)


def test_damage_below_a_header_never_refuses_data_that_fit(chest_folder: Path, empty_cache: Path) -> None:
    """A damaged image changes the split. So where headers give another split than expected, all is decoded."""
    for file in sorted((chest_folder / "train/NORMAL").iterdir())[:4]:
        file.write_bytes(file.read_bytes()[:200])
    config = DataConfig(path=str(chest_folder), image_size=16, max_bad=0.1)
    expected = load_dataset(config).split_hash
    shutil.rmtree(empty_cache)
    assert load_dataset(config.model_copy(update={"max_bad": 0.1}), decode=False).undecoded
    shutil.rmtree(empty_cache)
    data = load_dataset(config, decode=False, expected_split=expected)
    assert (data.split_hash, data.undecoded) == (expected, None)


def test_too_many_bad_headers_are_refused(chest_folder: Path, empty_cache: Path) -> None:
    for file in sorted((chest_folder / "train/NORMAL").iterdir())[:3]:
        file.write_bytes(b"text")
    with pytest.raises(BalancerError, match=r"3 of 114 .* --max-bad"):
        load_dataset(DataConfig(path=str(chest_folder), image_size=16, max_bad=0.01), decode=False)
