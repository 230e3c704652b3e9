"""MedMNIST archives: good ones are read, bad ones are one clear line, and nothing is believed before it is checked."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from planted import Trap

from balancer.audit.findings import audit, caveats
from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data import npz
from balancer.data.dataset import load_dataset
from balancer.data.npz import read_npz

COUNTS = {"train": (6, 14), "val": (2, 4), "test": (3, 5)}


def arrays(channels: int = 1, size: int = 28, splits: tuple = ("train", "val", "test")) -> dict[str, np.ndarray]:
    """What the published files hold: images (N, 28, 28[, 3]) uint8 and labels (N, 1) uint8."""
    rng, made = np.random.default_rng(0), {}
    for split in splits:
        normal, pneumonia = COUNTS[split]
        shape = (normal + pneumonia, size, size, *([3] if channels == 3 else []))
        made[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        made[f"{split}_labels"] = np.array([0] * normal + [1] * pneumonia, dtype=np.uint8)[:, None]
    return made


def saved(path: Path, compressed: bool = True, **changed: object) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **{**arrays(), **changed})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BalancerError) as caught:
        read_npz(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_good_archive(tmp_path: Path, channels: int, compressed: bool) -> None:
    content = arrays(channels)
    records, images, _ = read_npz(saved(tmp_path / "pneumoniamnist_x.npz", compressed, **content))
    assert list(images) == ["train", "val", "test"]
    start = 0
    for split, (normal, pneumonia) in COUNTS.items():
        assert np.array_equal(images[split], content[f"{split}_images"])
        part = records[start : start + normal + pneumonia]
        assert {r.split for r in part} == {split}
        assert [r.label for r in part] == [0] * normal + [1] * pneumonia
        start += normal + pneumonia
    assert start == len(records)
    assert len({r.patient for r in records}) == len({r.name for r in records}) == len(records)


@pytest.mark.parametrize("channels", [1, 3])
def test_as_a_data_set(tmp_path: Path, channels: int) -> None:
    content = arrays(channels)
    path = saved(tmp_path / "pneumoniamnist_x.npz", **content)
    data = load_dataset(DataConfig(path=str(path), image_size=28))
    assert {fold: data.counts(fold) for fold in COUNTS} == COUNTS, "the archive's own validation split is kept"
    pixels = np.concatenate([content[f"{s}_images"] for s in COUNTS])
    assert data.channels == channels
    assert np.array_equal(data.images, pixels), "of the working size already"
    in_grey = load_dataset(DataConfig(path=str(path), image_size=28, channels=1)).images
    grey = pixels.astype(float) @ [0.299, 0.587, 0.114] if channels == 3 else pixels
    assert np.abs(in_grey - grey).max() <= 1
    assert any("image level" in note for note in data.notes)


@pytest.mark.parametrize(("size", "working"), [(28, 64), (64, 64), (128, 64), (224, 64), (28, 28)])
def test_the_published_sizes_and_what_is_said_of_enlarging(
    tmp_path: Path, size: int, working: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / f"pneumoniamnist_{size}.npz", **arrays(size=size))
    data = load_dataset(DataConfig(path=str(path), image_size=working))
    assert data.images.shape[1:] == (working, working)
    assert {fold: data.counts(fold) for fold in COUNTS} == COUNTS
    said = [note for note in data.notes if "enlarged" in note]
    assert len(said) == (size < working)
    assert all(f"{size} px and were enlarged to {working} px" in note and note in caplog.text for note in said)


def test_an_archive_has_two_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "pneumoniamnist_x.npz")
    with pytest.raises(BalancerError, match=r"x\.npz has two classes, NORMAL and PNEUMONIA, .*leave out --task"):
        load_dataset(DataConfig(path=str(path), image_size=28, task="multiclass"))


def test_the_audit_of_an_archive_repeats_what_is_to_be_known(tmp_path: Path) -> None:
    config = DataConfig(path=str(saved(tmp_path / "pneumoniamnist_x.npz")), image_size=32)
    told = caveats(audit(load_dataset(config), config))
    for words in ("names no patients", "were enlarged to 32 px"):
        assert any(words in caveat for caveat in told)


def test_a_fraction_carves_train_and_val_anew(tmp_path: Path) -> None:
    data = load_dataset(DataConfig(path=str(saved(tmp_path / "pneumoniamnist_x.npz")), image_size=28, val_fraction=0.5))
    assert data.counts("test") == COUNTS["test"]
    assert data.counts("val") == (4, 9)
    assert data.counts("train") == (4, 9)


def test_without_validation_some_is_carved(tmp_path: Path) -> None:
    np.savez(tmp_path / "pneumoniamnist_x.npz", **arrays(splits=("train", "test")))
    data = load_dataset(DataConfig(path=str(tmp_path / "pneumoniamnist_x.npz"), image_size=28))
    assert data.counts("val") == (1, 2)
    assert data.counts("train") == (5, 12)


def test_labels_in_a_row_or_a_column_of_any_integer_type(tmp_path: Path) -> None:
    flat = arrays()["train_labels"].reshape(-1).astype(np.int64)
    records, *_ = read_npz(saved(tmp_path / "pneumoniamnist_x.npz", train_labels=flat))
    assert [r.label for r in records[:20]] == flat.tolist()


def test_a_changed_label_changes_the_split_hash(tmp_path: Path) -> None:
    first = load_dataset(DataConfig(path=str(saved(tmp_path / "pneumoniamnist_a.npz")), image_size=28))
    labels = arrays()["train_labels"]
    labels[[0, -1]] = labels[[-1, 0]]
    second = load_dataset(
        DataConfig(path=str(saved(tmp_path / "pneumoniamnist_b.npz", train_labels=labels)), image_size=28)
    )
    assert first.counts("train") == second.counts("train")
    assert first.split_hash != second.split_hash
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("key", ["train_images", "train_labels", "val_labels", "test_labels"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    content = arrays()
    del content[key]
    np.savez(tmp_path / "pneumoniamnist_x.npz", **content)
    message = refusal(tmp_path / "pneumoniamnist_x.npz")
    assert repr(key) in message
    assert "test_images" in message, "what is there is not listed"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(20) % 3, "[0, 1, 2]"),
        (np.arange(20) % 2 - 1, "[-1, 0]"),
        (np.zeros(20, dtype=np.uint8), "[0]"),
        (np.arange(19) % 2, "expected 20 integers"),
        (np.zeros((20, 2), dtype=np.uint8), "expected 20 integers"),
        (np.arange(20) % 2 * 1.0, "float64"),
        (np.array(["0", "1"] * 10), "<U1"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: np.ndarray, says: str) -> None:
    message = refusal(saved(tmp_path / "pneumoniamnist_x.npz", train_labels=labels))
    assert says in message
    assert "train_labels" in message


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((20, 28, 28), dtype=np.float32),
        np.zeros((20, 28, 28), dtype=np.uint16),
        np.zeros((20, 28), dtype=np.uint8),
        np.zeros((20, 28, 28, 4), dtype=np.uint8),
        np.zeros((20, 28, 0), dtype=np.uint8),
        np.zeros((0, 28, 28), dtype=np.uint8),
        np.uint8(3),
    ],
)
def test_images_that_do_not_fit(tmp_path: Path, images: np.ndarray) -> None:
    assert "expected uint8" in refusal(saved(tmp_path / "pneumoniamnist_x.npz", train_images=images))


def test_no_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "pneumoniamnist_x.npz")


def test_a_web_page_under_the_archives_name(tmp_path: Path) -> None:
    """What a download by hand leaves where one had to log in."""
    for content in (b"<!DOCTYPE html><html>Log in</html>", b"\n <HTML><body>"):
        (tmp_path / "pneumoniamnist_x.npz").write_bytes(content)
        message = refusal(tmp_path / "pneumoniamnist_x.npz")
        assert "(a web page)" in message
        assert "`balancer fetch pneumoniamnist`" in message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "pneumoniamnist_x.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "fetch it again" in refusal(path)


def test_encrypted(tmp_path: Path) -> None:
    path = saved(tmp_path / "pneumoniamnist_x.npz")
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # of each member, in its own header and in the directory
        at = content.find(mark)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(mark, at + 4)
    path.write_bytes(content)
    assert "encrypted" in refusal(path)


def test_a_large_archive_is_mapped_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = arrays()
    path = saved(tmp_path / "pneumoniamnist_x.npz", **content)
    small = load_dataset(DataConfig(path=str(path), image_size=28))
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(npz, "_IN_MEMORY", 0)
    large = load_dataset(DataConfig(path=str(path), image_size=28))
    assert np.array_equal(small.images, large.images)
    assert (small.split_hash, small.fingerprint) == (large.split_hash, large.fingerprint)
    assert not list((tmp_path / "cache").rglob("*.npy.tmp")), "the unpacked file has a name"
    monkeypatch.setattr(npz.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(BalancerError, match="BALANCER_CACHE"):
        read_npz(path)[1]["train"][0]


def test_a_folder_or_a_text_inside(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    refusal(tmp_path / "folder.npz")
    with zipfile.ZipFile(tmp_path / "pneumoniamnist_x.npz", "w") as archive:
        archive.writestr("index.html", "<html>")
    refusal(tmp_path / "pneumoniamnist_x.npz")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_archive_is_one_line_never_a_traceback(tmp_path: Path, compressed: bool) -> None:
    smooth = np.broadcast_to(np.arange(28, dtype=np.uint8), (20, 28, 28))  # so that there is something to deflate
    path = saved(tmp_path / "pneumoniamnist_x.npz", compressed, train_images=smooth)
    whole, rng = path.read_bytes(), np.random.default_rng(2)
    messages = []
    for place in [*range(0, 100, 2), *rng.integers(0, len(whole), 120), *range(len(whole) - 300, len(whole), 3)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        try:
            read_npz(path)  # some bytes carry nothing
        except BalancerError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not [m for m in messages if "\n" in m]


@pytest.mark.parametrize("key", ["train_images", "extra"])
def test_pickled_objects_are_never_loaded(tmp_path: Path, key: str) -> None:
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(tmp_path / "sprung")
    message = refusal(saved(tmp_path / "pneumoniamnist_x.npz", **{key: trap}))
    assert "pickled" in message
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "pneumoniamnist_x.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refusal(tmp_path / "pneumoniamnist_x.npz")
    assert not (tmp_path / "sprung").exists()


def member(shape: tuple, data: bytes, filler: int = 0) -> bytes:
    """A hand-made .npy whose header claims ``shape``."""
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode() + b" " * filler + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data


def forged(path: Path, content: bytes, pretended_size: int | None = None) -> Path:
    """An archive holding ``content`` as train_images, its directory claiming another size if asked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train_images.npy", content)
        archive.writestr("train_labels.npy", member((2,), b"\x00\x01"))
    raw = buffer.getvalue()
    if pretended_size is not None:
        sizes = struct.pack("<II", len(content), len(content))
        assert raw.count(sizes) == 2  # local header and directory
        raw = raw.replace(sizes, struct.pack("<II", len(content), pretended_size))
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("shape", [(2, 30000, 30000), (10**15, 28, 28), (2, -28, 28), (2, 28, 27)])
@pytest.mark.parametrize("directory_lies_too", [False, True])
def test_memory_is_never_taken_on_a_headers_word(tmp_path: Path, shape: tuple, directory_lies_too: bool) -> None:
    content = member(shape, b"x" * 2 * 28 * 28)
    promised = len(member(shape, b"")) + int(np.prod(shape, dtype=object))
    directory_lies_too &= len(content) < promised < 2**32  # the directory's field is 32 bits wide
    path = forged(tmp_path / "pneumoniamnist_x.npz", content, promised if directory_lies_too else None)
    tracemalloc.start()  # numpy reports its arrays to it, touched or not
    try:
        message = refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "claims" in message
    assert peak < 20e6, f"{peak / 1e6:.0f} MB were taken"


