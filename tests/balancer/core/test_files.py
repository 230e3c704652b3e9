"""Files are whole or not there; rows of JSON lines survive a kill and do not mix."""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from balancer.core.files import atomic_file, sweep, sweep_beside, temporary_path, write_text
from balancer.core.jsonl import append_jsonl, keep_jsonl, read_jsonl
from balancer.core.sealed import read_json, write_json


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_file_is_whole_or_as_it_was(tmp_path: Path, error: BaseException, before: bytes | None) -> None:
    path = tmp_path / "x.bin"
    if before is not None:
        path.write_bytes(before)

    def fail() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half of the new")
            handle.flush()
            assert (path.read_bytes() if path.exists() else None) == before, "seen before it is whole"
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (path.read_bytes() if path.exists() else None) == before
    assert [p.name for p in tmp_path.iterdir()] == (["x.bin"] if before else [])


def test_a_file_replaces_the_old_one_and_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old, and longer")
    write_text(path, "néw")
    assert path.read_text(encoding="utf-8") == "néw"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    (tmp_path / "plain.txt").touch()
    assert path.stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.slow
def test_kills_leave_whole_files_only(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom balancer.core.files import write_text\n"
        "print('ready', flush=True)\n"
        "while True:\n    for c in 'ab':\n        write_text(Path(sys.argv[1]), c * 300_000)\n"
    )
    path = tmp_path / "x.txt"
    for pause in (0.01, 0.03, 0.05, 0.08):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(pause)
        process.kill()
        process.wait()
        process.stdout.close()
        text = path.read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None]}


# --- JSON lines


def test_rows_are_appended(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.jsonl", [{"step": 1}, {"text": "a\nb\u2028c é"}, {}]
    assert read_jsonl(path) == []
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_swallows_nothing(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.jsonl"
    append_jsonl(path, {"step": 1})
    append_jsonl(path, {"step": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    append_jsonl(path, {"step": 3})
    with caplog.at_level(logging.WARNING, "balancer"):
        steps = [row["step"] for row in read_jsonl(path)]
    whole = cut == 1  # only the line's end was lost
    assert steps == ([1, 2, 3] if whole else [1, 3])
    assert ("line 2 is torn" in caplog.text) == (not whole)


def test_a_file_that_is_all_torn(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1')
    assert read_jsonl(path) == []
    append_jsonl(path, {"b": 2})
    assert read_jsonl(path) == [{"b": 2}]


def test_a_row_that_json_cannot_hold_is_not_begun(tmp_path: Path) -> None:
    append_jsonl(tmp_path / "x.jsonl", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_jsonl(tmp_path / "x.jsonl", {"loss": float("inf")})
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 1}]


def test_unwanted_rows_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for step in range(5):
        append_jsonl(path, {"step": step})
    with path.open("a") as handle:
        handle.write('{"step": 5, "lo')
    keep_jsonl(path, lambda row: row["step"] < 3)
    assert len(path.read_text().splitlines()) == 3
    assert read_jsonl(path) == [{"step": 0}, {"step": 1}, {"step": 2}]
    keep_jsonl(path, lambda row: False)
    assert read_jsonl(path) == []


def rows_of(who: str) -> list[dict]:
    return [{"who": who, "i": i, "long": who * 3000} for i in range(40)]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    threads = [threading.Thread(target=lambda w=w: [append_jsonl(path, r) for r in rows_of(w)]) for w in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_jsonl(path)
    assert len(found) == 120
    for who in "abc":
        assert [r for r in found if r["who"] == who] == rows_of(who)


def test_a_writer_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    thread = threading.Thread(target=append_jsonl, args=(path, {"a": 1}))
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        thread.start()
        thread.join(timeout=0.2)
        assert read_jsonl(path) == []
    thread.join(timeout=10)
    assert read_jsonl(path) == [{"a": 1}]


def test_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    code = (
        "import sys, os, time\nfrom pathlib import Path\nfrom balancer.core.run import append_jsonl\n"
        "path, who = Path(sys.argv[1]), sys.argv[2]\n"
        "while not path.with_suffix('.go').exists(): time.sleep(0.005)\n"
        "for i in range(40): append_jsonl(path, {'who': who, 'i': i, 'long': who * 3000})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "ab"]
    time.sleep(0.6)
    path.with_suffix(".go").touch()
    assert [w.wait(timeout=60) for w in writers] == [0, 0]
    found = read_jsonl(path)
    assert len(found) == 80
    for who in "ab":
        assert [r for r in found if r["who"] == who] == rows_of(who)


# --- what killed processes leave


def test_the_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    """Of processes that live, and of other machines, only what is a day old."""
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    here = temporary_path(tmp_path / "x").name.split(".")[-2].split("-")[0]

    def left(name: str, days: float = 0) -> Path:
        path = tmp_path / "deep" / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.startswith(".key") else path.touch()
        os.utime(path, (time.time() - days * 86_400 - 60,) * 2)
        return path

    gone = [
        left(f".model.pt.{here}-{dead.pid}-7.tmp"),
        left(f".key.{here}-{dead.pid}-7.tmp"),
        left(f".old.pt.{here}-{os.getpid()}-7.tmp", days=1),
        left(f".model.pt.00000000-{os.getpid()}-7.tmp", days=1),
        left(".model.pt.123-456.tmp", days=1),
        left(".decoding-abcd_123", days=1),
        left(".phantom-4-128-0-abcd_123", days=1),
    ]
    kept = [
        left(f".model.pt.{here}-{os.getpid()}-7.tmp"),
        left(f".model.pt.00000000-{dead.pid}-7.tmp"),
        left(f".model.pt.{dead.pid}-456.tmp"),
        left(".decoding-abcd_124"),
        left("results.tmp", days=9),
        left(".hidden.tmp", days=9),
    ]
    sweep(tmp_path)
    assert [p.name for p in gone if p.exists()] == []
    assert [p.name for p in kept if not p.exists()] == []


def test_beside_a_folder_only_its_own_leftovers_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    here = temporary_path(tmp_path / "x").name.split(".")[-2].split("-")[0]
    own, other, deep = (
        tmp_path / name
        for name in (
            f".maps[1].{here}-{dead.pid}-7.tmp",
            f".model.pt.{here}-{dead.pid}-7.tmp",
            f"deep/.maps[1].{here}-{dead.pid}-7.tmp",
        )
    )
    for folder in (own, other, deep):
        folder.mkdir(parents=True)
    sweep_beside(tmp_path / "maps[1]")
    assert [folder.exists() for folder in (own, other, deep)] == [False, True, True]


def test_a_name_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    """The temporary file's name is no longer."""
    write_text(tmp_path / ("é" * 120 + ".txt"), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "names.csv", "R\udcf6ntgen.png,é\n")
    assert (tmp_path / "names.csv").read_text(encoding="utf-8") == "R\\udcf6ntgen.png,é\n"
