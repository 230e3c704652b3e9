"""The decoded images: made once, made again when they must be, never half made."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balancer.core.errors import BalancerError
from balancer.core.files import remove, temporary_path
from balancer.core.sealed import read_json, save_arrays, write_json
from balancer.core.settings import DataConfig
from balancer.data import cache, phantom
from balancer.data import decoded as decoding
from balancer.data.cache import cache_dir, decode_all, stat_stamp
from balancer.data.dataset import load_dataset, phantom_folder
from balancer.data.decoded import Reader
from balancer.data.depth import Decoding, Source
from balancer.data.digests import ROW, Digests

SIZE = 4


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sourced(decode: Callable[[int], np.ndarray]) -> Callable[[int, object], Decoding]:
    """The decoder of 8-bit images, which have no range to share."""
    return lambda i, _: Decoding(decode(i), Source(SIZE))


class Files:
    """Small files of SIZE x SIZE bytes that count how often each is hashed and decoded."""

    def __init__(self, root: Path, n: int = 6) -> None:
        root.mkdir(parents=True)
        self.root, self.names = root, [f"{i}.bin" for i in range(n)]
        for i, name in enumerate(self.names):
            (root / name).write_bytes(bytes([i]) * SIZE * SIZE)
        self.hashed: list[int] = []
        self.decoded: list[int] = []

    def digest(self, i: int) -> str:
        self.hashed.append(i)
        return hashlib.sha256((self.root / self.names[i]).read_bytes()).hexdigest()

    def decode(self, i: int) -> np.ndarray:
        self.decoded.append(i)
        content = (self.root / self.names[i]).read_bytes()
        if len(content) != SIZE * SIZE:
            raise OSError(f"{len(content)} bytes\nand a second line")
        return np.frombuffer(content, np.uint8).reshape(SIZE, SIZE)

    def load(self, max_bad: float = 0.5, decode: Callable | None = None, **settings: str | int) -> cache.Decoded:
        self.hashed.clear()
        self.decoded.clear()
        stamp = stat_stamp(self.root, self.names)
        return decode_all(
            self.names,
            stamp,
            self.digest,
            Reader(sourced(decode or self.decode), lambda _: SIZE),
            {"size": SIZE, **settings},
            max_bad,
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "files")


def later(path: Path) -> None:
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def test_images_come_in_the_order_asked_for(files: Files) -> None:
    loaded = files.load()
    assert loaded.images.shape == (6, SIZE, SIZE)
    assert [np.unique(image).tolist() for image in loaded.images] == [[i] for i in range(6)]
    assert (loaded.positions, loaded.bad) == (list(range(6)), [])
    assert list(loaded.digests) == [hashlib.sha256(bytes([i]) * SIZE * SIZE).hexdigest() for i in range(6)]


def test_images_are_a_read_only_map(files: Files) -> None:
    images = files.load().images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 1


def test_a_second_start_reads_no_file(files: Files) -> None:
    first = files.load()
    assert (len(files.hashed), len(files.decoded)) == (6, 6)
    second = files.load()
    assert (files.hashed, files.decoded) == ([], [])
    assert np.array_equal(first.images, second.images)
    assert list(first.digests) == list(second.digests)


def test_touched_files_are_hashed_again_not_decoded(files: Files) -> None:
    files.load()
    later(files.root / "3.bin")
    files.load()
    assert (len(files.hashed), files.decoded) == (6, [])


def test_changed_content_is_decoded(files: Files) -> None:
    files.load()
    (files.root / "3.bin").write_bytes(b"\x63" * SIZE * SIZE)
    later(files.root / "3.bin")
    loaded = files.load()
    assert len(files.decoded) == 6
    assert np.unique(loaded.images[3]) == [99]


@pytest.mark.parametrize("settings", [{"resize": "crop"}, {"anything": 1}])
def test_other_settings_are_decoded_and_kept_apart(files: Files, settings: dict) -> None:
    files.load()
    files.load(**settings)
    assert (files.hashed, len(files.decoded)) == ([], 6)
    files.load()
    assert files.decoded == []


def test_a_new_format_is_decoded(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.load()
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    files.load()
    assert len(files.decoded) == 6


def test_sets_of_equal_names_sizes_and_times_are_told_apart(tmp_path: Path) -> None:
    one, other = Files(tmp_path / "one"), Files(tmp_path / "other")
    (other.root / "2.bin").write_bytes(b"\x37" * SIZE * SIZE)
    for name in one.names:
        os.utime(one.root / name, ns=(1, 10**18))
        os.utime(other.root / name, ns=(1, 10**18))
    one.load()
    assert np.unique(other.load().images[2]) == [0x37]


def test_a_copy_elsewhere_is_hashed_not_decoded(tmp_path: Path) -> None:
    Files(tmp_path / "one").load()
    copy = Files(tmp_path / "copy")
    copy.load()
    assert (len(copy.hashed), copy.decoded) == (6, [])


def test_unreadable_files_are_listed_and_left_out(files: Files) -> None:
    (files.root / "1.bin").write_bytes(b"short")
    (files.root / "4.bin").write_bytes(b"")
    for _ in range(2):  # the second time from the cache
        loaded = files.load()
        assert loaded.bad == [("1.bin", "5 bytes"), ("4.bin", "0 bytes")]
        assert loaded.positions == [0, 2, 3, 5]
        assert [int(image[0, 0]) for image in loaded.images] == [0, 2, 3, 5]
        assert loaded.digests[1] == hashlib.sha256(b"\x02" * SIZE * SIZE).hexdigest()
    assert files.decoded == []


def test_too_many_unreadable_files_are_an_error(files: Files) -> None:
    for name in ("1.bin", "4.bin"):
        (files.root / name).write_bytes(b"short")
    for _ in range(2):
        with pytest.raises(BalancerError) as caught:
            files.load(max_bad=0.3)
        message = str(caught.value)
        assert "2 of 6 files" in message
        assert "--max-bad 0.3" in message
        assert "1.bin: 5 bytes" in message
        assert "\n" not in message
    assert files.load(max_bad=2 / 6).positions == [0, 2, 3, 5], "exactly the share allowed is allowed"


def test_nothing_readable_at_all(files: Files) -> None:
    for name in files.names:
        (files.root / name).write_bytes(b"")
    assert files.load(max_bad=1).images.shape == (0, SIZE, SIZE)


def test_a_file_that_cannot_be_opened_is_asked_for_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions are mended without a trace in size or time of change."""

    def denied(i: int) -> str:
        raise PermissionError(13, "Permission denied")

    def no_image(i: int) -> np.ndarray:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr(files, "digest", denied)
        assert len(files.load(max_bad=1, decode=no_image).bad) == 6
    assert files.load().positions == list(range(6))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug"), MemoryError()])
