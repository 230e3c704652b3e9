"""Manifests: of the same split, of the minority class, whole, unchanged, and as many images as asked for."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.images import read_image
from balancer.data.manifest import MANIFEST_COLUMNS
from classifier.training.synthetic import load_sets, load_synthetic

Make = Callable[..., Path]
CONFIG = DataConfig(image_size=16)


@pytest.fixture
def data(make_data: Callable[..., Dataset]) -> Dataset:
    return make_data((3, 7))  # the deficit is 4


@pytest.fixture
def folder(make_manifest: Make, data: Dataset, tmp_path: Path) -> Path:
    return make_manifest(tmp_path / "s", 6, data.split_hash)


def edit(folder: Path, change: Callable[[list[list[str]]], object]) -> None:
    """Change the rows of the manifest, the title among them."""
    with (folder / "manifest.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    change(rows)
    with (folder / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)


@pytest.mark.parametrize(("count", "n"), [("deficit", 4), ("all", 12), (1, 1), (12, 12)])
def test_the_first_images_by_index(
    make_manifest: Make, tmp_path: Path, data: Dataset, count: int | str, n: int
) -> None:
    """The manifest's rows stand in reverse; the index counts, as a number and not as text."""
    folder = make_manifest(tmp_path / "many", 12, data.split_hash)
    loaded = load_synthetic(folder, data, CONFIG, count)
    expected = [read_image(folder / f"images/NORMAL/s{i}.png", 16, "squash") for i in range(n)]
    assert np.array_equal(loaded.images, np.stack(expected))
    assert loaded.images.shape == (n, 16, 16)
    assert loaded.images.dtype == np.uint8
    assert loaded.labels.tolist() == [0] * n


def test_the_minority_may_be_pneumonia(make_data: Callable[..., Dataset], make_manifest: Make, tmp_path: Path) -> None:
    data = make_data((7, 3))
    folder = make_manifest(tmp_path / "s", 4, data.split_hash, label=1)
    assert load_synthetic(folder, data, CONFIG, "deficit").labels.tolist() == [1] * 4


def test_the_digest_names_the_images_used(folder: Path, data: Dataset, make_manifest: Make, tmp_path: Path) -> None:
    def digest(path: Path, count: int | str) -> str:
        return load_synthetic(path, data, CONFIG, count).digest

    other = make_manifest(tmp_path / "other", 6, data.split_hash, first=50)
    same = make_manifest(tmp_path / "same", 9, data.split_hash)
    assert digest(folder, 4) == digest(folder, "deficit") == digest(same, 4)
    assert len({digest(folder, 4), digest(folder, 5), digest(other, 4)}) == 3


def test_another_split_is_refused(make_manifest: Make, folder: Path, data: Dataset, tmp_path: Path) -> None:
    edit(folder, lambda rows: rows[3].__setitem__(5, "b" * 16))
    with pytest.raises(BalancerError, match="it could hold validation patients"):
        load_synthetic(folder, data, CONFIG, "all")
    folder = make_manifest(tmp_path / "other", 6, "a" * 16)
    with pytest.raises(BalancerError, match=f"split {'a' * 16}, .*gives {'0' * 16}: it could hold validation patients"):
        load_synthetic(folder, data, CONFIG, "all")


def test_another_class_is_refused(make_manifest: Make, data: Dataset, tmp_path: Path) -> None:
    folder = make_manifest(tmp_path / "s", 6, data.split_hash, label=1)
    with pytest.raises(BalancerError, match="holds PNEUMONIA images; expected NORMAL, the minority class"):
        load_synthetic(folder, data, CONFIG, "all")
    edit(folder, lambda rows: rows[1].__setitem__(4, "NORMAL"))
    with pytest.raises(BalancerError, match="holds NORMAL/PNEUMONIA images"):
        load_synthetic(folder, data, CONFIG, "all")