def test_a_huge_header_is_one_line(tmp_path: Path) -> None:
    refusal(forged(tmp_path / "pneumoniamnist_x.npz", member((2, 28, 28), b"x" * 2 * 28 * 28, filler=20_000)))


def test_the_hand_made_archive_is_read_when_honest(tmp_path: Path) -> None:
    _, images, _ = read_npz(forged(tmp_path / "pneumoniamnist_x.npz", member((2, 28, 28), b"x" * 2 * 28 * 28)))
    assert (images["train"] == ord("x")).all()


BREAST = {"train": (147, 399), "val": (21, 57), "test": (42, 114)}  # Yang et al. 2023: malignant, then the others
PNEUMONIA = {"train": (1214, 3494), "val": (135, 389), "test": (234, 390)}


def of_counts(path: Path, counts: dict[str, tuple[int, int]]) -> Path:
    content = {}
    for split, (zeros, ones) in counts.items():
        content[f"{split}_images"] = np.zeros((zeros + ones, 8, 8), dtype=np.uint8)
        content[f"{split}_labels"] = np.repeat(np.array([0, 1], dtype=np.uint8), (zeros, ones))[:, None]
    np.savez_compressed(path, **content)
    return path


def test_the_labels_of_another_set_are_not_taken_for_those_of_its_name(tmp_path: Path) -> None:
    """In BreastMNIST 0 is malignant, in PneumoniaMNIST 0 is normal."""
    message = refusal(of_counts(tmp_path / "pneumoniamnist.npz", BREAST))
    assert "breastmnist" in message


