"""Run directories: one user at a time, resumed as they were started."""

import errno
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from balancer.core import run as run_module
from balancer.core.config import resolve, validate
from balancer.core.environment import environment, git_commit
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.files import write_text
from balancer.core.jsonl import read_jsonl
from balancer.core.run import RUNS, RunDir, RunRequest, lock_file, open_run
from balancer.core.saved_runs import (
    inner_runs,
    latest_run,
    resumed_config,
    resumed_or_new,
    resumed_path,
    saved_config,
)
from balancer.core.sealed import DamagedFile, write_json, write_yaml
from balancer.core.settings import GanTrainConfig, SynthesizeConfig
from balancer.core.signals import deferred_signals

CONFIG = GanTrainConfig(
    seed=3, steps=4000, z_dim=100, lr_generator=1e-4, lr_discriminator=2e-4, diffaugment=("cutout",)
)


def started(path: Path, config: GanTrainConfig = CONFIG, done: bool = False) -> Path:
    """A run that was started, and finished if asked."""
    with open_run("gan-train", config, RunRequest(out=path)) as run:
        write_json(run / "env.json", environment("gan-train", "cpu"))
        if done:
            run.finish()
    return path


def refusal(*args: object) -> str:
    with pytest.raises(BalancerError) as caught:
        open_run(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- directories


def test_a_new_run(runs_cwd: Path) -> None:
    with open_run("gan-train", CONFIG, RunRequest()) as run:
        assert run.path.parent == RUNS / "gan-train"
        assert yaml.safe_load((run / "config.yaml").read_text()) == CONFIG.model_dump(mode="json")
        assert not run.resumed
        run.metrics({"step": 1})
        logging.getLogger("balancer").warning("hear hear")
        assert not run.finished
        run.finish()
        assert run.finished
    assert read_jsonl(run / "metrics.jsonl") == [{"step": 1}]
    assert "WARNING hear hear" in (run / "log.txt").read_text()
    logging.getLogger("balancer").warning("after the end")
    assert "after the end" not in (run / "log.txt").read_text()


def test_the_name_tells_the_settings_apart(runs_cwd: Path) -> None:
    names = []
    for config in (CONFIG, CONFIG.model_copy(update={"seed": 4})):
        with open_run("gan-train", config, RunRequest()) as run:
            names.append(run.path.name)
    assert names[0].split("-")[-1] != names[1].split("-")[-1]


def test_the_same_run_twice_in_a_second_makes_two_folders(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module.time, "strftime", lambda *_: "20260101-000000")
    paths = []
    for _ in range(3):
        with open_run("gan-train", CONFIG, RunRequest(force=True)) as run:
            write_text(run / "mine.txt", str(len(paths)))
            paths.append(run.path)
    assert len(set(paths)) == 3
    assert [(path / "mine.txt").read_text() for path in paths] == ["0", "1", "2"]


def test_a_run_in_use_refuses_a_second_user(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run("gan-train", CONFIG, RunRequest(out=path)) as run:
        write_json(run / "env.json", environment("gan-train", "cpu"))
        assert "in use" in refusal("gan-train", CONFIG, RunRequest(resume=str(path)))
        assert "in use" in refusal("gan-train", CONFIG, RunRequest(out=path, force=True))
        assert (run / "config.yaml").exists(), "--force removed a run that is in use"
        other = "from balancer.core.run import *; from pathlib import Path; import sys; RunDir(Path(sys.argv[1]), True)"
        done = subprocess.run([sys.executable, "-c", other, str(path)], capture_output=True, text=True, timeout=60)
        assert "in use by another process" in done.stderr
    with open_run("gan-train", CONFIG, RunRequest(resume=str(path))) as run:
        assert run.resumed
    assert [p.name for p in tmp_path.iterdir()] == ["run"], "a lock was left behind"


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom balancer.core.run import RunDir\n"
        "run = RunDir(Path(sys.argv[1]), False)\nos._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], timeout=60).returncode == 9
    with RunDir(tmp_path / "run", resumed=False):
        pass


def test_leaving_does_not_remove_the_next_users_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes between release and removal would hold a lock that nobody else can see."""
    first = RunDir(tmp_path / "run", resumed=False)
    release, later = first._lock.release, []

    def release_and_let_another_in() -> None:
        release()
        later.append(RunDir(tmp_path / "run", resumed=False))

    monkeypatch.setattr(first._lock, "release", release_and_let_another_in)
    first.__exit__(None, None, None)
    with later[0], pytest.raises(BalancerError, match="in use"):
        RunDir(tmp_path / "run", resumed=False)


def test_leaving_removes_left_locks_of_steps_but_no_lock_in_use(tmp_path: Path) -> None:
    """Somebody may resume one step of a study while the study ends."""
    with RunDir(tmp_path / "study", resumed=False) as study:
        study.path.mkdir()
        left = lock_file(study.path / "killed")
        left.touch()
        step = RunDir(study.path / "step", resumed=False)
    assert not left.exists()
    with step, pytest.raises(BalancerError, match="in use"):
        RunDir(study.path / "step", resumed=False)
    assert list(study.path.iterdir()) == []


def test_out_may_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        assert (started(tmp_path / name) / "config.yaml").exists()


@pytest.mark.parametrize("force", [False, True])
def test_out_with_other_files_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds no run" in refusal("gan-train", CONFIG, RunRequest(out=tmp_path, force=force))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_out_of_a_process_killed_before_it_wrote_anything(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from balancer.core.files import temporary_path as t; t(pathlib.Path(sys.argv[1])).touch()"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "config.yaml"], check=True)
    assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    with open_run("gan-train", CONFIG, RunRequest(out=tmp_path)):
        assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "log.txt"]


@pytest.mark.parametrize("force", [False, True])
def test_out_with_the_config_of_another_program_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "config.yaml").write_text("chapters: 5\n")
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds no run" in refusal("gan-train", CONFIG, RunRequest(out=tmp_path, force=force))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "thesis.tex"]


def test_out_with_what_is_left_of_a_run(tmp_path: Path) -> None:
    """A killed start is begun again; beside other files, such as a copied config.yaml has, that takes --force."""
    started(tmp_path / "run")
    (tmp_path / "run" / "env.json").unlink()
    started(tmp_path / "run")
    (tmp_path / "run" / "env.json").unlink()
    (tmp_path / "run" / "notes.txt").touch()
    assert "--force" in refusal("gan-train", CONFIG, RunRequest(out=tmp_path / "run"))
    with open_run("gan-train", CONFIG, RunRequest(out=tmp_path / "run", force=True)) as run:
        assert not (run / "notes.txt").exists()


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert "is a file" in refusal("gan-train", CONFIG, RunRequest(out=tmp_path / "x", force=True))


def test_out_with_a_run_needs_force(tmp_path: Path) -> None:
    path = started(tmp_path / "run", done=True)
    (path / "generator.pt").touch()
    message = refusal("gan-train", CONFIG, RunRequest(out=path))
    assert "--resume" in message
    assert "--force" in message
    assert (path / "generator.pt").exists()
    with open_run("gan-train", GanTrainConfig(seed=9), RunRequest(out=path, force=True)) as run:
        assert not run.finished
        assert sorted(p.name for p in path.iterdir()) == ["config.yaml", "log.txt"]
        assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 9


# --- resume


@pytest.mark.parametrize(
    "explicit",
    [
        {},
        {"seed": 3},
        {"lr_generator": "1e-4"},  # so YAML reads it
        {"lr_generator": 0.0001, "lr_discriminator": "2e-4", "steps": 4000.0, "z_dim": "100"},
        {"diffaugment": ["cutout"]},
        {"diffaugment": ("cutout",)},
        {"diffaugment": "cutout"},
        {"data": {"image_size": CONFIG.data.image_size}},
        {"data": {}},
    ],
)
def test_what_is_unchanged_is_resumed(tmp_path: Path, explicit: dict) -> None:
    path = started(tmp_path / "run")
    assert resumed_config("gan-train", GanTrainConfig, path, explicit) == CONFIG


def test_what_is_changed_is_refused_and_listed(tmp_path: Path) -> None:
    path = started(tmp_path / "run")
    asked = {"seed": 3, "steps": 7, "data": {"image_size": 32, "resize": "squash"}, "diffaugment": []}
    with pytest.raises(BalancerError) as caught:
        resumed_config("gan-train", GanTrainConfig, path, asked)
    message = str(caught.value)
    assert "steps (saved 4000, asked 7)" in message
    assert f"data.image_size (saved {CONFIG.data.image_size}, asked 32)" in message
    assert "diffaugment (saved ['cutout'], asked [])" in message
    assert "seed" not in message
    assert "resize" not in message
    assert "\n" not in message


def test_an_unknown_or_senseless_setting_is_no_difference_but_a_mistake(tmp_path: Path) -> None:
    path = started(tmp_path / "run")
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        resumed_config("gan-train", GanTrainConfig, path, {"stepz": 7})
    with pytest.raises(UsageError, match="'steps'"):
        resumed_config("gan-train", GanTrainConfig, path, {"steps": "many"})


def test_only_a_run_of_the_command_is_resumed(tmp_path: Path) -> None:
    path = started(tmp_path / "run")
    with pytest.raises(BalancerError, match="holds a gan-train run; expected a synthesize run"):
        resumed_config("synthesize", SynthesizeConfig, path, {})
    for broken in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BalancerError, match="holds no gan-train run"):
            saved_config("gan-train", broken)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("config.yaml", content) for content in (b"", b"[1]", b"a: [", b"\xff\xfe\x00")),
        *(("env.json", content) for content in (b"", b"[]", b"\xff", b"{")),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path: Path, file: str, content: bytes) -> None:
    path = started(tmp_path / "run")
    (path / file).write_bytes(content)
    with pytest.raises(BalancerError, match=rf"holds no gan-train run|{file} is damaged") as caught:
        saved_config("gan-train", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "key"), [({"steps": "many"}, "steps"), ({"unheard_of": 1}, "unheard_of"), ({"data": 3}, "data")]
)
def test_settings_of_another_shape_name_file_and_key(change: dict, key: str, tmp_path: Path) -> None:
    path = started(tmp_path / "run")
    write_yaml(path / "config.yaml", yaml.safe_dump({**CONFIG.model_dump(mode="json"), **change}))
    with pytest.raises(DamagedFile, match=rf"config\.yaml is damaged: .*'{key}'") as caught:
        saved_config("gan-train", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("env", "key"), [({}, "command"), ({"command": 3}, "command")])
def test_an_environment_of_another_shape_names_file_and_key(env: dict, key: str, tmp_path: Path) -> None:
    path = started(tmp_path / "run")
    write_json(path / "env.json", env)
    with pytest.raises(DamagedFile, match=rf"env\.json is damaged: {key}"):
        saved_config("gan-train", path)


def aged(path: Path, seconds: int) -> None:
    for file in ("config.yaml", "done"):
        if (path / file).exists():
            os.utime(path / file, (seconds, seconds))


def test_latest_picks_the_newest_of_its_kind(runs_cwd: Path) -> None:
    assert latest_run("gan-train") is None
    with pytest.raises(BalancerError, match="no unfinished gan-train run"):
        resumed_path("gan-train", "latest")
    folder = RUNS / "gan-train"
    for name, second, done in [("z-old", 10, True), ("a-new", 20, True), ("m-newest", 15, True)]:
        aged(started(folder / name, done=done), second)
    aged(folder / "m-newest", 30)
    aged(started(folder / "b-unfinished"), 25)
    aged(started(folder / "c-unfinished"), 24)
    started(RUNS / "synthesize" / "other", done=True)
    (folder / "stray").mkdir()
    assert latest_run("gan-train") == folder / "m-newest"
    assert latest_run("gan-train", finished=False) == resumed_path("gan-train", "latest") == folder / "b-unfinished"
    assert resumed_path("gan-train", "some/where") == Path("some/where")


def test_resumed_or_new(runs_cwd: Path) -> None:
    fresh = GanTrainConfig(seed=8)
    assert resumed_or_new(GanTrainConfig, "gan-train", None, {"seed": 1}, lambda _explicit: fresh) is fresh
    started(RUNS / "gan-train" / "x")
    assert resumed_or_new(GanTrainConfig, "gan-train", "latest", {}, lambda _explicit: fresh) == CONFIG


def test_the_environment_is_json_and_says_what_ran(tmp_path: Path) -> None:
    write_json(tmp_path / "env.json", environment("gan-train", "cpu", data={"n": 1}))
    env = json.loads((tmp_path / "env.json").read_text())
    assert env["command"] == "gan-train"
    assert env["data"] == {"n": 1}
    assert env["versions"]["numpy"]
    commit = git_commit()
    assert env["git_commit"] == commit
    assert commit is None or len(commit.removesuffix("-dirty")) >= 12


# --- signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_and_a_second_acts_at_once(signum: signal.Signals) -> None:
    def terminate(number: int, _frame: object) -> None:
        raise Interrupted(number, "stopped")

    before = signal.signal(signal.SIGTERM, terminate)
    interrupt = signal.default_int_handler  # a shell starts background jobs with SIGINT ignored
    inherited = signal.signal(signal.SIGINT, interrupt)
    expected = KeyboardInterrupt if signum == signal.SIGINT else Interrupted
    reached = []

    def work() -> None:
        with deferred_signals() as received:
            assert received() is None
            os.kill(os.getpid(), signum)
            reached.append("after the first")
            assert received() == signum
            os.kill(os.getpid(), signum)
            time.sleep(1)  # cut short
            reached.append("after the second")

    try:
        with pytest.raises(expected):
            work()
        assert reached == ["after the first"]
        assert signal.getsignal(signal.SIGTERM) is terminate
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, inherited)


def test_either_signal_is_held_after_the_other() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)

    def work() -> None:
        with deferred_signals() as received:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert received() == signal.SIGTERM, "the first is the one reported"

    try:
        with pytest.raises(Interrupted, match="SIGTERM"):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_nobody_asked_for_is_raised_at_the_end() -> None:
    finished = []

    def work() -> None:
        with deferred_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            finished.append(True)

    with pytest.raises(Interrupted) as caught:
        work()
    assert finished
    assert caught.value.exit_code == 143


def test_without_signals_nothing_changes_and_threads_may_use_it() -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with deferred_signals() as received:
        assert received() is None
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    seen: list = []

    def work() -> None:
        with deferred_signals() as received:
            seen.append(received())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_interrupted_says_which_signal() -> None:
    assert Interrupted(signal.SIGINT, "saved").exit_code == 130
    assert Interrupted(signal.SIGTERM, "saved").exit_code == 143
    assert str(Interrupted(signal.SIGTERM, "state saved")) == "SIGTERM: state saved"
    sent = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM, "state saved")))  # by a worker
    assert (str(sent), sent.exit_code) == ("SIGTERM: state saved", 143)


def test_no_handler_of_errors_swallows_an_interrupt() -> None:
    assert not issubclass(Interrupted, Exception)


def test_the_saved_config_is_a_valid_one(tmp_path: Path) -> None:
    assert validate(GanTrainConfig, saved_config("gan-train", started(tmp_path / "run"))) == CONFIG


def test_force_never_replaces_a_run_of_another_command(runs_cwd: Path) -> None:
    """It may be the very run that this command reads."""
    with open_run("gan-train", resolve(GanTrainConfig, {}), RunRequest(out=Path("mine"))) as run:
        write_json(run / "env.json", {"command": "gan-train"})
    with pytest.raises(BalancerError, match="holds a gan-train run; expected a synthesize run"):
        open_run("synthesize", resolve(SynthesizeConfig, {}), RunRequest(out=Path("mine"), force=True))
    assert (Path("mine") / "config.yaml").exists()


def test_an_error_in_a_step_says_how_to_resume_the_run_that_it_is_a_step_of(tmp_path: Path) -> None:
    def work(run: RunDir) -> None:
        write_text(run / "begun.txt", "")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint.pt")

    prepared = run_module.PreparedRun("gan-train", CONFIG, "cpu", None, lambda: 0.0, work)
    step = RunRequest(tmp_path / "study" / "gan-0", part_of=tmp_path / "study")
    with pytest.raises(BalancerError, match=rf"No space left.*--resume {tmp_path}/study$"):
        run_module.perform(prepared, step)


def test_a_run_of_runs_names_those_that_it_holds(tmp_path: Path) -> None:
    for step, command in (("", "study"), ("size-50/gan-0", "gan-train"), ("size-50/ablation", "ablate")):
        (tmp_path / step).mkdir(parents=True, exist_ok=True)
        write_yaml(tmp_path / step / "config.yaml", "seed: 0\n")
        write_json(tmp_path / step / "env.json", environment(command, "cpu"))
    with pytest.raises(BalancerError, match=rf"a study run; expected a gan-train run; .*: {tmp_path}/size-50/gan-0$"):
        saved_config("gan-train", tmp_path)
    with pytest.raises(BalancerError, match=r"expected an audit run$"):
        saved_config("audit", tmp_path)
    assert inner_runs(tmp_path, "ablate", "train").endswith(f"{tmp_path}/size-50/ablation")
    assert not inner_runs(tmp_path / "size-50", "ablate"), "a folder that is no run may hold whatever it likes"


def test_a_run_directory_that_cannot_be_made_is_one_line(runs_cwd: Path) -> None:
    Path("file").touch()
    with pytest.raises(BalancerError, match="file: File exists; a file is in the way"):
        open_run("gan-train", resolve(GanTrainConfig, {}), RunRequest(out=Path("file/sub")))