@pytest.mark.parametrize(
    ("made", "count", "dose", "needed"), [(3, "deficit", 0.0, 4), (6, 7, 0.0, 7), (6, "deficit", 2.0, 8)]
)
def test_too_few_images_states_both_numbers(
    make_manifest: Make, data: Dataset, tmp_path: Path, made: int, count: int | str, dose: float, needed: int
) -> None:
    folder = make_manifest(tmp_path / "s", made, data.split_hash)
    with pytest.raises(BalancerError, match=rf"needs {needed} synthetic images, .* lists {made}; .*--n {needed}`"):
        load_synthetic(folder, data, CONFIG, count, dose)


@pytest.mark.parametrize("count", [0, -2])
def test_a_count_below_one_is_refused(folder: Path, data: Dataset, count: int) -> None:
    with pytest.raises(BalancerError, match=f"^{count} synthetic images would be added"):
        load_synthetic(folder, data, CONFIG, count)


def test_balanced_data_have_no_deficit(make_data: Callable[..., Dataset], make_manifest: Make, tmp_path: Path) -> None:
    data = make_data((4, 4))
    folder = make_manifest(tmp_path / "s", 6, data.split_hash)
    with pytest.raises(BalancerError, match=r"deficit is 0\); give --synthetic-count"):
        load_synthetic(folder, data, CONFIG, "deficit")
    assert len(load_synthetic(folder, data, CONFIG, 2).images) == 2


@pytest.mark.parametrize(("dose", "n"), [(0.25, 4), (1.5, 6)])
def test_the_largest_dose_is_read(folder: Path, data: Dataset, dose: float, n: int) -> None:
    loaded = load_synthetic(folder, data, CONFIG, "deficit", dose)
    assert len(loaded.images) == n
    assert loaded.first(2).digest == load_synthetic(folder, data, CONFIG, 2).digest
    assert np.array_equal(loaded.first(2).images, loaded.images[:2])


def report(folder: Path, seed: int, step: int = 7) -> str:
    """What a synthesis of ours says of its GAN."""
    (folder / "report.json").write_text(json.dumps({"gan_config": {"seed": seed}, "gan_step": step}))
    return str(folder)


def test_sets_of_one_generator_are_not_several_gan_seeds(make_manifest: Make, data: Dataset, tmp_path: Path) -> None:
    """Other images, or another snapshot, of the same training are refused; so is the same set twice."""
    one, two, three = (
        make_manifest(tmp_path / str(i), 6, data.split_hash, first=20 * i, label=data.minority_class) for i in range(3)
    )
    foreign = load_sets([str(one), str(two)], data, CONFIG, "deficit")
    assert [s.path for s in foreign] == [one, two]
    with pytest.raises(BalancerError, match="come from one generator"):
        load_sets([str(one), str(one)], data, CONFIG, "deficit")
    paths = [report(one, 0), report(two, 1), report(three, 2)]
    assert len(load_sets(paths, data, CONFIG, "deficit")) == 3
    report(three, 0, step=9)
    with pytest.raises(BalancerError, match=r"0 and .*2 come from one generator.*different --seed"):
        load_sets(paths, data, CONFIG, "deficit")


def test_a_changed_file_is_refused(folder: Path, data: Dataset) -> None:
    file = folder / "images/NORMAL/s2.png"
    file.write_bytes((folder / "images/NORMAL/s5.png").read_bytes())
    with pytest.raises(BalancerError, match=r"s2\.png is not the image .*SHA-256 differs"):
        load_synthetic(folder, data, CONFIG, "deficit")
    assert len(load_synthetic(folder, data, CONFIG, 2).images) == 2, "what is not used is not read"


def test_a_listed_file_that_is_missing_or_no_image(folder: Path, data: Dataset) -> None:
    (folder / "images/NORMAL/s1.png").unlink()
    with pytest.raises(BalancerError, match=r"s1\.png, listed in the manifest, cannot be read"):
        load_synthetic(folder, data, CONFIG, "deficit")
    (folder / "images/NORMAL/s0.png").write_bytes(b"text")
    edit(folder, lambda rows: [r.__setitem__(3, hashlib.sha256(b"text").hexdigest()) for r in rows if r[1] == "0"])
    with pytest.raises(BalancerError, match=r"s0\.png, listed in the manifest, cannot be read"):
        load_synthetic(folder, data, CONFIG, 1)


