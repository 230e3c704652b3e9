"""The phantom set: layout, determinism, patients, and drawings that carry the disease but no leak."""

import json
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from balancer.data import phantom
from balancer.data.phantom import CLASSES, SPLITS, PhantomSpec, draw_image, draw_patient, write_phantom

SMALL = PhantomSpec(size=32, train=(30, 40), val=(6, 8), test=(10, 12))


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "set", SMALL)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


def patient(name: str) -> int:
    """The patient's number, whatever the germ or the NORMAL prefix; fails on a name unlike the real set's."""
    match = re.fullmatch(r"(?:NORMAL2-)?IM-(\d{4})-\d{4}\.png|person(\d+)_(?:bacteria|virus)_\d+\.png", name)
    assert match, name
    return int(match[1] or match[2])


def draw_many(label: int, count: int, size: int = 64) -> NDArray[np.uint8]:
    """Drawings of ``count`` patients, (count, size, size); the same patients and films for either label."""
    anatomies = (draw_patient(np.random.default_rng([1, i])) for i in range(count))
    return np.stack([draw_image(a, label, np.random.default_rng([2, i]), size) for i, a in enumerate(anatomies)])


def test_layout_and_counts(small_set: Path) -> None:
    assert {path.name for path in small_set.iterdir()} == {*SPLITS, "phantom.json"}
    for split in SPLITS:
        match = tuple(len(list((small_set / split / name).glob("*.png"))) for name in CLASSES)
        assert match == getattr(SMALL, split)
    assert len(list(small_set.rglob("*.*"))) == 1 + sum(map(sum, (SMALL.train, SMALL.val, SMALL.test)))


def test_files_are_grey_pngs_of_the_size_asked_for(small_set: Path) -> None:
    for path in small_set.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))


def test_the_class_is_told_by_the_file_name(small_set: Path) -> None:
    prefixes = {"NORMAL": ("IM-", "NORMAL2-IM-"), "PNEUMONIA": ("person",)}
    for name in CLASSES:
        assert all(path.name.startswith(prefixes[name]) for path in small_set.glob(f"*/{name}/*.png"))


def test_every_kind_of_name_occurs(small_set: Path) -> None:
    names = [path.name for path in small_set.glob("train/*/*.png")]
    for kind in (r"IM-", r"NORMAL2-IM-", r"person\d+_bacteria_", r"person\d+_virus_"):
        assert sum(bool(re.match(kind, name)) for name in names) >= 5, kind


@pytest.mark.parametrize("name", CLASSES)
def test_patients_are_never_shared_between_splits(small_set: Path, name: str) -> None:
    patients = [{patient(path.name) for path in (small_set / split / name).iterdir()} for split in SPLITS]
    assert len(set(chain(*patients))) == sum(map(len, patients))


@pytest.mark.parametrize("name", CLASSES)
def test_some_patients_have_several_images_and_one_kind(small_set: Path, name: str) -> None:
    kinds: dict[int, list[str]] = {}
    for path in (small_set / "train" / name).iterdir():
        kinds.setdefault(patient(path.name), []).append(re.sub(r"\d{3,}|\d+(?=[_.])", "", path.name))
    assert any(len(views) > 1 for views in kinds.values())
    assert any(len(views) == 1 for views in kinds.values())
    assert all(len(set(views)) == 1 for views in kinds.values())


def test_the_same_spec_gives_the_same_bytes_and_another_seed_does_not(small_set: Path, tmp_path: Path) -> None:
    spec = PhantomSpec(size=32, train=(5, 5), val=(1, 1), test=(1, 1))
    first = contents(write_phantom(tmp_path / "a", spec))
    assert contents(write_phantom(tmp_path / "b", spec)) == first
    other = contents(write_phantom(tmp_path / "c", PhantomSpec(32, 1, spec.train, spec.val, spec.test)))
    assert not set(other.values()) & set(first.values())
    assert len(set(first.values())) == len(first), "two images are the same"


def test_an_image_does_not_depend_on_the_counts(small_set: Path, tmp_path: Path) -> None:
    fewer = contents(write_phantom(tmp_path / "set", PhantomSpec(32, 0, train=(7, 3), val=(0, 5), test=(2, 0))))
    assert len(fewer) == 17
    assert fewer.items() <= contents(small_set).items()