def test_an_interruption_leaves_nothing_half_made(files: Files, empty_cache: Path, error: BaseException) -> None:
    calls = []

    def decode(i: int) -> np.ndarray:
        calls.append(i)
        if len(calls) == 4:
            raise error
        return files.decode(i)

    with pytest.raises(type(error)):
        files.load(decode=decode)
    assert not [p for p in (empty_cache / "images").iterdir() if p.is_dir()]
    assert files.load().positions == list(range(6))
    assert len(files.decoded) == 6


def test_a_killed_process_leaves_nothing_half_made(files: Files) -> None:
    code = (
        "import os, sys, numpy as np, hashlib\nfrom pathlib import Path\nfrom balancer.data.cache import *\n"
        f"root, names = Path({str(files.root)!r}), {files.names!r}\n"
        "def decode(i, _):\n    if i == 4: os._exit(9)\n    return Decoding(np.zeros((4, 4), np.uint8), Source(4))\n"
        "digest = lambda i: hashlib.sha256((root / names[i]).read_bytes()).hexdigest()\n"
        "reader = Reader(decode, lambda _: 4)\n"
        "decode_all(names, stat_stamp(root, names), digest, reader, {'size': 4, 'resize': 'pad'}, 0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, cwd=files.root)
    assert done.returncode == 9, done.stderr
    loaded = files.load()
    assert len(files.decoded) == 6
    assert int(loaded.images[5, 0, 0]) == 5


def test_a_folder_without_its_last_file_is_made_again(files: Files, empty_cache: Path) -> None:
    files.load()
    (meta,) = empty_cache.glob("images/*/meta.json")
    meta.unlink()
    (meta.parent / "images.npy").write_bytes(b"half")
    assert int(files.load().images[5, 0, 0]) == 5
    assert len(files.decoded) == 6


def test_two_at_once_decode_once(files: Files) -> None:
    files.load(resize="warm-up")  # so that both only decode
    counts: list[int] = []

    def decode(i: int) -> np.ndarray:
        counts.append(i)
        return np.full((SIZE, SIZE), i, dtype=np.uint8)

    results: list[cache.Decoded] = []
    threads = [threading.Thread(target=lambda: results.append(files.load(decode=decode))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == list(range(6))
    assert all(np.array_equal(r.images, results[0].images) for r in results)
    assert len(results) == 3


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Files) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "elsewhere" / "deep"))
    files.load()
    assert list((tmp_path / "elsewhere" / "deep" / "images").glob("*/images.npy"))
    monkeypatch.setenv("BALANCER_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().name == "xray-balancer"
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / "xdg" / "xray-balancer"


def test_a_cache_that_cannot_be_made_is_one_line(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BalancerError, match="BALANCER_CACHE") as caught:
        files.load()
    assert "\n" not in str(caught.value)


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def resealed(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def other_array(path: Path, array: np.ndarray) -> None:
    np.save(path, array)
    resealed(path.parent / "meta.json", images_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a pixel": ("images.npy", lambda p: flip(p, 0.99)),
    "the header": ("images.npy", lambda p: flip(p, 0.3)),
    "cut": ("images.npy", lambda p: p.write_bytes(p.read_bytes()[:-5])),
    "empty": ("images.npy", lambda p: p.write_bytes(b"")),
    "gone": ("images.npy", Path.unlink),
    "a folder": ("images.npy", a_folder),
    "another shape": ("images.npy", lambda p: other_array(p, np.zeros((6, 5, 5), np.uint8))),
    "another type": ("images.npy", lambda p: other_array(p, np.zeros((6, SIZE, SIZE), np.float32))),
    "no array": ("images.npy", lambda p: other_array(p, np.zeros(3))),
    "meta cut": ("meta.json", lambda p: p.write_bytes(p.read_bytes()[:-40])),
    "meta empty": ("meta.json", lambda p: p.write_bytes(b"")),
    "meta flipped": ("meta.json", lambda p: flip(p, 0.2)),
    "meta gone": ("meta.json", Path.unlink),
    "meta a folder": ("meta.json", a_folder),
    "meta of another kind": ("meta.json", lambda p: write_json(p, {"a": 1})),
    "other positions": ("meta.json", lambda p: resealed(p, kept=[0, 1, 2, 3, 4, 99])),
    "a position twice": ("meta.json", lambda p: resealed(p, kept=[0, 1, 2, 3, 4, 4])),
    "a wrong type": ("meta.json", lambda p: resealed(p, ranges=[1])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_decoded_again_with_a_warning(
    damage: str, files: Files, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = np.array(files.load().images)
    name, change = DAMAGES[damage]
    (path,) = empty_cache.glob(f"images/*/{name}")
    change(path)
    for decodes in (6, 0):
        loaded = files.load()
        assert np.array_equal(loaded.images, expected)
        assert len(files.decoded) == decodes
    (line,) = caplog.messages
    assert str(path.parent) in line
    assert "decoded again" in line


def test_a_file_in_place_of_the_folder(files: Files, empty_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    files.load()
    (folder,) = [p for p in (empty_cache / "images").iterdir() if p.is_dir()]
    remove(folder)
    folder.write_bytes(b"no folder")
    assert files.load().positions == list(range(6))
    assert "decoded again" in caplog.text


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_key_is_that_of_one_json_text(n: int) -> None:
    """Earlier versions encoded a list, and what they decoded stays in use."""
    digests, settings = [hashlib.sha256(bytes([i])).hexdigest() for i in range(n)], {"size": 4, "resize": "pad"}
    for more in ([], [{"u16": 4095.0}]):
        expected = json.dumps([cache.FORMAT, digests, settings, *more], sort_keys=True)
        assert "".join(cache._facts(Digests(digests), settings, *more)) == expected


def test_digests_of_an_earlier_version_are_removed_once_there_are_new_ones(files: Files, empty_cache: Path) -> None:
    files.load()
    (path,) = empty_cache.glob("stat/*.npz")
    earlier = path.with_suffix(".json")
    path.rename(earlier)
    files.load()
    assert path.exists()
    assert not earlier.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: flip(p, 0.3),
        lambda p: p.write_bytes(b""),
        a_folder,
        lambda p: save_arrays(p, {"digests": np.array(["a"], ROW)}),
        lambda p: save_arrays(p, {"digests": np.zeros(6)}),
        lambda p: save_arrays(p, {"other": np.zeros(6)}),
    ],
)
def test_damaged_digests_are_hashed_again_with_a_warning(
    change: Callable[[Path], object], files: Files, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = list(files.load().digests)
    (path,) = empty_cache.glob("stat/*.npz")
    change(path)
    assert list(files.load().digests) == expected
    assert (len(files.hashed), files.decoded) == (6, [])
    assert list(files.load().digests) == expected
    assert files.hashed == []
    (line,) = caplog.messages
    assert str(path) in line
    assert "hashed again" in line


def test_a_replaced_file_of_equal_size_and_time_is_seen(files: Files, tmp_path: Path) -> None:
    files.load()
    old, new = files.root / "3.bin", tmp_path / "new"
    new.write_bytes(b"\x63" * SIZE * SIZE)
    os.utime(new, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    new.replace(old)
    assert np.unique(files.load().images[3]) == [0x63]


def test_a_full_disk_is_an_error_before_anything_is_decoded(
    files: Files, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to the memory map would be the end of the process, without a word."""

    def full(_handle: int, _start: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full, raising=False)
    with pytest.raises(BalancerError, match="No space left") as caught:
        files.load()
    assert str(empty_cache) in str(caught.value)
    assert files.decoded == []
    assert not [p for p in (empty_cache / "images").iterdir() if p.is_dir()]


@pytest.mark.parametrize("can_reserve", [True, False])
def test_the_space_is_there_before_the_first_write(
    can_reserve: bool, files: Files, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system has no call to reserve it."""
    if not can_reserve:
        monkeypatch.delattr(cache.os, "posix_fallocate", raising=False)
    sides: list[int] = []

    def decode(i: int) -> np.ndarray:
        (file,) = empty_cache.glob("images/.*.tmp/images.npy")
        sides.append(512 * file.stat().st_blocks - file.stat().st_size)
        return files.decode(i)

    loaded = files.load(decode=decode)
    assert [int(image[0, 0]) for image in loaded.images] == list(range(6))
    if can_reserve:
        assert min(sides) >= 0


def test_leftovers_of_dead_processes_alone_are_swept(files: Files, empty_cache: Path) -> None:
    import subprocess

    images = empty_cache / "images"
    images.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    ours = temporary_path(images / "x")
    ours.mkdir()
    dead = images / ours.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    dead.mkdir()
    (dead / "images.npy").write_bytes(b"half")
    files.load()
    assert not dead.exists()
    assert ours.exists()


def test_no_lock_is_left(files: Files, empty_cache: Path) -> None:
    files.load()
    assert not list(empty_cache.rglob("*.lock"))


LAYOUT = {"a": ("float64", (3,))}


@pytest.mark.parametrize(
    "change",
    [
        flip,
        lambda p: p.write_bytes(b""),
        a_folder,
        lambda p: save_arrays(p, {"a": np.ones(4)}),
        lambda p: save_arrays(p, {"a": np.ones(3, np.float32)}),
        lambda p: save_arrays(p, {"a": np.full(3, np.nan)}),
        lambda p: save_arrays(p, {"b": np.ones(3)}),
    ],
)
def test_damaged_arrays_are_made_again_with_a_warning(
    change: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the audit and of feature networks."""
    made: list[int] = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"a": np.arange(3.0)}

    path = tmp_path / "x.npz"
    for _ in range(2):
        assert cache.cached_arrays(path, LAYOUT, make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 1
    change(path)
    for _ in range(2):
        assert cache.cached_arrays(path, LAYOUT, make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 2
    (line,) = caplog.messages
    assert str(path) in line


def test_a_changed_drawing_is_noticed(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole and readable, but not what was drawn; missing; and a set of an earlier version, without its sum."""
    spec = phantom.PhantomSpec(size=16, train=(3, 4), val=(1, 1), test=(2, 2))
    monkeypatch.setattr(phantom, "PhantomSpec", lambda: spec)
    folder = phantom_folder()
    drawn = {name: (folder / name).read_bytes() for name in phantom.drawings(folder)}
    phantom_folder()
    assert not caplog.messages
    first, second, *_ = drawn
    for damage in (
        lambda: (folder / first).write_bytes(drawn[second]),
        (folder / first).unlink,
        lambda: write_json(folder / "phantom.json", {"format": 1}),
        (folder / "phantom.json").unlink,
    ):
        caplog.clear()
        damage()
        assert phantom_folder() == folder
        assert {name: (folder / name).read_bytes() for name in phantom.drawings(folder)} == drawn
        assert [str(folder) in line for line in caplog.messages] == [True]


def test_a_whole_data_set(
    chest_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoded: list[Path] = []
    read = decoding.decode_image
    monkeypatch.setattr(decoding, "decode_image", lambda path, *a: (decoded.append(path), read(path, *a))[1])
    config = DataConfig(path=str(chest_folder), image_size=16, max_bad=0.05)

    def decodes(config: DataConfig) -> int:
        decoded.clear()
        load_dataset(config)
        return len(decoded)

    assert decodes(config) == 114
    assert decodes(config) == 0
    assert decodes(config.model_copy(update={"val_fraction": 0.3, "split_seed": 5})) == 0, "a split decodes nothing"
    image = sorted((chest_folder / "train" / "NORMAL").iterdir())[0]
    later(image)
    assert decodes(config) == 0
    assert decodes(config.model_copy(update={"image_size": 17})) == 114
    assert decodes(config.model_copy(update={"resize": "pad"})) == 114
    image.write_bytes(image.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, "balancer"):
        data = load_dataset(config)
    assert [name for name, _ in data.bad] == [f"train/NORMAL/{image.name}"]
    assert image.name in caplog.text
    assert len(data.records) == len(data.images) == len(data.digests) == 113
    assert image.name not in [Path(r.name).name for r in data.records if r.split == "train"]
    with pytest.raises(BalancerError, match="1 of 114 files"):
        load_dataset(config.model_copy(update={"max_bad": 0.0}))


def test_a_file_replaced_by_one_of_equal_size_and_time_is_seen(files: Files) -> None:
    files.load()
    path, other = files.root / "3.bin", files.root / "new"
    other.write_bytes(b"\x63" * SIZE * SIZE)
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert np.unique(files.load().images[3]) == [0x63]
    path.write_bytes(b"\x64" * SIZE * SIZE)  # the same inode
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert np.unique(files.load().images[3]) == [0x64]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("step", ["digest", "decode"])
def test_what_the_disk_refuses_is_read_again(
    number: int, step: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file stays bad without another look; a file that the disk refused is tried at every start."""
    (files.root / "1.bin").write_bytes(b"damaged")
    usual = getattr(files, step)

    def refusing(i: int) -> object:
        if i == 4:
            raise OSError(number, os.strerror(number), files.names[i])
        return usual(i)

    with monkeypatch.context() as patch:
        patch.setattr(files, step, refusing)
        first = files.load()
        assert [name for name, _ in first.bad] == ["1.bin", "4.bin"]
        assert cache.AGAIN in first.bad[1][1]
        assert cache.AGAIN not in first.bad[0][1]
        assert files.load().positions == first.positions
        assert files.decoded in ([], [4]), "the others stay as they are"
    assert files.load().positions == [0, 2, 3, 4, 5]
    assert files.load().positions == [0, 2, 3, 4, 5]
    assert not files.decoded


def test_no_more_threads_decode_than_processors_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "allowed_processors", lambda: 2)
    monkeypatch.setattr(cache.os, "cpu_count", lambda: 64)
    names: set[str] = set()
    barrier = threading.Event()

    def work(i: int) -> int:
        names.add(threading.current_thread().name)
        barrier.wait(0.01)
        return i

    assert cache.in_threads(work, 12, "test") == list(range(12))
    assert len(names) <= 2


def test_large_sets_are_read_and_written_in_parts(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is begun when the one before is done: neither futures nor pixels of a whole set are held."""
    monkeypatch.setattr(cache, "WINDOW", 2)
    begun: list[int] = []
    ahead: list[int] = []  # items begun when each result is taken

    class SlowBar:
        def update(self) -> None:
            time.sleep(0.01)
            ahead.append(len(begun))

    with monkeypatch.context() as patch:
        patch.setattr(cache.progress, "bar", lambda *_: contextlib.nullcontext(SlowBar()))
        assert len(cache.in_threads(begun.append, 7, "test")) == 7
    assert all(n <= i - i % 2 + 2 for i, n in enumerate(ahead))
    (files.root / "1.bin").write_bytes(b"short")
    loaded = files.load()
    assert [int(image[0, 0]) for image in loaded.images] == [0, 2, 3, 4, 5]
    assert files.load().positions == loaded.positions
