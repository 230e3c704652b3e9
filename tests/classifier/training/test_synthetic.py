"""Manifests: of the same split, of the minority class, whole, unchanged, and as many images as asked for."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile, write_with_sum
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
    first = loaded.first([2 * (k == data.minority_class) for k in range(2)])
    assert first.digest == load_synthetic(folder, data, CONFIG, 2).digest
    assert np.array_equal(first.images, loaded.images[:2])


def report(folder: Path, seed: int, step: int = 7) -> str:
    """What a synthesis of ours says of its GAN."""
    (folder / "report.json").write_text(json.dumps({"gan_config": {"seed": seed}, "gan_step": step}))
    return str(folder)


def test_an_imported_set_is_known_by_its_checkpoint(make_manifest: Make, data: Dataset, tmp_path: Path) -> None:
    paths = []
    for i, checkpoint in enumerate(("a" * 64, "a" * 64, None)):
        folder = make_manifest(tmp_path / str(i), 6, data.split_hash, first=20 * i, label=data.minority_class)
        imported = {"folder": "x", "generator": "StyleGAN3", "checkpoint_sha256": checkpoint}
        (folder / "report.json").write_text(json.dumps({"imported": imported}))
        paths.append(str(folder))
    known, unknown = load_sets([paths[0], paths[2]], data, CONFIG, "deficit")
    assert (known.generator, unknown.generator) == ("a" * 64, "")
    assert "StyleGAN3" in known.caveat
    with pytest.raises(BalancerError, match="come from one generator"):
        load_sets(paths[:2], data, CONFIG, "deficit")
    (Path(paths[0]) / "config.yaml").write_text("data: {}")
    (Path(paths[0]) / "env.json").write_text('{"command": "import"}')
    with pytest.raises(BalancerError, match="balancer import --resume"):
        load_sets(paths[:1], data, CONFIG, "deficit")


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
    with pytest.raises(BalancerError, match=r"s2\.png is damaged: it is not the image .*SHA-256 differs"):
        load_synthetic(folder, data, CONFIG, "deficit")
    assert len(load_synthetic(folder, data, CONFIG, 2).images) == 2, "what is not used is not read"


def test_a_collapsed_generator_is_no_damaged_file(folder: Path, data: Dataset) -> None:
    """To synthesize again would give the same images."""
    edit(folder, lambda rows: rows[3].__setitem__(3, rows[2][3]))
    with pytest.raises(BalancerError, match=r"1 images equal another one.*sha256.*collapsed") as refused:
        load_synthetic(folder, data, CONFIG, "deficit")
    assert not isinstance(refused.value, DamagedFile)


def test_a_listed_file_that_is_missing_or_no_image(folder: Path, data: Dataset) -> None:
    (folder / "images/NORMAL/s1.png").unlink()
    with pytest.raises(BalancerError, match=r"s1\.png is damaged: it is listed in the manifest, and cannot be read"):
        load_synthetic(folder, data, CONFIG, "deficit")
    (folder / "images/NORMAL/s0.png").write_bytes(b"text")
    edit(folder, lambda rows: [r.__setitem__(3, hashlib.sha256(b"text").hexdigest()) for r in rows if r[1] == "0"])
    with pytest.raises(BalancerError, match=r"s0\.png is damaged: it is listed in the manifest, and cannot be read"):
        load_synthetic(folder, data, CONFIG, 1)


def test_a_pipe_in_place_of_an_image_is_refused_and_not_waited_for(folder: Path, data: Dataset) -> None:
    (folder / "images/NORMAL/s1.png").unlink()
    os.mkfifo(folder / "images/NORMAL/s1.png")
    with pytest.raises(
        BalancerError,
        match=r"s1\.png is damaged: it is listed in the manifest, and cannot be read \(it is no regular file",
    ):
        load_synthetic(folder, data, CONFIG, "deficit")


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


def again(rows: list[list[str]]) -> None:
    rows += [list(row) for row in rows[1:]]


def renamed(rows: list[list[str]]) -> None:
    rows += [[f"./{row[0]}", str(10 + int(row[1])), *row[2:]] for row in rows[1:]]


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (again, "index"),
        (lambda rows: rows.append(list(rows[3])), "line 8 that of line 4"),
        (renamed, "sha256"),
        (lambda rows: rows[1].__setitem__(0, rows[2][0]), "file"),
        (lambda rows: rows[1].__setitem__(0, "../outside.png"), "outside.png"),
        (lambda rows: rows[1].__setitem__(0, "images/../../outside.png"), "outside.png"),
        (lambda rows: rows[1].__setitem__(0, "/etc/hostname"), "hostname"),
        (lambda rows: rows[1].__setitem__(0, "a" * 5000), "line 2"),
        (lambda rows: rows[1].__setitem__(0, ""), "line 2: file"),
        (lambda rows: rows[1].__setitem__(0, "a\0b"), "line 2: file"),
        (lambda rows: rows[2].__setitem__(1, "two"), "line 3: index"),
        (lambda rows: rows[2].__setitem__(1, "-1"), "line 3: index"),
        (lambda rows: rows[2].__setitem__(1, "1.0"), "line 3: index"),
        (lambda rows: rows[2].__setitem__(2, "1.23457E+18"), "line 3: seed"),
        (lambda rows: rows[2].__setitem__(3, "abc"), "line 3: sha256"),
        (lambda rows: rows[2].append("more"), "line 3 has 7 values"),
        (lambda rows: rows[2].pop(), "line 3 has 5 values"),
        (lambda rows: rows[0].append("file"), "file"),
        (lambda rows: rows[2].__setitem__(0, "x" * 200_000), "field larger"),
        (lambda rows: rows.__delitem__(slice(1, None)), "lists no image"),
    ],
)
def test_a_manifest_that_is_not_what_it_says(
    folder: Path, data: Dataset, change: Callable[[list[list[str]]], object], phrase: str
) -> None:
    edit(folder, change)
    (folder.parent / "outside.png").write_bytes((folder / "images/NORMAL/s0.png").read_bytes())
    with pytest.raises(BalancerError, match=rf"manifest\.csv.*{phrase}") as error:
        load_synthetic(folder, data, CONFIG, "all")
    assert "\n" not in str(error.value)


def test_a_link_out_of_the_set_is_refused(folder: Path, data: Dataset) -> None:
    file = folder / "images/NORMAL/s0.png"
    file.rename(folder.parent / "outside.png")
    file.symlink_to(folder.parent / "outside.png")
    with pytest.raises(BalancerError, match=r"manifest\.csv.*s0\.png.*outside"):
        load_synthetic(folder, data, CONFIG, "all")
    (folder.parent / "link").symlink_to(folder)
    file.unlink()
    (folder.parent / "outside.png").rename(file)
    assert len(load_synthetic(folder.parent / "link", data, CONFIG, "all").images) == 6, "the set itself may be a link"


def test_what_excel_saves(folder: Path, data: Dataset) -> None:
    """A byte-order mark and CRLF are read; semicolons are refused with advice."""
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(load_synthetic(folder, data, CONFIG, "all").images) == 6
    (folder / "manifest.csv").write_text(text.replace(",", ";"))
    with pytest.raises(BalancerError, match=r"manifest\.csv.*';'.*commas"):
        load_synthetic(folder, data, CONFIG, "all")


def test_a_manifest_that_its_sum_does_not_fit(folder: Path, data: Dataset) -> None:
    text = (folder / "manifest.csv").read_text()
    write_with_sum(folder / "manifest.csv", text)
    assert len(load_synthetic(folder, data, CONFIG, "all").images) == 6
    (folder / "manifest.csv").write_text(text.replace("1003", "1001"))
    with pytest.raises(BalancerError, match=r"manifest\.csv is damaged.*remove manifest\.csv\.sha256"):
        load_synthetic(folder, data, CONFIG, "all")


def listed(folder: Path, split_hash: str, images: list[np.ndarray | Image.Image]) -> Path:
    """Write a set of these images."""
    folder.mkdir()
    lines = [",".join(MANIFEST_COLUMNS)]
    for i, image in enumerate(images):
        file = folder / f"{i}.png"
        note = PngInfo()
        note.add_text("number", str(i))  # so that equal pixels are different files
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, pnginfo=note)
        lines.append(f"{i}.png,{i},0,{hashlib.sha256(file.read_bytes()).hexdigest()},NORMAL,{split_hash}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_equal_images_are_no_images_of_their_own(data: Dataset, tmp_path: Path) -> None:
    """As of a collapsed GAN, or one of weights that are no numbers; other bytes of the same pixels count too."""
    black = np.zeros((16, 16), np.uint8)
    noise = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8))
    with pytest.raises(BalancerError, match=r"3 of 4 images of .* are equal to another, first 1\.png to 0\.png"):
        load_synthetic(listed(tmp_path / "a", data.split_hash, [black] * 4), data, CONFIG, "all")
    mixed = listed(tmp_path / "b", data.split_hash, [*noise, noise[1]])
    with pytest.raises(BalancerError, match=r"1 of 4 images .* first 3\.png to 1\.png"):
        load_synthetic(mixed, data, CONFIG, "all")
    assert len(load_synthetic(mixed, data, CONFIG, 3).images) == 3


def test_images_of_another_size_or_mode_than_the_rest(data: Dataset, tmp_path: Path) -> None:
    noise = [Image.fromarray(a) for a in np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)]
    for name, other in (("rgb", noise[2].convert("RGB")), ("large", noise[2].resize((20, 20)))):
        path = listed(tmp_path / name, data.split_hash, [*noise[:2], other])
        with pytest.raises(BalancerError, match=r"2\.png is .*, most images of the set are 16 x 16 px of mode L"):
            load_synthetic(path, data, CONFIG, "all")


@pytest.mark.parametrize("fold", ["val", "test"])
def test_copies_of_real_images_are_refused(fold: str, data: Dataset, tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8))
    path = listed(tmp_path / "s", data.split_hash, [*noise, data.images[data.indices(fold)[0]]])
    with pytest.raises(BalancerError, match=rf"1 of 4 images of .* are copies of real {fold} images, first 3\.png"):
        load_synthetic(path, data, CONFIG, "all")


def test_copies_of_training_images_are_said(data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = listed(tmp_path / "s", data.split_hash, list(data.images[data.indices("train")[:3]]))
    with caplog.at_level(logging.WARNING, "balancer"):
        load_synthetic(path, data, CONFIG, "all")
    assert "3 of 3 images" in caplog.text
    assert "real train images" in caplog.text


def test_a_copy_of_a_set_is_no_other_gan_seed(
    folder: Path, data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its report is gone and its files are other bytes, but the images are the same."""
    report(folder, 0)
    images = [Image.open(folder / f"images/NORMAL/s{i}.png") for i in range(4)]
    copy = listed(tmp_path / "copy", data.split_hash, list(reversed(images)))
    with pytest.raises(BalancerError, match=r"come from one generator \(4 of 4 images are the same\)"):
        load_sets([str(folder), str(copy)], data, CONFIG, "deficit")
    other = listed(tmp_path / "other", data.split_hash, [image.rotate(90) for image in images])
    with caplog.at_level(logging.WARNING, "balancer"):
        assert len(load_sets([str(folder), str(other)], data, CONFIG, "deficit")) == 2
    assert f"{other} has no report.json" in caplog.text
    assert "not known" in caplog.text


def test_images_of_a_class_that_thinning_left_alone_may_come_from_the_split_before_it(
    make_manifest: Make, data: Dataset, tmp_path: Path
) -> None:
    before = make_manifest(tmp_path / "before", 6, "b" * 16)
    few = data.minority_class
    folds = data.folds.astype("<U6")
    folds[data.indices("train", 1 - few)[0]] = "unused"
    thinned = replace(data, folds=folds, full_split_hash="b" * 16)
    assert len(load_synthetic(before, thinned, CONFIG, 1).images) == 1
    folds[data.indices("train", few)[0]] = "unused"
    for other in (data, thinned):  # its GAN saw images that are of no use here
        with pytest.raises(BalancerError, match="was made under split"):
            load_synthetic(before, other, CONFIG, 1)


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