def test_images_of_a_patient_share_the_anatomy_not_the_film() -> None:
    anatomies = [draw_patient(np.random.default_rng(i)) for i in range(12)]
    films = np.stack(
        [[draw_image(a, 0, np.random.default_rng([i, v]), 64) for v in (0, 1)] for i, a in enumerate(anatomies)]
    ).astype(float)
    films -= films.mean((2, 3), keepdims=True)
    films /= films.std((2, 3), keepdims=True)
    alike = np.einsum("aij,bij->ab", films[:, 0], films[:, 1]) / 64**2  # correlations of views
    assert np.all(np.diag(alike) < 0.999)
    assert np.diag(alike).mean() > alike[~np.eye(12, dtype=bool)].mean() + 0.02


@pytest.mark.parametrize("size", [32, 64, 96])
@pytest.mark.parametrize("label", [0, 1])
def test_pixels(size: int, label: int) -> None:
    image = draw_image(draw_patient(np.random.default_rng(3)), label, np.random.default_rng(4), size)
    assert image.shape == (size, size)
    assert image.dtype == np.uint8
    assert np.ptp(image) > 100, "no contrast"
    assert (image == 255).mean() < 0.2, "burnt out"


def test_a_size_is_the_same_drawing_at_another_resolution() -> None:
    anatomy = draw_patient(np.random.default_rng(5))
    large = draw_image(anatomy, 0, np.random.default_rng(6), 128).reshape(32, 4, 32, 4).mean((1, 3))
    small = draw_image(anatomy, 0, np.random.default_rng(6), 32)
    assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.95


def test_lungs_are_darker_than_the_mediastinum_and_the_air_is_darkest() -> None:
    average = draw_many(0, 24).mean(0)
    right_lung, left_lung = average[22:34, 14:22].mean(), average[18:26, 40:48].mean()
    mediastinum, abdomen, corner = (average[22:40, 30:35].mean(), average[56:62, 16:48].mean(), average[:3, :3].mean())
    assert max(right_lung, left_lung) + 40 < min(mediastinum, abdomen)
    assert corner < min(right_lung, left_lung)


def test_the_heart_bulges_to_the_right_of_the_image() -> None:
    heart = draw_many(0, 24).mean(0)[34:42]
    assert heart[:, 40:46].mean() > heart[:, 18:24].mean() + 20


def test_disease_brightens_the_lungs_only() -> None:
    change = draw_many(1, 24).astype(float).mean(0) - draw_many(0, 24).mean(0)
    assert change[24:36, 14:24].mean() > 5
    assert abs(change[:6]).max() < 1
    assert abs(change[60:]).max() < 1


def test_exposure_does_not_give_the_class_away(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "set", PhantomSpec(48, 0, train=(150, 150), val=(0, 0), test=(0, 0)))
    means = [[np.asarray(Image.open(p)).mean() for p in sorted((root / "train" / n).iterdir())] for n in CLASSES]
    normal, pneumonia = np.array(means[0]), np.array(means[1])
    auroc = (pneumonia[:, None] > normal).mean()
    assert 0.3 < auroc < 0.75


def test_a_written_set_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PhantomSpec(size=32, train=(2, 2), val=(1, 1), test=(1, 1))
    root = write_phantom(tmp_path / "deep" / "set", spec)
    assert json.loads((root / "phantom.json").read_text())["spec"]["train"] == [2, 2]
    monkeypatch.setattr(phantom, "draw_image", None)  # drawing again would raise
    assert write_phantom(root, spec) == root
    with pytest.raises(FileExistsError, match="not this phantom set"):
        write_phantom(root, PhantomSpec(size=32, seed=1, train=(2, 2), val=(1, 1), test=(1, 1)))
    monkeypatch.setattr(phantom, "FORMAT", phantom.FORMAT + 1)
    with pytest.raises(FileExistsError):
        write_phantom(root, spec)


def test_a_folder_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError) as caught:
        write_phantom(tmp_path, SMALL)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_is_left_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save, saved = Image.Image.save, []

    def failing_save(image: Image.Image, path: Path) -> None:
        if len(saved) == 5:
            raise error
        save(image, path)
        saved.append(path)

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(type(error)):
        write_phantom(tmp_path / "set", SMALL)
    assert len(saved) == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"size": 8}, {"seed": -1}, {"val": (0, -1)}])
def test_a_senseless_spec_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least"):
        PhantomSpec(**wrong)