def test_no_manifest(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(BalancerError, match=r"has no manifest\.csv; give --synthetic"):
            load_synthetic(path, data, CONFIG, "all")


@pytest.mark.parametrize("column", ["file", "index", "sha256", "class", "split_hash"])
def test_a_missing_column_is_named(folder: Path, data: Dataset, column: str) -> None:
    edit(folder, lambda rows: rows[0].__setitem__(rows[0].index(column), "other"))
    with pytest.raises(BalancerError, match=rf"manifest\.csv .*{column}"):
        load_synthetic(folder, data, CONFIG, "all")


@pytest.mark.parametrize("kept", [0, 1, 20, 60, -1, -8, -40, -100])
def test_a_torn_manifest_is_never_a_traceback(folder: Path, data: Dataset, kept: int) -> None:
    """Cut anywhere: an error of ours, or (where only the last line end is lost) the whole set."""
    text = (folder / "manifest.csv").read_bytes()
    (folder / "manifest.csv").write_bytes(text[:kept])
    if kept == -1:
        assert len(load_synthetic(folder, data, CONFIG, "all").images) == 6
    else:
        with pytest.raises(BalancerError, match=r"manifest\.csv|was made under split"):
            load_synthetic(folder, data, CONFIG, "all")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"file,index,seed,sha256,class,split_hash\n", b"\x00" * 40])
def test_a_manifest_of_nonsense(folder: Path, data: Dataset, content: bytes) -> None:
    (folder / "manifest.csv").write_bytes(content)
    with pytest.raises(BalancerError, match=r"manifest\.csv"):
        load_synthetic(folder, data, CONFIG, "all")


def test_images_smaller_than_the_working_size_are_refused(chest_folder, tmp_path):
    """Enlarged synthetic images would be blurred, and the blur would tell the class."""
    config = DataConfig(path=str(chest_folder), image_size=32)
    data = load_dataset(config)
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    lines = [",".join(MANIFEST_COLUMNS), f"a.png,0,0,{digest},NORMAL,{data.split_hash}"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(BalancerError, match=r"16 x 16 px.*works at 32 px"):
        load_synthetic(tmp_path, data, config, "all")
    assert load_synthetic(tmp_path, data, config.model_copy(update={"image_size": 16}), "all").images.shape == (
        1,
        16,
        16,
    )


def test_an_unfinished_synthesis_is_refused(chest_folder, tmp_path):
    config = DataConfig(path=str(chest_folder), image_size=16)
    (tmp_path / "config.yaml").write_text("n: 3\n")
    with pytest.raises(BalancerError, match="is not finished; continue it with"):
        load_synthetic(tmp_path, load_dataset(config), config, "all")


def test_synthetic_images_get_the_marks_of_real_jpeg_files(chest_folder, tmp_path):
    """Real files are JPEG at the working size, synthetic ones PNG: uncoded, a classifier could learn the format."""
    for file in sorted(chest_folder.rglob("*.*")):
        if file.suffix.lower() in (".jpeg", ".jpg", ".png"):
            with Image.open(file) as image:
                small = image.convert("L").resize((32, 32))
            file.unlink()
            small.save(file.with_suffix(".jpeg"), quality=60)
    config = DataConfig(path=str(chest_folder), image_size=32)
    data = load_dataset(config)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    lines = [",".join(MANIFEST_COLUMNS), f"a.png,0,0,{digest},NORMAL,{data.split_hash}"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    loaded = load_synthetic(tmp_path, data, config, "all")
    Image.fromarray(pixels).save(tmp_path / "expected.jpeg", quality=60)
    with Image.open(tmp_path / "expected.jpeg") as expected:
        assert np.array_equal(loaded.images[0], np.asarray(expected))
    assert "JPEG" in loaded.coding
    assert loaded.digest != replace(loaded, coding="").digest
    uncoded = load_synthetic(tmp_path, data, config.model_copy(update={"image_size": 16}), "all")
    assert uncoded.images.shape == (1, 16, 16)
