"""The command: which models it takes, which addresses, and what it refuses in one line."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from click.testing import Result
from commands import refused
from serving_helpers import CPU

from balancer.core.errors import BalancerError
from balancer.core.jsonl import append_jsonl
from classifier.analysis.reading import read_result
from classifier.serving.examples import from_folder
from classifier.serving.models import load_models
from classifier.serving.server import Address, _listen

Run = Callable[..., Result]
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def no_serving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let `classifier serve` end where it would begin to answer; returns the hosts."""
    import uvicorn

    started: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: started.append(sockets[0].getsockname()[0]))
    return started


def test_a_training_is_served(model_file: Path, classifier: Run, no_serving: list[str]) -> None:
    result = classifier("serve", model_file.parent, "--port", "0")
    assert result.exit_code == 0, result.output
    assert no_serving == ["127.0.0.1"]
    assert re.search(r"served baseline at http://127\.0\.0\.1:\d+", result.stdout)
    assert "Research only" in result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_addresses_need_a_token(host: str, model_file: Path, classifier: Run) -> None:
    refused(classifier("serve", model_file, "--host", host), 2, "--token", host)
    refused(classifier("serve", model_file, "--host", host, "--token", "short"), 2, "--token")


def test_a_token_opens_another_address(
    model_file: Path, classifier: Run, no_serving: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSIFIER_SERVE_TOKEN", "0123456789abcdef")
    result = classifier("serve", model_file, "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 0, result.output
    assert "not encrypted" in result.stderr
    assert "0123456789abcdef" not in result.output


def test_a_taken_port_is_one_line(model_file: Path, classifier: Run) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(classifier("serve", model_file, "--port", port), 1, f"127.0.0.1:{port}")


def test_answers_are_sent_at_once() -> None:
    """asyncio turns Nagle's algorithm off for what a listener accepts, but only if the listener names TCP."""
    listener = _listen(Address("127.0.0.1", 0, None))
    listener.listen()
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.proto == socket.IPPROTO_TCP


def test_bad_models_are_one_line(model_file: Path, classifier: Run, tmp_path: Path) -> None:
    flipped = bytearray(model_file.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    content = torch.load(model_file, weights_only=True)
    key = next(k for k, v in content["state"].items() if v.is_floating_point())
    content["state"][key].view(-1)[0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    torch.save({**content, "kind": "gan"}, tmp_path / "gan.pt")
    (tmp_path / "flipped.pt").write_bytes(flipped)
    (tmp_path / "text.pt").write_text("no model")
    for name in ("nan.pt", "gan.pt", "flipped.pt", "text.pt", "missing.pt"):
        refused(classifier("serve", tmp_path / name, "--port", "0"), 1, name)


def test_data_are_for_training_images(model_file: Path, classifier: Run, tmp_path: Path) -> None:
    refused(classifier("serve", model_file, "--data", tmp_path), 2, "--show-training")


def test_a_missing_extra_is_one_line(model_file: Path, classifier: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.serving.find_spec", lambda name: None if name == "uvicorn" else object())
    refused(classifier("serve", model_file), 1, "uvicorn", "[serve]")


@pytest.mark.nightly
def test_an_ablation_serves_each_regime(small_args: tuple[str, ...], classifier: Run, tmp_path: Path) -> None:
    """Its first trial of each regime, with the test figures of that trial."""
    run = tmp_path / "run"
    for regime, seed in (("baseline", 0), ("augment", 0), ("baseline", 1)):
        folder = run / "trials" / f"{regime}-{seed}"
        result = classifier("train", *small_args, "--regime", regime, "--seed", seed, "--out", folder)
        assert result.exit_code == 0, result.output
        (one,) = load_models([folder], CPU)
        assert one.facts.knows_training_data, "training writes the reference"
        trial = replace(read_result(folder), folder=f"trials/{regime}-{seed}")
        append_jsonl(run / "results.jsonl", trial.to_json())
        (folder / "result.json").unlink()
    models = load_models([run], CPU)
    assert [(m.name, m.facts.trial_seed) for m in models] == [("baseline", 0), ("augment", 0)]
    for model in models:
        assert model.facts.test is not None
        assert model.facts.test.images == 26
        assert load_models([model.path], CPU)[0].facts.test == model.facts.test
    shutil.copy(models[0].path, tmp_path / "model.pt")
    assert load_models([tmp_path / "model.pt"], CPU)[0].facts.test is None
    (run / "results.jsonl").write_text("")
    with pytest.raises(BalancerError, match="no finished trial"):
        load_models([run], CPU)


def test_examples_of_a_folder(template: Path, tmp_path: Path) -> None:
    examples = from_folder(template / "test", ["NORMAL", "PNEUMONIA"])
    assert [e.example.label for e in examples[:4]] == ["NORMAL", "PNEUMONIA"] * 2
    assert len(examples) == 12
    assert examples[0].read() == min((template / "test" / "NORMAL").iterdir()).read_bytes()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BalancerError, match="--examples"):
            from_folder(folder, [])


@pytest.mark.nightly
def test_a_signal_ends_the_service(model_file: Path) -> None:
    """As a process: it says where it listens, answers, and ends with the exit code of the signal."""
    code = "from balancer.core.start import classifier; classifier()"
    command = [sys.executable, "-c", code, "serve", str(model_file), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=dict(os.environ))
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.search(r"http://[\d.:]+", line)
        assert url is not None, line
        for _ in range(100):
            try:
                answer = httpx.get(f"{url[0]}/healthz", trust_env=False)
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        assert answer.json()["models"] == 1
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 143
        assert "Traceback" not in rest
    finally:
        process.kill()