@pytest.mark.parametrize(
    ("name", "counts"), [("breastmnist.npz", BREAST), ("b.npz", BREAST), ("breastmnist_64.npz", COUNTS)]
)
def test_classes_have_the_published_names(tmp_path: Path, name: str, counts: dict) -> None:
    data = load_dataset(DataConfig(path=str(of_counts(tmp_path / name, counts)), image_size=16))
    assert data.classes == ("normal or benign", "malignant"), "the rarer class is the positive one"
    assert {fold: data.counts(fold)[::-1] for fold in counts} == counts


def test_an_archive_of_another_origin_has_its_labels_for_names(tmp_path: Path) -> None:
    data = load_dataset(DataConfig(path=str(of_counts(tmp_path / "mine.npz", COUNTS)), image_size=16))
    assert data.classes == ("1", "0")
    assert any("names no classes" in note for note in data.notes)
    named = DataConfig(path=str(tmp_path / "mine.npz"), image_size=16, classes="0=well,1=ill", positive="ill")
    assert load_dataset(named).classes == ("well", "ill")


def test_each_image_keeps_its_class_where_others_are_left_out(tmp_path: Path) -> None:
    """Two choices have as many images: neither may be taken for the other in the cache."""
    labels = np.arange(24) % 3
    levels = np.uint8(50 + 50 * labels)[:, None, None] + np.arange(24, dtype=np.uint8)[:, None, None]
    images = np.broadcast_to(levels, (24, 16, 16))
    splits = ("train", "val", "test")
    arrays = {f"{split}_images": images for split in splits} | {f"{split}_labels": labels for split in splits}
    np.savez(tmp_path / "mine.npz", **arrays)
    for classes in ("0,1", "1,2", "2=a,0=b", "0,1=2,2"):
        config = DataConfig(path=str(tmp_path / "mine.npz"), image_size=16, classes=classes)
        data = load_dataset(config)
        names = dict(pair.split("=") if "=" in pair else (pair, pair) for pair in classes.split(","))
        shown = [names[str((int(image[0, 0]) - 50) // 50)] for image in data.images]
        assert shown == [data.classes[label] for label in data.labels]
        assert len(data.images) == len(data.digests) == (72 if len(names) == 3 else 48)


@pytest.mark.parametrize("name", ["pneumoniamnist_224.npz", "renamed.npz"])
def test_the_published_set_under_any_name(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_npz(of_counts(tmp_path / name, PNEUMONIA))[0]) == 5856
    assert not caplog.text


def test_a_part_of_the_set_keeps_its_name_and_is_remarked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_npz(of_counts(tmp_path / "PneumoniaMNIST-part.npz", COUNTS))
    assert "train 6 + 14" in caplog.text


def test_an_archive_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "pneumoniamnist.npz", train_images=np.zeros((20, 600, 600), dtype=np.uint8))
    monkeypatch.setattr(npz, "_MAX_BYTES", 5_000_000)
    assert "unpacks to" in refusal(path)


def test_images_too_small_for_a_chest(tmp_path: Path) -> None:
    assert "8 px" in refusal(saved(tmp_path / "pneumoniamnist.npz", train_images=np.zeros((20, 1, 1), dtype=np.uint8)))
